// The adjoint of the time loop on the CPU: recomputes the potentials instead of storing [T, N] of them.
//
// A block of neurons goes through segments of 128 steps, the last segment first: forward, keeping the state before each step, then backward.
// A block is so small that these states and its x stay in L2: x and ds are read once from memory, dx is written once. Where T is longer
// than a segment, a first run of the block finds the state before each segment, and x is read twice.
#pragma once
#include <memory>
#include <new>
#include <utility>

#include "multistep.h"

namespace snn::inline SNN_ISA {

constexpr int kSegment = 128;           // steps whose states are kept at a time
constexpr int64_t kStates = 256 << 10;  // bytes of states per block

// Per-neuron arrays of one block of the backward, each on cache lines of its own.
template <class S>
class Adjoint {
 public:
  int size;                // neurons per block, a multiple of 32
  S *v, *n;                // [segments, size]: the state before each segment; n only where the count gates the spikes
  S *before_v, *before_n;  // [min(T, kSegment), size]: the state before each step of the current segment
  S *c, *dx;               // [size]; dx is used for a constant current
  S* dtheta;               // [K, size], of K parameters
  S* zeros;                // [size]: stands for a row of ds where there is no ds

  Adjoint(const MultistepBwd& p, bool counts, int K) {
    const int64_t steps = std::min<int64_t>(p.T, kSegment), segments = (p.T + kSegment - 1) / kSegment;
    const int each = counts ? 2 : 1;
    size = int(std::clamp<int64_t>(kStates / (steps * each * int64_t(sizeof(S))) / kUnit * kUnit, 2 * kUnit, kBlock));
    memory_.reset(new (std::align_val_t(64)) S[((segments + steps) * each + 3 + K) * size]);
    S* at = memory_.get();
    auto take = [&](int64_t rows) { return std::exchange(at, at + rows * size); };
    v = take(segments);
    before_v = take(steps);
    n = counts ? take(segments) : nullptr;
    before_n = counts ? take(steps) : nullptr;
    c = take(1), dtheta = take(K), dx = take(1), zeros = take(1);
    std::fill(zeros, zeros + size, S(0));
  }

 private:
  struct Free {
    void operator()(S* p) const { ::operator delete[](p, std::align_val_t(64)); }
  };
  std::unique_ptr<S[], Free> memory_;
};

// Runs R <= kSteps steps of one unit forward from the block's state. Keeps the state before each step in rows r, r + 1, ... x: [R, 32].
template <class E, class X, class K>
SNN_HD void recompute_unit(const K& k, Block<Acc<X>, E::parameters>& b, Adjoint<Acc<X>>& a, int unit, int r, int R, const X* x, int64_t xs) {
  using S = Acc<X>;
  using V = Lane<S>;
  constexpr int W = kWidth<S>, J = kUnit / W;
  const int o = unit * kUnit;
  S* before_v = a.before_v + r * a.size + o;
  S* before_n = E::counts ? a.before_n + r * a.size + o : nullptr;
  V v[J], n[J];
  Own<E, V> own[J];
#pragma GCC unroll 16
  for (int j = 0; j < J; ++j) {
    v[j] = load(b.v + o + j * W);
    n[j] = E::counts ? load(b.n + o + j * W) : V{};
    own[j] = own_at<E>(b, o + j * W);
  }
#pragma GCC unroll 1
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) {
      store(before_v + i * a.size + j * W, v[j], false);
      if constexpr (E::counts) store(before_n + i * a.size + j * W, n[j], false);
      E::step(v[j], n[j], load(x + i * xs + j * W), own[j], k);
    }
#pragma GCC unroll 16
  for (int j = 0; j < J; ++j) {
    store(b.v + o + j * W, v[j], false);
    if constexpr (E::counts) store(b.n + o + j * W, n[j], false);
  }
}

// Runs R <= kSteps steps of one unit backward, the last step first, with its gradients in registers. at: the first neuron of the unit; r: the row of
// before_v and before_n for the first step; x, ds: [R, 32]; dx: [R, 32] to write, or null for a constant current, whose dx is summed.
template <class E, class X, class K>
SNN_HD void adjoint_unit(const K& k, Block<Acc<X>, E::parameters>& b, Adjoint<Acc<X>>& a, int at, int r, int R, const X* x, int64_t xs, const X* ds,
                         int64_t dss, X* dx, int64_t dxs, bool stream) {
  using V = Lane<Acc<X>>;
  using I = typename LaneOf<Acc<X>>::I;
  constexpr int W = kWidth<Acc<X>>, J = kUnit / W, each = 2;
#pragma GCC unroll 1
  for (int first = 0; first < J; first += each) {
    V c[each];
    Own<E, V> share[each], own[each];
#pragma GCC unroll 2
    for (int j = 0; j < each; ++j) {
      const int i = at + (first + j) * W;
      c[j] = load(a.c + i), own[j] = own_at<E>(b, i);
#pragma GCC unroll 4
      for (int q = 0; q < E::parameters; ++q) part(share[j], q) = load(a.dtheta + q * a.size + i);
    }
#pragma GCC unroll 1
    for (int step = R - 1; step >= 0; --step)
#pragma GCC unroll 2
      for (int j = 0; j < each; ++j) {
        const int o = (first + j) * W, i = at + o;
        const Acc<X>* v = a.before_v + (r + step) * a.size + i;
        V dy = load(ds + step * dss + o), n{};
        if constexpr (E::counts) n = load(a.before_n + (r + step) * a.size + i);
        if (b.masked) dy = reinterpret_cast<V>(reinterpret_cast<I>(dy) & b.mask[i / W]);
        const V d = E::step_bwd(c[j], share[j], dy, load(v), n, load(x + step * xs + o), own[j], k);
        if (dx) store(dx + step * dxs + o, d, stream);
        else store(a.dx + i, load(a.dx + i) + d, false);
      }
#pragma GCC unroll 2
    for (int j = 0; j < each; ++j) {
      const int i = at + (first + j) * W;
      store(a.c + i, c[j], false);
#pragma GCC unroll 4
      for (int q = 0; q < E::parameters; ++q) store(a.dtheta + q * a.size + i, part(share[j], q), false);
    }
  }
}

// Runs a segment of the block forward, then backward a few rows at a time: with `stream`, rows of dx are written past the
// cache, which is fastest with few rows open.
template <class E, class X, class K>
void segment_block(const MultistepBwd& p, const K& k, Block<Acc<X>, E::parameters>& b, Adjoint<Acc<X>>& a, int64_t segment, int64_t first, int count,
                   bool stream) {
  const int64_t t = segment * kSegment, xs = p.x_stride, dss = p.ds ? p.ds_stride : 0;
  const int R = int(std::min<int64_t>(kSegment, p.T - t));
  const X* x = static_cast<const X*>(p.x) + t * xs + first;
  const X* ds = p.ds ? static_cast<const X*>(p.ds) + t * dss + first : reinterpret_cast<const X*>(a.zeros);
  X* dx = p.constant ? nullptr : static_cast<X*>(p.dx) + t * p.N + first;
  const int rest = count % kUnit, units = (count + kUnit - 1) / kUnit, whole = rest ? units - 1 : units, o = whole * kUnit;
  X xb[kSegment * kUnit], db[kSteps * kUnit];  // padded copies for the ragged last unit
  alignas(64) X yb[kSteps * kUnit];
  if (rest) std::fill(xb, xb + R * kUnit, X(0)), std::fill(db, db + kSteps * kUnit, X(0));
  const int padded = units * kUnit;
  std::memcpy(b.v, a.v + segment * a.size, sizeof(Acc<X>) * padded);
  if (E::counts) std::memcpy(b.n, a.n + segment * a.size, sizeof(Acc<X>) * padded);
  for (int r = 0; rest && r < R; ++r) std::memcpy(xb + r * kUnit, x + o + r * xs, sizeof(X) * rest);
  for (int r = 0; r < R; r += kSteps)
    for (int unit = 0; unit < units; ++unit) {
      const X* from = unit == whole ? xb + r * kUnit : x + r * xs + unit * kUnit;
      if (unit < whole && r + 2 * kSteps <= R && xs)
        for (int i = kSteps; i < 2 * kSteps; ++i)
          for (int line = 0; line < kUnit * int(sizeof(X)); line += 64) __builtin_prefetch(reinterpret_cast<const char*>(from + i * xs) + line);
      recompute_unit<E>(k, b, a, unit, r, std::min(kSteps, R - r), from, unit == whole ? kUnit : xs);
    }
  const int steps = stream ? steps_per_load(Spikes::scaled) : kSteps;
  for (int r = R, many; r > 0;) {
    many = std::min(steps, r), r -= many;
    const X *xr = x + r * xs, *dr = ds + r * dss;
    X* to = dx ? dx + r * p.N : nullptr;
    for (int unit = 0; unit < whole; ++unit) {
      const int at = unit * kUnit;
      adjoint_unit<E>(k, b, a, at, r, many, xr + at, xs, dr + at, dss, to ? to + at : nullptr, p.N, stream);
    }
    if (!rest) continue;
    for (int i = 0; i < many; ++i) std::memcpy(db + i * kUnit, dr + i * dss + o, sizeof(X) * rest);
    adjoint_unit<E>(k, b, a, o, r, many, xb + r * kUnit, kUnit, db, kUnit, to ? yb : nullptr, kUnit, false);
    for (int i = 0; to && i < many; ++i) std::memcpy(to + i * p.N + o, yb + i * kUnit, sizeof(X) * rest);
  }
}

// dx of a constant current: the sum over time, rounded once.
template <class X>
inline void store_sum(X* dx, const Acc<X>* sum, int count) {
  constexpr int W = kWidth<Acc<X>>;
  int i = 0;
  for (; i + W <= count; i += W) store(dx + i, load(sum + i), false);
  X last[W];
  if (i < count) {
    store(last, load(sum + i), false);
    std::memcpy(dx + i, last, sizeof(X) * (count - i));
  }
}

template <class E, class X, class K>
inline void run_block_bwd(const MultistepBwd& p, const K& k, Adjoint<Acc<X>>& a, int64_t first, int count, bool stream) {
  using S = Acc<X>;
  constexpr int W = kWidth<S>;
  constexpr int P = E::parameters;
  Block<S, P> b;
  begin<E>(b, p, k, first, count);
  MultistepFwd f{};
  static_cast<Multistep&>(f) = p;
  const int padded = (count + kUnit - 1) / kUnit * kUnit;
  const int64_t segments = (p.T + kSegment - 1) / kSegment;
  for (int64_t i = 0, t = 0; i < segments; ++i) {
    std::memcpy(a.v + i * a.size, b.v, sizeof(S) * padded);
    if (E::counts) std::memcpy(a.n + i * a.size, b.n, sizeof(S) * padded);
    if (i + 1 == segments) break;
    for (; t < (i + 1) * kSegment; t += kSteps) run_steps<E, X, Spikes::count>(f, k, b, first, count, t, kSteps, false);
  }
  std::fill(a.c, a.c + padded, S(0));
  if (p.dv) std::memcpy(a.c, static_cast<const S*>(p.dv) + first, sizeof(S) * count);
  std::fill(a.dtheta, a.dtheta + P * a.size, S(0));
  std::fill(a.dx, a.dx + padded, S(0));
  for (int64_t i = segments - 1; i >= 0; --i) segment_block<E, X>(p, k, b, a, i, first, count, stream);
  fence(stream);
  if (!p.v)
    for (int i = 0; i < padded; i += W) store(a.dtheta + i, load(a.dtheta + i) + E::start_bwd(load(a.c + i), S(p.v0), k), false);
  std::memcpy(static_cast<S*>(p.dv_start) + first, a.c, sizeof(S) * count);
  for (int q = P - p.asked, row = 0; q < P; ++q, ++row)
    std::memcpy(static_cast<S*>(p.dtheta) + row * p.N + first, a.dtheta + q * a.size, sizeof(S) * count);
  if (p.constant) store_sum(static_cast<X*>(p.dx) + first, a.dx, count);
}

// Neurons [first, end); first is a multiple of 32.
template <template <bool> class E>
void multistep_bwd(const MultistepBwd& p, int64_t first, int64_t end) {
  with_dtype(p.dtype, [&](auto x) {
    using X = typename decltype(x)::type;
    const int64_t row = p.N * int64_t(sizeof(X));
    const bool stream = p.T * row > kStreamBytes && row % 64 == 0 && reinterpret_cast<uintptr_t>(p.dx) % 64 == 0;
    with(p.is_signed, [&](auto is_signed) {
      using Eq = E<is_signed()>;
      Adjoint<Acc<X>> a(p, Eq::counts, Eq::parameters);
      Eq::template with_numbers<Acc<X>, Narrow::plain, false>(p.rule, [&](const auto& k) {
        for (int64_t i = first; i < end; i += a.size) run_block_bwd<Eq, X>(p, k, a, i, int(std::min<int64_t>(a.size, end - i)), stream);
      });
    });
  });
}

}  // namespace snn
