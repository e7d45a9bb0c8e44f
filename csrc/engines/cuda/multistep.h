// The time loop on CUDA. A thread takes `many` neighbouring neurons through all T steps, their state in registers.
//
// Memory-bound: x is read once and the spikes are written once, in words of 16 bytes where all rows allow them. Two batches of rows are
// in registers: one is used while all of the next is in flight. Where neurons are too few to fill the chip with such words, a thread takes one
// neuron and keeps more rows in flight. T, N, C and the strides are run-time numbers.
#pragma once
#include "../../dtype.h"
#include "../../equations/narrow.h"
#include "../../params.h"
#include "../../switch.h"
#include "lane.h"
#include "launch.h"
#include "pattern.h"

namespace snn::inline SNN_ISA {

constexpr int kThreads = 256;  // of a block, at most

// Neurons per thread in 16-byte words of x; in fp64 one neuron.
template <class X> constexpr int kWide = sizeof(X) == 8 ? 1 : 16 / int(sizeof(X));
// Rows of x that are fetched together while the same number of earlier rows is used; a divisor or a multiple of kEvery. Rules with many branches
// have long steps, and long steps hide the latency themselves.
template <class X, int many, bool brief> constexpr int kBatch = many > 1 ? 4 : !brief ? 8 : sizeof(X) == 4 ? 32 : 16;

// The state of a thread's `many` neurons, from neuron i on. Neurons beyond N emit nothing.
template <class E, class S, int many>
struct Neurons {
  Lanes<S, many> v, n{}, first;
  bool on[many];  // whether neuron j emits its spikes

  template <class K>
  __device__ __forceinline__ Neurons(const MultistepFwd& p, const OwnLanes<E, S, many>& own, const K& k, int64_t i, bool inside) {
    Lanes<int32_t, many> net{};
    if (p.v) v = load_lanes<many>(static_cast<const S*>(p.v) + i);
    if (E::counts && p.count && k.memory) n = load_lanes<many>(static_cast<const S*>(p.count) + i);
    else if (p.count) net = load_lanes<many>(static_cast<const int32_t*>(p.count) + i);
#pragma unroll
    for (int j = 0; j < many; ++j) {
      if (!p.v) v.e[j] = E::start(S(p.v0), own[j], k);
      n.e[j] = n.e[j] + S(net.e[j]);
      on[j] = inside && (!p.mask || p.mask[i + j]);
    }
    first = n;
  }
  // The masked spike of neuron j.
  template <class O, class K>
  __device__ __forceinline__ S step(int j, S x, const O& own, const K& k) {
    return where(on[j], E::step(v.e[j], n.e[j], x, own, k), S(0));
  }
  template <class K>
  __device__ __forceinline__ void leave(const MultistepFwd& p, const K& k, int64_t i) const {
    store_lanes(static_cast<S*>(p.v_end) + i, v);
    if (E::counts && k.memory) {
      store_lanes(static_cast<S*>(p.count_end) + i, n);
    } else {
      Lanes<int32_t, many> net;
#pragma unroll
      for (int j = 0; j < many; ++j) net.e[j] = int32_t(n.e[j]);
      store_lanes(static_cast<int32_t*>(p.count_end) + i, net);
    }
  }
};

// The word of 32 neurons that contains this thread's `many` bits. Every thread of the warp must call this function.
template <int many>
__device__ __forceinline__ uint32_t word_of(uint32_t bits, int lane) {
  if constexpr (many == 1) {
    return __ballot_sync(~0u, bits);
  } else {
    constexpr int sharing = 32 / many;
    bits <<= many * (lane % sharing);
#pragma unroll
    for (int m = 1; m < sharing; m *= 2) bits |= __shfl_xor_sync(~0u, bits, m);
    return bits;
  }
}

// Writes the masked spikes s of one step. out: this thread's place in the row; plane: offset from the positive to the negative spikes of `bits`.
template <class E, Spikes kind, class X, int many, class S>
__device__ __forceinline__ void emit(typename Element<kind, X>::type* out, const Lanes<S, many>& s, const Lanes<S, many>& theta, bool unit, int lane,
                                     bool writes, int64_t plane) {
  if constexpr (kind == Spikes::scaled) {
    Pack<X, many> y;
#pragma unroll
    for (int j = 0; j < many; ++j) y.e[j] = narrow<X>(unit ? s.e[j] : s.e[j] * theta.e[j]);
    store_once(out, y);
  } else if constexpr (kind == Spikes::int8) {
    Pack<int8_t, many> y;
    if constexpr (many % 4 == 0 && !E::levels) {
      uint32_t* words = reinterpret_cast<uint32_t*>(&y);
#pragma unroll
      for (int j = 0; j < many; j += 4) words[j / 4] = spike_bytes<E::counts>(s.e[j], s.e[j + 1], s.e[j + 2], s.e[j + 3]);
    } else {
#pragma unroll
      for (int j = 0; j < many; ++j) y.e[j] = spike_byte<E>(s.e[j]);
    }
    store_once(out, y);
  } else if constexpr (kind == Spikes::bits) {
    uint32_t up = 0, down = 0;
#pragma unroll
    for (int j = 0; j < many; ++j) {
      up |= uint32_t(s.e[j] > S(0)) << j;
      down |= uint32_t(s.e[j] < S(0)) << j;
    }
    up = word_of<many>(up, lane);
    if constexpr (E::counts) down = word_of<many>(down, lane);
    if (writes) {
      __stcs(out, up);
      if constexpr (E::counts) __stcs(out + plane, down);
    }
  }
}

// The least number of blocks of kThreads that a multiprocessor must hold: three for words of floats and short steps, which 80 registers hold.
template <class X, int many, bool brief> constexpr int kBlocks = many == 4 && brief ? 3 : 2;

// Only the kernels that training uses are also compiled for the rules of training. For doubles no rule is worth the code.
template <class X, Spikes kind = Spikes::scaled>
constexpr Narrow kNarrow = sizeof(X) == 8           ? Narrow::none
                           : kind == Spikes::scaled ? Narrow::trained
                                                    : Narrow::plain;

template <class E, class X, Spikes kind, int many, class K>
__global__ void __launch_bounds__(kThreads, kBlocks<X, many, K::brief>)
    multistep_fwd_kernel(const __grid_constant__ MultistepFwd p, const __grid_constant__ Pattern pattern, const K k) {
  using S = Acc<X>;
  using Y = typename Element<kind, X>::type;
  constexpr bool bits = kind == Spikes::bits;
  constexpr int batch = kBatch<X, many, K::brief>;
  const int64_t mine = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * many, W = (p.N + 31) / 32;
  const bool inside = mine < p.N;  // then all `many` are: N is a multiple of it
  if (!bits && !inside) return;
  const int64_t i = inside ? mine : 0;  // threads outside go on, because the words of `bits` need the whole warp
  const int lane = threadIdx.x % 32, T = int(p.T);
  const X* x = static_cast<const X*>(p.x) + i;
  const bool constant = p.x_stride == 0;
  Pack<X, many> now[batch], next[batch];
  const auto fetch = [&](Pack<X, many>* to, int rows) {
    if (rows >= batch) {  // without predicates, so that all are issued before the first is waited for
#pragma unroll
      for (int r = 0; r < batch; ++r) to[r] = load_once<X, many>(x + r * p.x_stride);
    } else {
#pragma unroll
      for (int r = 0; r < batch; ++r)
        if (r < rows) to[r] = load_once<X, many>(x + r * p.x_stride);
    }
    x += batch * p.x_stride;
  };
  fetch(now, constant ? 1 : T);  // first, because the code below has loads of its own to wait for
  const OwnLanes<E, S, many> own(static_cast<const S*>(p.theta), pattern, i);
  Neurons<E, S, many> neurons(p, own, k, i, inside);
  Y* out = static_cast<Y*>(p.s) + (bits ? mine / 32 : i);
  const int64_t row = bits ? W : p.N, plane = p.T * W;
  const bool writes = mine / 32 < W && lane % (32 / many) == 0;
  S* kept = static_cast<S*>(p.kept) + i;

  auto one_step = [&](const Pack<X, many>& current) {
    Lanes<S, many> s;
#pragma unroll
    for (int j = 0; j < many; ++j) s.e[j] = neurons.step(j, widen(current.e[j]), own[j], k);
    emit<E, kind, X, many>(out, s, own.row[0], p.unit, lane, writes, plane);
    if constexpr (kind != Spikes::count) out += row;
  };
  auto keep = [&] {
    store_lanes(kept, neurons.v);
    if constexpr (E::counts) store_lanes(kept + p.N, neurons.n);
    kept += (E::counts ? 2 : 1) * p.N;
  };

  if (constant) {
#pragma unroll 1
    for (int t = 0; t < T; ++t) {
      if (p.kept && inside && t % kEvery == 0) keep();
      one_step(now[0]);
    }
  } else {
#pragma unroll 1
    for (int t = 0; t < T; t += batch) {
      fetch(next, T - t - batch);
      const auto use = [&](auto whole) {
#pragma unroll
        for (int r = 0; r < batch; ++r)
          if (decltype(whole)::value || t + r < T) {
            if (r % kEvery == 0 && p.kept && inside && (batch % kEvery == 0 || t % kEvery == 0)) keep();
            one_step(late(now[r]));
          }
      };
      if (t + batch <= T) use(Constant<true>{});
      else use(Constant<false>{});
#pragma unroll
      for (int r = 0; r < batch; ++r) now[r] = next[r];
    }
  }

  if (!inside) return;
  neurons.leave(p, k, i);
  if constexpr (kind == Spikes::count) {
    Lanes<int32_t, many> net;
#pragma unroll
    for (int j = 0; j < many; ++j) net.e[j] = neurons.on[j] ? int32_t(neurons.n.e[j] - neurons.first.e[j]) : 0;
    store_lanes(out, net);
  }
}

// Whether the rows lie on whole words, so that a thread may take `many` neurons at a time. The words have 16 bytes in every array but int8 spikes,
// whose rows are shorter.
template <class X>
bool in_words(const MultistepFwd& p) {
  constexpr int many = kWide<X>;
  return p.N % many == 0 && p.x_stride % many == 0 && on_words({p.x, p.s, p.v, p.v_end, p.count, p.count_end, p.kept});
}

}  // namespace snn
