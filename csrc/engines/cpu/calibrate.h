// The calibrating loop on the CPU: watches T steps and leaves one number per neuron. An equation gives start, unwatched, watch, shifted.
//
// The numbers of a block of neurons stay in L1; each load of these numbers serves four time steps. x is read once.
#pragma once
#include <algorithm>

#include "../../dtype.h"
#include "../../params.h"
#include "simd.h"
#include "spread.h"

namespace snn::inline SNN_ISA {

constexpr int kWatched = 1024;    // neurons per block
constexpr int kWatchedSteps = 4;  // time steps per load of their numbers

// Per-neuron numbers of one block.
template <class S>
struct Watched {
  alignas(64) S theta[kWatched], v[kWatched], n[kWatched], low[kWatched], high[kWatched];
};

// R steps of one unit of 32 neurons; x: [R, 32] at stride xs.
template <class E, class X, class K>
SNN_HD void watch_unit(const K& k, Watched<Acc<X>>& b, int o, int R, const X* x, int64_t xs) {
  using V = Lane<Acc<X>>;
  constexpr int W = kWidth<Acc<X>>;
  for (int i = o; i < o + kUnit; i += W, x += W) {
    V v = load(b.v + i), n = load(b.n + i), low = load(b.low + i), high = load(b.high + i), theta = load(b.theta + i);
    for (int r = 0; r < R; ++r) E::watch(v, n, low, high, load(x + r * xs), theta, k);
    store(b.v + i, v, false);
    store(b.n + i, n, false);
    store(b.low + i, low, false);
    store(b.high + i, high, false);
  }
}

template <class E, class X, class K>
void calibrate_block(const Calibrate& p, const K& k, Watched<Acc<X>>& b, int64_t first, int count) {
  using S = Acc<X>;
  using V = Lane<S>;
  constexpr int W = kWidth<S>;
  const int units = (count + kUnit - 1) / kUnit, rest = count % kUnit;
  if (p.C > 1) spread(b.theta, p, first, count);
  std::fill(b.theta + (p.C > 1 ? count : 0), b.theta + units * kUnit, p.C > 1 ? S(1) : *static_cast<const S*>(p.theta));
  for (int i = 0; i < units * kUnit; i += W) {
    V low, high;
    const V theta = load(b.theta + i);
    E::unwatched(low, high, theta, k);
    store(b.v + i, E::start(S(p.v0), theta, k), false);
    store(b.n + i, V{}, false);
    store(b.low + i, low, false);
    store(b.high + i, high, false);
  }
  for (int64_t t = 0; t < p.T; t += kWatchedSteps) {
    const int R = int(std::min<int64_t>(kWatchedSteps, p.T - t));
    for (int unit = 0; unit < units; ++unit) {
      const X* x = static_cast<const X*>(p.x) + t * p.x_stride + first + unit * kUnit;
      if (rest && unit + 1 == units) {  // the ragged last unit goes through a padded copy
        X padded[kWatchedSteps * kUnit] = {};
        for (int r = 0; r < R; ++r) std::memcpy(padded + r * kUnit, x + r * p.x_stride, sizeof(X) * rest);
        watch_unit<E>(k, b, unit * kUnit, R, padded, kUnit);
      } else {
        watch_unit<E>(k, b, unit * kUnit, R, x, p.x_stride);
      }
    }
  }
  for (int i = 0; i < units * kUnit; i += W)
    store(b.v + i, E::shifted(load(b.v + i), load(b.n + i), load(b.low + i), load(b.high + i), load(b.theta + i), k), false);
  std::memcpy(static_cast<S*>(p.v0_out) + first, b.v, sizeof(S) * count);
}

// Neurons [first, end).
template <class E>
void calibrate(const Calibrate& p, int64_t first, int64_t end) {
  with_dtype(p.dtype, [&](auto x) {
    using X = typename decltype(x)::type;
    const typename E::template Numbers<Acc<X>> k(p.rule);
    Watched<Acc<X>> b;
    for (int64_t i = first; i < end; i += kWatched) calibrate_block<E, X>(p, k, b, i, int(std::min<int64_t>(kWatched, end - i)));
  });
}

}  // namespace snn
