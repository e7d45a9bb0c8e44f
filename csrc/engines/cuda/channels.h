// Channels on CUDA: x is [outer, C, inner]. For each channel an op forms sums, or adds a line.
//
// Sums are in fp64, in two stages. The shape fixes the order: no atomic adds, two runs give the same bits. reduction.h says how the sums are cut.
#pragma once
#include "../../dtype.h"
#include "../../params.h"
#include "../../switch.h"
#include "elementwise.h"
#include "lane.h"
#include "launch.h"
#include "pattern.h"
#include "reduction.h"

namespace snn::inline SNN_ISA {

using cuda::ChannelStripes;

constexpr int kChannelThreads = 256;

// A warp takes the runs of channel c in the rows of a stripe.
template <class M, class X, int many>
__global__ void __launch_bounds__(kChannelThreads)
    channel_runs_kernel(const __grid_constant__ ChannelSums p, const __grid_constant__ ChannelStripes at) {
  const int64_t warp = int64_t(blockIdx.x) * (kChannelThreads / 32) + threadIdx.x / 32, stripe = warp / p.C, c = warp % p.C;
  if (stripe >= at.stripes) return;
  const int lane = threadIdx.x % 32;
  const double pivot = p.pivot[c];
  double total = 0, squares = 0;
  const int64_t end = at.outer < (stripe + 1) * at.rows ? at.outer : (stripe + 1) * at.rows;
  for (int64_t o = stripe * at.rows; o < end; ++o) {
    const X* x = static_cast<const X*>(p.x) + (o * p.C + c) * p.inner;
#pragma unroll 4
    for (int64_t i = lane * many; i < p.inner; i += 32 * many) {
      const Pack<X, many> in = load_once<X, many>(x + i);
#pragma unroll
      for (int j = 0; j < many; ++j) M::add(total, squares, double(widen(in.e[j])), pivot);
    }
  }
#pragma unroll
  for (int m = 16; m; m /= 2) total += __shfl_xor_sync(~0u, total, m), squares += __shfl_xor_sync(~0u, squares, m);
  if (lane) return;
  p.partial[stripe * 2 * p.C + c] = total;
  p.partial[stripe * 2 * p.C + p.C + c] = squares;
}

// A thread goes down a column of a stripe.
template <class M, class X>
__global__ void __launch_bounds__(kChannelThreads)
    channel_columns_kernel(const __grid_constant__ ChannelSums p, const __grid_constant__ ChannelStripes at,
                           const __grid_constant__ Pattern pattern) {
  const int64_t columns = p.C * p.inner, id = int64_t(blockIdx.x) * kChannelThreads + threadIdx.x, stripe = id / columns, column = id % columns;
  if (stripe >= at.stripes) return;
  const double pivot = p.pivot[pattern(column)];
  double total = 0, squares = 0;
  const int64_t end = at.outer < (stripe + 1) * at.rows ? at.outer : (stripe + 1) * at.rows;
#pragma unroll 8
  for (int64_t o = stripe * at.rows; o < end; ++o) {
    const Pack<X, 1> in = load_once<X, 1>(static_cast<const X*>(p.x) + o * columns + column);
    M::add(total, squares, double(widen(in.e[0])), pivot);
  }
  p.partial[stripe * 2 * columns + column] = total;
  p.partial[stripe * 2 * columns + columns + column] = squares;
}

template <class M>
void channel_sums(const ChannelSums& p, Stream stream) {
  if (p.N == 0) return check(cudaMemsetAsync(p.sums, 0, 2 * p.C * sizeof(double), stream), "clearing sums");
  const ChannelStripes at(p);
  const Pattern pattern(p.pivot, p.N, p.C, p.inner);
  with_dtype(p.dtype, [&](auto of) {
    using X = typename decltype(of)::type;
    if (!at.runs) return launch(channel_columns_kernel<M, X>, at.stripes * p.C * p.inner, kChannelThreads, stream, p, at, pattern);
    with(on_words({p.x}) && p.inner % kWord<X> == 0, [&](auto wide) {
      constexpr int many = wide() ? kWord<X> : 1;
      launch(channel_runs_kernel<M, X, many>, at.stripes * p.C * 32, kChannelThreads, stream, p, at);
    });
  });
  join(p.sums, static_cast<const double*>(p.partial), at.stripes, 2 * p.C, at.inner, stream);
}

template <class M, class X, int many>
__global__ void __launch_bounds__(kChannelThreads) channel_add_kernel(const __grid_constant__ ChannelAdd p, const __grid_constant__ Pattern pattern) {
  using S = Acc<X>;
  const S *q = static_cast<const S*>(p.line), *line = q + p.C;
  const int64_t i = (int64_t(blockIdx.x) * kChannelThreads + threadIdx.x) * many;
  if (i >= p.N) return;
  X* y = static_cast<X*>(p.y) + i;
  const Pack<X, many> x = load_once<X, many>(static_cast<const X*>(p.x) + i), before = load_once<X, many>(y);
  const Lanes<S, many> qs = thresholds<many>(q, pattern, i), lines = thresholds<many>(line, pattern, i);
  Pack<X, many> out;
#pragma unroll
  for (int j = 0; j < many; ++j) out.e[j] = narrow<X>(M::corrected(S(widen(before.e[j])), S(widen(x.e[j])), qs.e[j], lines.e[j]));
  store_once(y, out);
}

template <class M>
void channel_add(const ChannelAdd& p, Stream stream) {
  if (p.N == 0) return;
  Pattern pattern(p.line, p.N, p.C, p.inner);
  pattern.rows = pattern.rows && p.C % 4 == 0;  // the second row of p.line must lie on words of 16 bytes too
  with_dtype(p.dtype, [&](auto of) {
    using X = typename decltype(of)::type;
    with(on_words({p.x, p.y}) && p.N % kWord<X> == 0, [&](auto wide) {
      constexpr int many = wide() ? kWord<X> : 1;
      launch(channel_add_kernel<M, X, many>, p.N / many, kChannelThreads, stream, p, pattern);
    });
  });
}

}  // namespace snn
