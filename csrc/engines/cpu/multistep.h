// The time loop on the CPU. A neuron's equation E gives start, step, step_bwd on lanes; this file handles memory and order.
//
// Neurons are taken in blocks whose state stays in L1. Within a block, each load of the state serves up to four time steps. A unit is 32 neurons.
// x is read once, row by row. The spikes are written once; fp32 and int8 spikes of more than kStreamBytes go past the cache.
#pragma once
#include <algorithm>

#include "../../equations/narrow.h"
#include "../../equations/parameters.h"
#include "../../params.h"
#include "../../switch.h"
#include "../../dtype.h"
#include "kernels.h"
#include "simd.h"
#include "spread.h"

namespace snn::inline SNN_ISA {

constexpr int kBlock = 2048;  // neurons whose state stays in L1
constexpr int kSteps = 4;     // time steps per load of the state, at most

// Writes past the cache are fastest with few rows open at a time. Where one store fills a cache line, two rows of the widest results were best on a
// processor that stores 64 bytes at once (Zen 5: 1.13 of a copy with four rows, 0.98 with two). Four rows were best on a processor that stores 64
// bytes in halves (Zen 4: 1.06 of a copy with two rows, 0.87 with four).
inline int steps_per_load(Spikes kind) {
  if (kBytes == 64) return kind == Spikes::scaled && !stores_in_halves() ? 2 : kSteps;
  return kind == Spikes::scaled ? 2 : kind == Spikes::int8 ? 1 : kSteps;
}

// Per-neuron numbers of one block: the state v and n, and K parameters, of which theta is the first.
template <class S, int K>
struct Block {
  alignas(64) S v[kBlock];
  alignas(64) S n[kBlock];
  alignas(64) S theta[K][kBlock];
  alignas(64) typename LaneOf<S>::I mask[kBlock / kWidth<S>];  // all ones where the neuron may emit
  bool masked;
};

// The parameters of the neurons from i on.
template <class E, class S>
SNN_HD Own<E, Lane<S>> own_at(Block<S, E::parameters>& b, int i) {
  Own<E, Lane<S>> own;
#pragma GCC unroll 4
  for (int q = 0; q < E::parameters; ++q) part(own, q) = load(b.theta[q] + i);
  return own;
}

template <class S, int K>
inline void fill_mask(Block<S, K>& b, const bool* mask, int64_t first, int count) {
  constexpr int W = kWidth<S>;
  using I = typename LaneOf<S>::I;
  for (int j = 0; j < (count + W - 1) / W; ++j) {
    I m{};
    for (int i = 0; i < W && j * W + i < count; ++i) m[i] = mask[first + j * W + i] ? -1 : 0;
    b.mask[j] = m;
  }
}

// to[i] = from[i] for whole numbers, in a loop that the compiler vectorises. The state is read and written once per call, and that
// cost matters where T is small.
template <class To, class From>
inline void convert(To* __restrict to, const From* __restrict from, int count) {
  for (int i = 0; i < count; ++i) to[i] = To(from[i]);
}

// The net spikes of this call: n after the call minus `before` (null: 0). 0 where the mask lets nothing through (null: no mask).
template <class S>
inline void net_spikes(int32_t* __restrict net, const S* __restrict n, const int32_t* __restrict before, const bool* __restrict mask, int count) {
  convert(net, n, count);
  if (before)
    for (int i = 0; i < count; ++i) net[i] -= before[i];
  if (mask)
    for (int i = 0; i < count; ++i) net[i] = mask[i] ? net[i] : 0;
}

// Loads the parameters, the mask and the state before the first step. The neurons from `count` up to `padded` get a harmless state.
template <class E, class S, class K>
inline void begin(Block<S, E::parameters>& b, const Multistep& p, const K& k, int64_t first, int count) {
  constexpr int W = kWidth<S>;
  const int padded = (count + kUnit - 1) / kUnit * kUnit;
  for (int q = 0; q < E::parameters; ++q) {
    if (p.C > 1) spread(b.theta[q], p, first, count, q);
    std::fill(b.theta[q] + (p.C > 1 ? count : 0), b.theta[q] + padded, p.C > 1 ? S(1) : static_cast<const S*>(p.theta)[q]);
  }
  b.masked = p.mask;
  if (p.mask) fill_mask(b, p.mask, first, count);
  if (p.v) {
    std::memcpy(b.v, static_cast<const S*>(p.v) + first, sizeof(S) * count);
    std::fill(b.v + count, b.v + padded, S(0));
  } else {
    for (int i = 0; i < padded; i += W) store(b.v + i, E::start(S(p.v0), own_at<E>(b, i), k), false);
  }
  std::fill(b.n + (p.count ? count : 0), b.n + padded, S(0));
  if (!p.count) return;
  if (p.remembers) std::memcpy(b.n, static_cast<const S*>(p.count) + first, sizeof(S) * count);
  else convert(b.n, static_cast<const int32_t*>(p.count) + first, count);
}

// Runs R steps of one unit, its state in registers. x: [R, 32] at stride xs; out: R rows at stride os.
template <class E, class X, Spikes kind, class K>
SNN_HD void run_unit(const K& k, Block<Acc<X>, E::parameters>& b, int unit, int64_t R, const X* x, int64_t xs, typename Element<kind, X>::type* out,
                     int64_t os, int64_t plane, bool unit_spikes, bool stream) {
  using S = Acc<X>;
  using V = Lane<S>;
  using I = typename LaneOf<S>::I;
  constexpr int W = kWidth<S>, J = kUnit / W;
  const int o = unit * kUnit;
  V v[J], n[J];
  Own<E, V> own[J];
#pragma GCC unroll 16
  for (int j = 0; j < J; ++j) {
    v[j] = load(b.v + o + j * W);
    n[j] = load(b.n + o + j * W);
    own[j] = own_at<E>(b, o + j * W);
  }
#pragma GCC unroll 1
  for (int64_t r = 0; r < R; ++r) {
    V s[J];
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) s[j] = E::step(v[j], n[j], load(x + r * xs + j * W), own[j], k);
    if (kind != Spikes::count && b.masked)
#pragma GCC unroll 16
      for (int j = 0; j < J; ++j) s[j] = reinterpret_cast<V>(reinterpret_cast<I>(s[j]) & b.mask[unit * J + j]);
    if constexpr (kind == Spikes::scaled)
#pragma GCC unroll 16
      for (int j = 0; j < J; ++j) store(out + r * os + j * W, unit_spikes ? s[j] : s[j] * part(own[j], 0), stream);
    if constexpr (kind == Spikes::int8) store_int8(out + r * os, s, stream);
    if constexpr (kind == Spikes::bits) {
      out[r * os] = pack_positive(s);
      if constexpr (E::counts) out[r * os + plane] = pack_negative(s);
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < J; ++j) {
    store(b.v + o + j * W, v[j], false);
    store(b.n + o + j * W, n[j], false);
  }
}

// R steps from step t of every unit of the block.
template <class E, class X, Spikes kind, class K>
void run_steps(const MultistepFwd& p, const K& k, Block<Acc<X>, E::parameters>& b, int64_t first, int count, int64_t t, int64_t R, bool stream) {
  using Y = typename Element<kind, X>::type;
  constexpr bool bits = kind == Spikes::bits, rows = kind == Spikes::scaled || kind == Spikes::int8;
  const int64_t W = (p.N + kUnit - 1) / kUnit, os = bits ? W : p.N, plane = p.T * W, xs = p.x_stride;
  const X* x = static_cast<const X*>(p.x) + t * xs + first;
  Y* out = static_cast<Y*>(p.s) + (kind == Spikes::count ? 0 : t * os + first / (bits ? kUnit : 1));
  const int64_t ahead = t + 2 * R <= p.T ? R * xs : 0;
  const int rest = count % kUnit, units = (count + kUnit - 1) / kUnit;
  X xb[kSteps * kUnit];  // the ragged last unit goes through padded copies, so that there is one path of arithmetic
  alignas(64) Y yb[kSteps * kUnit];
  for (int unit = 0; unit < units; ++unit, x += kUnit, out += bits ? 1 : kUnit) {
    if (ahead)
      for (int r = 0; r < R; ++r)
        for (int line = 0; line < kUnit * int(sizeof(X)); line += 64) __builtin_prefetch(reinterpret_cast<const char*>(x + ahead + r * xs) + line);
    const bool ragged = rest && unit + 1 == units;
    if (ragged) {
      std::memset(xb, 0, sizeof xb);
      for (int r = 0; r < (xs ? R : 1); ++r) std::memcpy(xb + r * kUnit, x + r * xs, sizeof(X) * rest);
    }
    const bool copy = ragged && rows;
    run_unit<E, X, kind>(k, b, unit, R, ragged ? xb : x, ragged && xs ? kUnit : xs, copy ? yb : out, copy ? kUnit : os, plane, p.unit, stream);
    if (!ragged) continue;
    if constexpr (rows)
      for (int r = 0; r < R; ++r) std::memcpy(out + r * os, yb + r * kUnit, sizeof(Y) * rest);
    if constexpr (bits) {
      const uint32_t inside = (1u << rest) - 1;
      for (int r = 0; r < R; ++r) {
        out[r * os] &= inside;
        if constexpr (E::counts) out[r * os + plane] &= inside;
      }
    }
  }
}

template <class E, class X, Spikes kind, class K>
void run_block(const MultistepFwd& p, const K& k, int64_t first, int count) {
  using S = Acc<X>;
  Block<S, E::parameters> b;
  begin<E>(b, p, k, first, count);
  const int64_t bytes = p.T * p.N * (kind == Spikes::scaled ? sizeof(X) : 1), row = p.N * (kind == Spikes::scaled ? sizeof(X) : 1);
  const bool stream =
      (kind == Spikes::scaled || kind == Spikes::int8) && bytes > kStreamBytes && row % 64 == 0 && reinterpret_cast<uintptr_t>(p.s) % 64 == 0;
  // With a constant current and spikes that are only counted, the steps need no memory in between.
  const int64_t R = kind == Spikes::count && p.x_stride == 0 ? p.T : steps_per_load(kind);
  for (int64_t t = 0; t < p.T; t += R) run_steps<E, X, kind>(p, k, b, first, count, t, std::min(R, p.T - t), stream);
  fence(stream);
  std::memcpy(static_cast<S*>(p.v_end) + first, b.v, sizeof(S) * count);
  if constexpr (kind == Spikes::count) {
    const auto* before = static_cast<const int32_t*>(p.count);
    net_spikes(static_cast<int32_t*>(p.s) + first, b.n, before ? before + first : nullptr, p.mask ? p.mask + first : nullptr, count);
  }
  // Last, because count_end may be count.
  if (p.remembers) std::memcpy(static_cast<S*>(p.count_end) + first, b.n, sizeof(S) * count);
  else convert(static_cast<int32_t*>(p.count_end) + first, b.n, count);
}

// Neurons [first, end); first is a multiple of 32.
template <template <bool> class E>
void multistep_fwd(const MultistepFwd& p, int64_t first, int64_t end) {
  with_dtype(p.dtype, [&](auto x) {
    using X = typename decltype(x)::type;
    with(p.spikes, [&](auto kind) {
      with(p.is_signed, [&](auto is_signed) {
        using Eq = E<is_signed()>;
        Eq::template with_numbers<Acc<X>, Narrow::plain, true>(p.rule, [&](const auto& k) {
          for (int64_t i = first; i < end; i += kBlock) run_block<Eq, X, kind()>(p, k, i, int(std::min<int64_t>(kBlock, end - i)));
        });
      });
    });
  });
}

}  // namespace snn
