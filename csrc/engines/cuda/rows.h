// Functions of rows over time on CUDA: out_t = f(X_t) - f(X_(t-1)), X_t = x_1 + ... + x_t. A function F gives apply on a Row.
//
// A row lies in the registers of `threads` threads, K columns in each, column i in thread i % threads. The state is read and written once for all T
// steps. The sum is the tree of snnfast/engines/reference/rows.py: halves within a thread, then across warps by shared memory, then across lanes.
#pragma once
#include "../../params.h"
#include "lane.h"
#include "launch.h"

namespace snn::inline SNN_ISA {

constexpr int kRowBlock = 128;  // threads of a block where one warp takes a row

template <class T, int K, int threads>
struct Row {
  using S = T;
  using V = T;
  S a[K];
  int C, lane;  // lane: the index of this thread among the row's threads
  const S *w, *b;
  S* shared;  // [threads], where a row takes more than a warp

  __device__ __forceinline__ int columns() const { return C; }

  template <class J>
  __device__ __forceinline__ S joined(S v, const J& join) {
    if constexpr (threads > 32) {
      shared[lane] = v;
      __syncthreads();
#pragma unroll
      for (int half = threads / 2; half >= 32; half /= 2) {
        if (lane < half) shared[lane] = join(shared[lane], shared[lane + half]);
        __syncthreads();
      }
      v = shared[lane % 32];
      __syncthreads();  // before the next sum writes
    }
#pragma unroll
    for (int half = 16; half; half /= 2) v = join(v, __shfl_xor_sync(0xffffffffu, v, half));
    return v;
  }

  template <class F>
  __device__ __forceinline__ S total(const F& f) {
    S part[K];
#pragma unroll
    for (int i = 0; i < K; ++i) part[i] = f(a[i]);
#pragma unroll
    for (int half = K / 2; half; half /= 2)
#pragma unroll
      for (int i = 0; i < half; ++i) part[i] = part[i] + part[i + half];
    return joined(part[0], [](S x, S y) { return x + y; });
  }

  __device__ __forceinline__ S largest() {
    S most = -INFINITY;
#pragma unroll
    for (int i = 0; i < K; ++i)
      if (i * threads + lane < C && a[i] > most) most = a[i];
    return joined(most, [](S x, S y) { return x > y ? x : y; });
  }

  template <class F>
  __device__ __forceinline__ void each(const F& f) {
#pragma unroll
    for (int i = 0; i < K; ++i) a[i] = i * threads + lane < C ? f(a[i]) : S(0);
  }

  template <class F>
  __device__ __forceinline__ void each_with(const F& f) {
#pragma unroll
    for (int i = 0; i < K; ++i) {
      const int c = i * threads + lane;
      if (c < C) a[i] = f(a[i], w ? w[c] : S(1), b ? b[c] : S(0));
    }
  }
};

template <class F, class S, int K, int threads>
__global__ void __launch_bounds__(threads > 32 ? threads : kRowBlock)
    rows_kernel(const __grid_constant__ Rows p, const typename F::template Numbers<S> k) {
  __shared__ S shared[threads > 32 ? threads : 1];
  const int64_t r = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / threads;
  if (r >= p.R) return;  // all threads of the row
  Row<S, K, threads> row;
  row.C = int(p.C), row.lane = threadIdx.x % threads, row.shared = shared;
  row.w = static_cast<const S*>(p.w), row.b = static_cast<const S*>(p.b);
  S total[K], last[K];
  const int64_t at = r * p.C + row.lane;
#pragma unroll
  for (int i = 0; i < K; ++i) {
    const bool inside = i * threads + row.lane < row.C;
    total[i] = inside ? static_cast<const S*>(p.total)[at + i * threads] : S(0);
    last[i] = inside ? static_cast<const S*>(p.last)[at + i * threads] : S(0);
  }
  const S* x = static_cast<const S*>(p.x) + at;
  S* y = static_cast<S*>(p.y) + at;
  const int64_t step = p.R * p.C;
  // The x of a step is requested before the previous step is computed, so that the sums of the function wait for no memory.
  S ahead[K];
#pragma unroll
  for (int i = 0; i < K; ++i) ahead[i] = i * threads + row.lane < row.C ? x[i * threads] : S(0);
  for (int64_t t = 0; t < p.T; ++t, y += step) {
#pragma unroll
    for (int i = 0; i < K; ++i) {
      total[i] = total[i] + ahead[i];
      row.a[i] = total[i];
    }
    if (t + 1 < p.T) {
      x += step;
#pragma unroll
      for (int i = 0; i < K; ++i)
        if (i * threads + row.lane < row.C) ahead[i] = x[i * threads];
    }
    F::template apply<S>(row, k);
#pragma unroll
    for (int i = 0; i < K; ++i) {
      if (i * threads + row.lane < row.C) y[i * threads] = row.a[i] - last[i];
      last[i] = row.a[i];
    }
  }
#pragma unroll
  for (int i = 0; i < K; ++i)
    if (i * threads + row.lane < row.C) {
      static_cast<S*>(p.total)[at + i * threads] = total[i];
      static_cast<S*>(p.last)[at + i * threads] = last[i];
    }
}

template <class F, class S, int K, int threads>
void rows_of(const Rows& p, Stream stream) {
  launch(rows_kernel<F, S, K, threads>, p.R * threads, threads > 32 ? threads : kRowBlock, stream, p, typename F::template Numbers<S>(p.rule));
}

// K columns per thread, few enough for the registers, and as few threads as can hold the row.
template <class F, class S>
void rows_in(const Rows& p, Stream stream) {
  static_assert(kMostColumns == 8 * 512);
  if (p.C <= 32) rows_of<F, S, 1, 32>(p, stream);
  else if (p.C <= 64) rows_of<F, S, 2, 32>(p, stream);
  else if (p.C <= 128) rows_of<F, S, 4, 32>(p, stream);
  else if (p.C <= 256) rows_of<F, S, 8, 32>(p, stream);
  else if (p.C <= 512) rows_of<F, S, 8, 64>(p, stream);
  else if (p.C <= 1024) rows_of<F, S, 8, 128>(p, stream);
  else if (p.C <= 2048) rows_of<F, S, 8, 256>(p, stream);
  else rows_of<F, S, 8, 512>(p, stream);
}

template <class F>
void rows(const Rows& p, Stream stream) {
  if (p.dtype == Dtype::f64) rows_in<F, double>(p, stream);
  else rows_in<F, float>(p, stream);
}

}  // namespace snn
