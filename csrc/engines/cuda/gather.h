// The gathering loop on CUDA: each output adds the weights of the inputs that are not zero. An equation gives add.
//
// A warp takes one place of one row and a panel of a group's output channels, `many` per thread. The warp reads 32 inputs at once and finds the non-zero
// inputs by a ballot. All lanes work on the same non-zero input, so no lane waits for another lane's branch, and the lanes read weights side by side.
// Where groups have few channels, depthwise ones among them, a thread takes one output and reads its own group's inputs.
#pragma once
#include "../../params.h"
#include "lane.h"
#include "launch.h"

namespace snn::inline SNN_ISA {

constexpr unsigned kWarp = 32, kAllLanes = 0xffffffffu;

struct Place {
  int64_t row;
  int i, j;
  SNN_HD Place(const Gather& p, int64_t place) : row(place / (p.Ho * p.Wo)) {
    const int inside = int(place - row * (p.Ho * p.Wo));
    i = inside / int(p.Wo), j = inside - i * int(p.Wo);
  }
  // Calls f(where the channels of the input lie, the number of the tap) for all taps inside the image, in order.
  template <class F>
  SNN_HD void taps(const Gather& p, const F& f) const {
    for (int64_t ky = 0; ky < p.KY; ++ky) {
      const int64_t y = i * p.rule.stride_y + ky * p.rule.dilation_y - p.rule.padding_y;
      if (y < 0 || y >= p.H) continue;
      for (int64_t kx = 0; kx < p.KX; ++kx) {
        const int64_t x = j * p.rule.stride_x + kx * p.rule.dilation_x - p.rule.padding_x;
        if (x >= 0 && x < p.W) f(((row * p.H + y) * p.W + x) * p.C * p.groups, ky * p.KX + kx);
      }
    }
  }
};

template <class E, class S, int many>
__global__ void __launch_bounds__(128, 8) gather_kernel(const __grid_constant__ Gather p) {
  const int64_t outputs = p.O / p.groups, panels = (outputs + kWarp * many - 1) / (kWarp * many);  // of a group
  const int64_t warp = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp, all = panels * p.groups;
  const int lane = threadIdx.x % kWarp;
  const int64_t place = warp / all, group = (warp - place * all) / panels, end = (group + 1) * outputs;
  const int64_t o = group * outputs + (warp - place * all - group * panels) * (kWarp * many) + lane;
  if (place >= p.R * p.Ho * p.Wo) return;  // the whole warp
  S total[many];
#pragma unroll
  for (int m = 0; m < many; ++m) total[m] = p.bias && o + m * kWarp < end ? static_cast<const S*>(p.bias)[o + m * kWarp] : S(0);
  Place(p, place).taps(p, [&](int64_t at, int64_t tap) {
    const S* input = static_cast<const S*>(p.x) + at + group * p.C;
    const S* weights = static_cast<const S*>(p.w) + tap * p.C * p.O + o;
    for (int64_t c = 0; c < p.C; c += kWarp) {
      for (unsigned on = __ballot_sync(kAllLanes, c + lane < p.C && input[c + lane] != S(0)); on; on &= on - 1) {
        const int next = __ffs(int(on)) - 1;
        const S one = input[c + next];  // from L1; all lanes read the same word
        const S* w = weights + (c + next) * p.O;
#pragma unroll
        for (int m = 0; m < many; ++m)
          if (o + m * kWarp < end) total[m] = E::add(total[m], one, w[m * kWarp]);
      }
    }
  });
  S* y = static_cast<S*>(p.y) + place * p.O + o;
#pragma unroll
  for (int m = 0; m < many; ++m)
    if (o + m * kWarp < end) y[m * kWarp] = total[m];
}

template <class E, class S>
__global__ void __launch_bounds__(128, 8) output_kernel(const __grid_constant__ Gather p) {
  const int64_t n = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, place = n / p.O, o = n - place * p.O;
  if (place >= p.R * p.Ho * p.Wo) return;
  const int64_t first = o / (p.O / p.groups) * p.C;
  S total = p.bias ? static_cast<const S*>(p.bias)[o] : S(0);
  Place(p, place).taps(p, [&](int64_t at, int64_t tap) {
    const S* input = static_cast<const S*>(p.x) + at + first;
    const S* weights = static_cast<const S*>(p.w) + tap * p.C * p.O + o;
    for (int64_t c = 0; c < p.C; ++c)
      if (const S one = input[c]; one != S(0)) total = E::add(total, one, weights[c * p.O]);
  });
  static_cast<S*>(p.y)[n] = total;
}

template <class E, class S, int many>
void gather_panels(const Gather& p, Stream stream) {
  const int64_t panels = p.groups * ((p.O / p.groups + kWarp * many - 1) / (kWarp * many));
  launch(gather_kernel<E, S, many>, p.R * p.Ho * p.Wo * panels * kWarp, 128, stream, p);
}

constexpr int64_t kFewInputs = 16;  // channels of a group: a warp would find too few of them at once

template <class E>
void gather(const Gather& p, Stream stream) {
  const bool wide = p.O / p.groups > kWarp;
  if (p.groups > 1 && p.C < kFewInputs) {
    const int64_t all = p.R * p.Ho * p.Wo * p.O;
    p.dtype == Dtype::f64 ? launch(output_kernel<E, double>, all, 128, stream, p) : launch(output_kernel<E, float>, all, 128, stream, p);
  } else if (p.dtype == Dtype::f64) wide ? gather_panels<E, double, 4>(p, stream) : gather_panels<E, double, 1>(p, stream);
  else wide ? gather_panels<E, float, 4>(p, stream) : gather_panels<E, float, 1>(p, stream);
}

}  // namespace snn
