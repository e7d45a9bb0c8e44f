// The calibrating loop on CUDA: watches T steps and leaves one number per neuron. A thread takes one neuron and has eight rows in flight.
#pragma once
#include "../../dtype.h"
#include "../../params.h"
#include "lane.h"
#include "launch.h"
#include "pattern.h"

namespace snn::inline SNN_ISA {

constexpr int kWatchedRows = 8;

template <class E, class X, class K>
__global__ void __launch_bounds__(256, 2) calibrate_kernel(const __grid_constant__ Calibrate p, const __grid_constant__ Pattern pattern, const K k) {
  using S = Acc<X>;
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.N) return;
  const X* x = static_cast<const X*>(p.x) + i;
  const S theta = thresholds<1>(static_cast<const S*>(p.theta), pattern, i).e[0];
  S v = E::start(S(p.v0), theta, k), n = S(0), low, high;
  E::unwatched(low, high, theta, k);
  int64_t t = 0;
#pragma unroll 1
  for (; t + kWatchedRows <= p.T; t += kWatchedRows) {
    Pack<X, 1> row[kWatchedRows];
#pragma unroll
    for (int r = 0; r < kWatchedRows; ++r) row[r] = load_once<X, 1>(x + (t + r) * p.x_stride);
#pragma unroll
    for (int r = 0; r < kWatchedRows; ++r) E::watch(v, n, low, high, S(widen(row[r].e[0])), theta, k);
  }
#pragma unroll 1
  for (; t < p.T; ++t) E::watch(v, n, low, high, S(widen(load_once<X, 1>(x + t * p.x_stride).e[0])), theta, k);
  static_cast<S*>(p.v0_out)[i] = E::shifted(v, n, low, high, theta, k);
}

template <class E>
void calibrate(const Calibrate& p, Stream stream) {
  if (p.N == 0) return;
  const Pattern pattern(p.theta, p.N, p.C, p.inner);
  with_dtype(p.dtype, [&](auto x) {
    using X = typename decltype(x)::type;
    using K = typename E::template Numbers<Acc<X>>;
    launch(calibrate_kernel<E, X, K>, p.N, block_for(p.N), stream, p, pattern, K(p.rule));
  });
}

}  // namespace snn
