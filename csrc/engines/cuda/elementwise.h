// The element-wise engine on CUDA. An activation A gives fwd and bwd of one element.
//
// x is read and y is written in words of 16 bytes where both are aligned to them. The backward sums dtheta in two stages. The shape and the
// alignment fix the order of each stage: no atomic adds, two runs give the same bits. x is seen as [outer, C, inner], one threshold per C. Stage one:
//   runs     a warp takes neighbours that share a threshold and leaves one number;  partial [outer, C, ceil(inner / span)]
//   columns  where runs are short, a thread goes down the rows of its columns;      partial [chunks, C, inner]
// Stage two adds the numbers that stage one left for each threshold.
#pragma once
#include "../../dtype.h"
#include "../../params.h"
#include "../../switch.h"
#include "lane.h"
#include "launch.h"
#include "pattern.h"
#include "reduction.h"

namespace snn::inline SNN_ISA {

using cuda::Reduction;

constexpr int kWords = 4;  // 16-byte words of one thread in flight
constexpr int kElementThreads = 256;

template <class X> constexpr int kWord = 16 / int(sizeof(X));

template <class A, class X, int many, class K>
__global__ void __launch_bounds__(kElementThreads, 2)
    elementwise_fwd_kernel(const __grid_constant__ ElementwiseFwd p, const __grid_constant__ Pattern pattern, const K k) {
  using S = Acc<X>;
  const X* x = static_cast<const X*>(p.x);
  X* y = static_cast<X*>(p.y);
  const S* theta = static_cast<const S*>(p.theta);
  const int64_t first = (int64_t(blockIdx.x) * kWords * kElementThreads + threadIdx.x) * many;
  constexpr int64_t apart = int64_t(kElementThreads) * many;
  Pack<X, many> in[kWords];
#pragma unroll
  for (int w = 0; w < kWords; ++w)
    if (first + w * apart + many <= p.N) in[w] = load_once<X, many>(x + first + w * apart);
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    const int64_t i = first + w * apart;
    if (i + many <= p.N) {
      const Lanes<S, many> th = thresholds<many>(theta, pattern, i);
      Pack<X, many> out;
#pragma unroll
      for (int j = 0; j < many; ++j) out.e[j] = narrow<X>(A::fwd(S(widen(in[w].e[j])), th.e[j], k));
      store_once(y + i, out);
    } else {
#pragma unroll 1
      for (int64_t e = i; e < p.N; ++e) y[e] = narrow<X>(A::fwd(S(widen(x[e])), theta[pattern(e)], k));
    }
  }
}

// dx of one word; adds the shares of dtheta to `sum`.
template <class A, class X, int many, class S, class K>
__device__ __forceinline__ void bwd_word(Lanes<S, many>& sum, X* dx, const Pack<X, many>& dy, const Pack<X, many>& x, const Lanes<S, many>& theta,
                                         const K& k) {
  Pack<X, many> out;
#pragma unroll
  for (int j = 0; j < many; ++j) {
    S share;
    out.e[j] = narrow<X>(A::bwd(share, S(widen(dy.e[j])), S(widen(x.e[j])), theta.e[j], k));
    sum.e[j] += share;
  }
  store_once(dx, out);
}

template <class A, class X, int many, class K>
__global__ void __launch_bounds__(kElementThreads, 2)
    elementwise_bwd_runs_kernel(const __grid_constant__ ElementwiseBwd p, const K k, int64_t runs, int64_t inner, int64_t per_run, int64_t span) {
  using S = Acc<X>;
  const int64_t tile = int64_t(blockIdx.x) * (kElementThreads / 32) + threadIdx.x / 32;
  if (tile >= runs * per_run) return;
  const int lane = threadIdx.x % 32;
  const int64_t run = tile / per_run, at = (tile % per_run) * span, count = inner - at < span ? inner - at : span, base = run * inner + at;
  const X *x = static_cast<const X*>(p.x) + base, *dy = static_cast<const X*>(p.dy) + base;
  X* dx = static_cast<X*>(p.dx) + base;
  const S one = static_cast<const S*>(p.theta)[run % p.C];
  Lanes<S, many> theta, sum{};
#pragma unroll
  for (int j = 0; j < many; ++j) theta.e[j] = one;
  for (int64_t i = lane * many; i < count; i += kWords * 32 * many) {
    Pack<X, many> xs[kWords], dys[kWords];
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int64_t e = i + w * 32 * many;
      if (e + many <= count) xs[w] = load_once<X, many>(x + e), dys[w] = load_once<X, many>(dy + e);
    }
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int64_t e = i + w * 32 * many;
      if (e + many <= count) {
        bwd_word<A>(sum, dx + e, dys[w], xs[w], theta, k);
      } else {
#pragma unroll 1
        for (int64_t q = e; q < count; ++q) {
          S share;
          dx[q] = narrow<X>(A::bwd(share, S(widen(dy[q])), S(widen(x[q])), one, k));
          sum.e[0] += share;
        }
      }
    }
  }
  S total = 0;
#pragma unroll
  for (int j = 0; j < many; ++j) total += sum.e[j];
#pragma unroll
  for (int m = 16; m; m /= 2) total += __shfl_xor_sync(~0u, total, m);
  if (lane == 0) static_cast<S*>(p.partial)[tile] = total;
}

template <class A, class X, int many, class K>
__global__ void __launch_bounds__(kElementThreads, 2)
    elementwise_bwd_columns_kernel(const __grid_constant__ ElementwiseBwd p, const __grid_constant__ Pattern pattern, const K k, int64_t columns,
                                   int64_t outer, int64_t rows) {
  using S = Acc<X>;
  const int64_t words = columns / many, id = int64_t(blockIdx.x) * kElementThreads + threadIdx.x, chunk = id / words, column = id % words * many;
  const int64_t begin = chunk * rows, end = outer < begin + rows ? outer : begin + rows;
  if (begin >= outer) return;
  const X *x = static_cast<const X*>(p.x) + column, *dy = static_cast<const X*>(p.dy) + column;
  X* dx = static_cast<X*>(p.dx) + column;
  const Lanes<S, many> theta = thresholds<many>(static_cast<const S*>(p.theta), pattern, column);
  Lanes<S, many> sum{};
  for (int64_t row = begin; row < end; row += kWords) {
    Pack<X, many> xs[kWords], dys[kWords];
#pragma unroll
    for (int w = 0; w < kWords; ++w)
      if (row + w < end) xs[w] = load_once<X, many>(x + (row + w) * columns), dys[w] = load_once<X, many>(dy + (row + w) * columns);
#pragma unroll
    for (int w = 0; w < kWords; ++w)
      if (row + w < end) bwd_word<A>(sum, dx + (row + w) * columns, dys[w], xs[w], theta, k);
  }
  store_lanes(static_cast<S*>(p.partial) + chunk * columns + column, sum);
}

// Stage two: dtheta[c] = the sum of partial[:, c, :]. One block per threshold; `across` threads, a power of 2, share a row of `inner`.
template <class S>
__global__ void join_kernel(S* dtheta, const S* partial, int64_t outer, int64_t C, int64_t inner, int across) {
  __shared__ double of_warp[32];
  const int64_t c = blockIdx.x;
  double sum = 0;
  for (int64_t o = threadIdx.x / across; o < outer; o += blockDim.x / across) {
    const S* row = partial + (o * C + c) * inner;
#pragma unroll 4
    for (int64_t i = threadIdx.x % across; i < inner; i += across) sum += row[i];
  }
#pragma unroll
  for (int m = 16; m; m /= 2) sum += __shfl_xor_sync(~0u, sum, m);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x) return;
  for (int w = 1; w < int(blockDim.x) / 32; ++w) sum += of_warp[w];
  dtheta[c] = S(sum);
}

// Stage two where there is little to add: one thread per threshold.
template <class S>
__global__ void join_few_kernel(S* dtheta, const S* partial, int64_t outer, int64_t C, int64_t inner) {
  const int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= C) return;
  double sum = 0;
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < inner; ++i) sum += partial[(o * C + c) * inner + i];
  dtheta[c] = S(sum);
}

template <class S>
void join(S* dtheta, const S* partial, int64_t outer, int64_t C, int64_t inner, Stream stream) {
  if (outer * inner <= 32) return launch(join_few_kernel<S>, C, 256, stream, dtheta, partial, outer, C, inner);
  const int threads = outer * inner <= 1024 ? 128 : 1024;
  int across = 1;
  while (across < inner && across < threads) across *= 2;
  launch(join_kernel<S>, C * threads, threads, stream, dtheta, partial, outer, C, inner, across);
}

template <class A>
void elementwise_fwd(const ElementwiseFwd& p, Stream stream) {
  if (p.N == 0) return;
  const Pattern pattern(p.theta, p.N, p.C, p.inner);
  with_dtype(p.dtype, [&](auto x) {
    using X = typename decltype(x)::type;
    with(on_words({p.x, p.y}), [&](auto wide) {
      constexpr int many = wide() ? kWord<X> : 1;
      constexpr int each = kWords * many;
      using K = typename A::template Numbers<Acc<X>>;
      launch(elementwise_fwd_kernel<A, X, many, K>, (p.N + each - 1) / each, kElementThreads, stream, p, pattern, K(p.rule));
    });
  });
}

template <class A>
void elementwise_bwd(const ElementwiseBwd& p, Stream stream) {
  if (p.N == 0) return check(cudaMemsetAsync(p.dtheta, 0, p.C * (p.dtype == Dtype::f64 ? 8 : 4), stream), "clearing dtheta");
  const Reduction r(p);
  const Pattern pattern(p.theta, p.N, p.C, p.inner);
  with_dtype(p.dtype, [&](auto x) {
    using X = typename decltype(x)::type;
    using S = Acc<X>;
    using K = typename A::template Numbers<S>;
    const K k(p.rule);
    const int64_t length = p.C == 1 ? p.N : p.inner, columns = p.C * p.inner;
    with(on_words({p.x, p.dy, p.dx, p.partial}) && (r.runs ? p.C == 1 || length % kWord<X> == 0 : columns % kWord<X> == 0), [&](auto wide) {
      constexpr int many = wide() ? kWord<X> : 1;
      if (r.runs) {
        const int64_t runs = p.N / length;
        launch(elementwise_bwd_runs_kernel<A, X, many, K>, 32 * runs * r.inner, kElementThreads, stream, p, k, runs, length, r.inner, r.span);
      } else {
        launch(elementwise_bwd_columns_kernel<A, X, many, K>, r.outer * (columns / many), kElementThreads, stream, p, pattern, k, columns,
               p.N / columns, r.rows);
      }
    });
    join(static_cast<S*>(p.dtheta), static_cast<const S*>(p.partial), r.outer, p.C, r.inner, stream);
  });
}

}  // namespace snn
