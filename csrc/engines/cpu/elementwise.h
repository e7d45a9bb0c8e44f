// The element-wise engine on the CPU. An activation A gives fwd and bwd on lanes.
//
// The backward sums dtheta in two stages of fixed order, so that dtheta depends neither on the threads nor on the instruction set. Stage one
// sums each tile into one number per threshold: in 32 interleaved partial sums that are joined in a fixed order, or one element after the other
// where runs of a threshold are shorter than 32. Stage two adds the tiles in order.
#pragma once
#include <algorithm>

#include "../../params.h"
#include "../../switch.h"
#include "../../dtype.h"
#include "simd.h"
#include "spread.h"
#include "tiles.h"

namespace snn::inline SNN_ISA {

// Calls f(i, many) for each lane of elements [i, i + many); the last may be short.
template <class S, class F>
SNN_HD void lanes(int count, const F& f) {
  constexpr int W = kWidth<S>;
  int i = 0;
  for (; i + W <= count; i += W) f(i, W);
  if (i < count) f(i, count - i);
}

template <class X>
SNN_HD Lane<Acc<X>> load_part(const X* p, int many) {
  constexpr int W = kWidth<Acc<X>>;
  if (many == W) return load(p);
  X part[W] = {};
  std::memcpy(part, p, sizeof(X) * many);
  return load(part);
}

template <class X>
SNN_HD void store_part(X* p, Lane<Acc<X>> v, int many, bool stream) {
  constexpr int W = kWidth<Acc<X>>;
  if (many == W) return store(p, v, stream);
  X part[W];
  store(part, v, false);
  std::memcpy(p, part, sizeof(X) * many);
}

template <class A, class X, bool array>
void fwd_range(const ElementwiseFwd& p, int64_t first, int64_t end) {
  using S = Acc<X>;
  const typename A::template Numbers<S> k(p.rule);
  using V = Lane<S>;
  const X* x = static_cast<const X*>(p.x);
  X* y = static_cast<X*>(p.y);
  const V one = splat<V>(*static_cast<const S*>(p.theta));
  const bool stream = p.N * int64_t(sizeof(X)) > kStreamBytes && reinterpret_cast<uintptr_t>(y) % 64 == 0;
  alignas(64) S theta[kTile + kWidth<S>] = {};
  for (int64_t at = first; at < end; at += kTile) {
    const int count = int(std::min<int64_t>(kTile, end - at));
    if constexpr (array) spread(theta, p, at, count);
    lanes<S>(count, [&](int i, int many) __attribute__((always_inline)) {
      const V th = array ? load(theta + i) : one;
      store_part(y + at + i, A::fwd(load_part(x + at + i, many), th, k), many, stream);
    });
  }
  fence(stream);
}

// Elements [first, first + count), count <= kTile: writes dx, and dtheta's shares to `share`.
template <class A, class X, bool array, class K>
inline void bwd_tile(const ElementwiseBwd& p, const K& k, Acc<X>* theta, Acc<X>* share, int64_t first, int count, bool stream) {
  using S = Acc<X>;
  using V = Lane<S>;
  const X *x = static_cast<const X*>(p.x) + first, *dy = static_cast<const X*>(p.dy) + first;
  X* dx = static_cast<X*>(p.dx) + first;
  const V one = splat<V>(*static_cast<const S*>(p.theta));
  if constexpr (array) spread(theta, p, first, count);
  lanes<S>(count, [&](int i, int many) __attribute__((always_inline)) {
    V d;
    const V th = array ? load(theta + i) : one;
    store_part(dx + i, A::bwd(d, load_part(dy + i, many), load_part(x + i, many), th, k), many, stream);
    store_part<S>(share + i, d, many, false);
  });
}

// Sum of count numbers in 32 interleaved sums: the same order in every instruction set.
template <class S>
inline S ordered_sum(const S* a, int count) {
  constexpr int W = kWidth<S>, K = kUnit / W;
  Lane<S> sum[K] = {};
  int i = 0;
  for (; i + kUnit <= count; i += kUnit)
    for (int j = 0; j < K; ++j) sum[j] = sum[j] + load(a + i + j * W);
  alignas(64) S part[kUnit];
  for (int j = 0; j < K; ++j) store(part + j * W, sum[j], false);
  for (int j = 0; i + j < count; ++j) part[j] += a[i + j];
  for (int half = kUnit / 2; half; half /= 2)
    for (int j = 0; j < half; ++j) part[j] += part[j + half];
  return part[0];
}

// Stage one over tiles [first, end).
template <class A, class X, bool array>
void bwd_range(const ElementwiseBwd& p, int64_t first, int64_t end) {
  using S = Acc<X>;
  const typename A::template Numbers<S> k(p.rule);
  const Tiles tiles(p);
  alignas(64) S theta[kTile + kWidth<S>] = {}, share[kTile + kWidth<S>];
  S* partial = static_cast<S*>(p.partial);
  const bool stream =
      p.N * int64_t(sizeof(X)) > kStreamBytes && reinterpret_cast<uintptr_t>(p.dx) % 64 == 0 && (!array || p.inner * int64_t(sizeof(X)) % 64 == 0);
  for (int64_t tile = first; tile < end; ++tile) {
    const int64_t begin = tile * tiles.size, stop = std::min(p.N, begin + tiles.size);
    S total = 0;
    if (!tiles.runs) std::fill(partial + tile * p.C, partial + (tile + 1) * p.C, S(0));
    for (int64_t at = begin; at < stop; at += kTile) {
      const int count = int(std::min<int64_t>(kTile, stop - at));
      bwd_tile<A, X, array>(p, k, theta, share, at, count, stream);
      if (tiles.runs) {
        total += ordered_sum(share, count);
        continue;
      }
      int64_t run = at % p.inner, c = (at / p.inner) % p.C;
      S* to = partial + tile * p.C;
      if (p.inner == 1) {
        for (int i = 0; i < count;) {
          const int many = int(std::min<int64_t>(count - i, p.C - c));
          for (int m = 0; m < many; ++m) to[c + m] += share[i + m];
          i += many;
          c = 0;
        }
        continue;
      }
      for (int i = 0; i < count; ++i) {
        to[c] += share[i];
        if (++run == p.inner) {
          run = 0;
          if (++c == p.C) c = 0;
        }
      }
    }
    if (tiles.runs) partial[tile] = total;
  }
  fence(stream);
}

template <class A>
void elementwise_fwd(const ElementwiseFwd& p, int64_t first, int64_t end) {
  with_dtype(p.dtype, [&](auto x) {
    using X = typename decltype(x)::type;
    with(p.C > 1, [&](auto array) { fwd_range<A, X, array()>(p, first, end); });
  });
}

template <class A>
void elementwise_bwd(const ElementwiseBwd& p, int64_t first, int64_t end) {
  with_dtype(p.dtype, [&](auto x) {
    using X = typename decltype(x)::type;
    with(p.C > 1, [&](auto array) { bwd_range<A, X, array()>(p, first, end); });
  });
}

}  // namespace snn
