// What the ops of convolutions share: x is [R, H, W, groups C], w is [KY, KX, C, O], y is [R, Ho, Wo, O].
#pragma once
#include "common.h"

namespace snn {

inline void check_dense(const char* name, const Tensor& t, int64_t dims, ScalarType dtype) {
  STD_TORCH_CHECK(t.dim() == dims && t.is_contiguous() && t.scalar_type() == dtype, "snnfast: ", name, " is not contiguous with ", dims,
                  " dimensions and the right dtype");
}

inline int64_t places(int64_t n, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  const int64_t room = n + 2 * padding - dilation * (kernel - 1) - 1;
  STD_TORCH_CHECK(stride >= 1 && padding >= 0 && dilation >= 1 && room >= 0, "snnfast: the kernel does not fit the image");
  return room / stride + 1;
}

inline void set_geometry(Gather& p, const Tensor& x, const Tensor& w, const ConvRule& rule) {
  p.R = x.size(0), p.H = x.size(1), p.W = x.size(2), p.C = w.size(2);
  p.KY = w.size(0), p.KX = w.size(1), p.O = w.size(3);
  p.groups = p.C ? x.size(3) / p.C : 1;
  STD_TORCH_CHECK(p.groups >= 1 && p.groups * p.C == x.size(3) && p.O % p.groups == 0,
                  "snnfast: w does not take x's channels, in groups of as many outputs");
  p.Ho = places(p.H, p.KY, rule.stride_y, rule.padding_y, rule.dilation_y);
  p.Wo = places(p.W, p.KX, rule.stride_x, rule.padding_x, rule.dilation_x);
  p.rule = rule;
}

// out: y's shape, in y's dtype.
inline void check_out(const Tensor& out, const Gather& p) {
  check_dense("out", out, 4, p.dtype == Dtype::f64 ? ScalarType::Double : ScalarType::Float);
  STD_TORCH_CHECK(out.size(0) == p.R && out.size(1) == p.Ho && out.size(2) == p.Wo && out.size(3) == p.O, "snnfast: out does not fit");
}

}  // namespace snn
