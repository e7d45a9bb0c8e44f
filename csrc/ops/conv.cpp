// snnfast::conv_fwd, conv_out for one backend. Schema: snnfast/ops/conv.py.
#include "common.h"

namespace snn {
namespace {

using Maybe = const std::optional<Tensor>&;

void check_dense(const char* name, const Tensor& t, int64_t dims, const Tensor& x) {
  STD_TORCH_CHECK(t.dim() == dims && t.is_contiguous() && t.scalar_type() == x.scalar_type(), "snnfast: ", name, " is not contiguous with ", dims,
                  " dimensions and x's dtype");
}

int64_t places(int64_t n, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  const int64_t room = n + 2 * padding - dilation * (kernel - 1) - 1;
  STD_TORCH_CHECK(stride >= 1 && padding >= 0 && dilation >= 1 && room >= 0, "snnfast: the kernel does not fit the image");
  return room / stride + 1;
}

Gather fill(const Tensor& x, const Tensor& w, Maybe bias, const ConvRule& rule) {
  check_dense("x", x, 4, x);
  check_dense("w", w, 4, x);
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double, "snnfast: x is neither fp32 nor fp64");
  STD_TORCH_CHECK(w.size(2) == x.size(3), "snnfast: w does not take x's channels");
  if (bias) check_vector("bias", *bias, w.size(3), x.scalar_type());
  Gather p{};
  p.dtype = dtype_of(x);
  p.x = x.data_ptr();
  p.w = w.data_ptr();
  p.bias = bias ? bias->data_ptr() : nullptr;
  p.R = x.size(0), p.H = x.size(1), p.W = x.size(2), p.C = x.size(3);
  p.KY = w.size(0), p.KX = w.size(1), p.O = w.size(3);
  p.Ho = places(p.H, p.KY, rule.stride_y, rule.padding_y, rule.dilation_y);
  p.Wo = places(p.W, p.KX, rule.stride_x, rule.padding_x, rule.dilation_x);
  p.rule = rule;
  return p;
}

void run(Gather& p, const Tensor& y) {
  p.y = y.data_ptr();
  if (y.numel()) backend::conv_fwd(p, y);
}

Tensor conv_fwd(const Tensor& x, const Tensor& w, Maybe bias, int64_t stride_y, int64_t stride_x, int64_t padding_y, int64_t padding_x,
                int64_t dilation_y, int64_t dilation_x) {
  Gather p = fill(x, w, bias, {stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x});
  const Tensor y = empty(x, {p.R, p.Ho, p.Wo, p.O}, x.scalar_type());
  run(p, y);
  return y;
}

void conv_out(const Tensor& x, const Tensor& w, Maybe bias, const Tensor& out, int64_t stride_y, int64_t stride_x, int64_t padding_y,
              int64_t padding_x, int64_t dilation_y, int64_t dilation_x) {
  Gather p = fill(x, w, bias, {stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x});
  check_dense("out", out, 4, x);
  STD_TORCH_CHECK(out.size(0) == p.R && out.size(1) == p.Ho && out.size(2) == p.Wo && out.size(3) == p.O, "snnfast: out does not fit");
  run(p, out);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(snnfast, SNN_KEY, m) {
  m.impl("conv_fwd", TORCH_BOX(&conv_fwd));
  m.impl("conv_out", TORCH_BOX(&conv_out));
}

}  // namespace snn
