// Max pooling on CUDA. Forward: a thread takes a window. Backward: a thread takes a number of the image and reads the windows that contain the
// number, in the order of the windows, so that nothing is added atomically.
#pragma once
#include <cmath>

#include "../../dtype.h"
#include "../../params.h"
#include "../../switch.h"
#include "lane.h"
#include "launch.h"

namespace snn::inline SNN_ISA {

constexpr int kPoolThreads = 256;

template <class M, class X>
__global__ void __launch_bounds__(kPoolThreads) pool_fwd_kernel(const __grid_constant__ PoolFwd p) {
  using S = Acc<X>;
  const int64_t id = int64_t(blockIdx.x) * kPoolThreads + threadIdx.x;
  if (id >= p.P * p.Ho * p.Wo * p.C) return;
  const int64_t c = id % p.C, ox = id / p.C % p.Wo, oy = id / p.C / p.Wo % p.Ho, image = id / p.C / p.Wo / p.Ho;
  const int64_t top = oy * p.rule.stride_y - p.rule.padding_y, left = ox * p.rule.stride_x - p.rule.padding_x;
  const X* x = static_cast<const X*>(p.x) + image * p.H * p.W * p.C + c;
  S best = -INFINITY;
  int64_t which = (top < 0 ? -top : 0) * p.rule.size_x + (left < 0 ? -left : 0);
  for (int64_t ky = top < 0 ? -top : 0; ky < p.rule.size_y && top + ky < p.H; ++ky)
    for (int64_t kx = left < 0 ? -left : 0; kx < p.rule.size_x && left + kx < p.W; ++kx) {
      const S v = widen(x[((top + ky) * p.W + left + kx) * p.C]);
      if (M::better(v, best)) best = v, which = ky * p.rule.size_x + kx;
    }
  static_cast<X*>(p.y)[id] = narrow<X>(best);
  p.at[id] = uint8_t(which);
}

template <class X>
__global__ void __launch_bounds__(kPoolThreads) pool_bwd_kernel(const __grid_constant__ PoolBwd p) {
  using S = Acc<X>;
  const int64_t id = int64_t(blockIdx.x) * kPoolThreads + threadIdx.x;
  if (id >= p.P * p.H * p.W * p.C) return;
  const int64_t c = id % p.C, w = id / p.C % p.W, h = id / p.C / p.W % p.H, image = id / p.C / p.W / p.H;
  const int64_t y = h + p.rule.padding_y, x = w + p.rule.padding_x;
  // The first window that reaches row y, and the last.
  const int64_t top = y < p.rule.size_y ? 0 : (y - p.rule.size_y) / p.rule.stride_y + 1, bottom = y / p.rule.stride_y;
  const int64_t left = x < p.rule.size_x ? 0 : (x - p.rule.size_x) / p.rule.stride_x + 1, right = x / p.rule.stride_x;
  S sum = 0;
  for (int64_t oy = top; oy <= bottom && oy < p.Ho; ++oy)
    for (int64_t ox = left; ox <= right && ox < p.Wo; ++ox) {
      const int64_t from = ((image * p.Ho + oy) * p.Wo + ox) * p.C + c;
      const int64_t k = (y - oy * p.rule.stride_y) * p.rule.size_x + x - ox * p.rule.stride_x;
      if (p.at[from] == k) sum += S(widen(static_cast<const X*>(p.dy)[from]));
    }
  static_cast<X*>(p.dx)[id] = narrow<X>(sum);
}

template <class M>
void pool_fwd(const PoolFwd& p, Stream stream) {
  with_dtype(p.dtype, [&](auto of) {
    using X = typename decltype(of)::type;
    launch(pool_fwd_kernel<M, X>, p.P * p.Ho * p.Wo * p.C, kPoolThreads, stream, p);
  });
}

template <class M>
void pool_bwd(const PoolBwd& p, Stream stream) {
  with_dtype(p.dtype, [&](auto of) {
    using X = typename decltype(of)::type;
    launch(pool_bwd_kernel<X>, p.P * p.H * p.W * p.C, kPoolThreads, stream, p);
  });
}

}  // namespace snn
