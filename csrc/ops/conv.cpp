// snnfast::conv_fwd, conv_out for one backend. Schema: snnfast/ops/conv.py.
#include "geometry.h"

namespace snn {
namespace {

using Maybe = const std::optional<Tensor>&;

Gather fill(const Tensor& x, const Tensor& w, Maybe bias, const ConvRule& rule) {
  check_dense("x", x, 4, x.scalar_type());
  check_dense("w", w, 4, x.scalar_type());
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double, "snnfast: x is neither fp32 nor fp64");
  if (bias) check_vector("bias", *bias, w.size(3), x.scalar_type());
  Gather p{};
  set_geometry(p, x, w, rule);
  p.dtype = dtype_of(x);
  p.x = x.data_ptr();
  p.w = w.data_ptr();
  p.bias = bias ? bias->data_ptr() : nullptr;
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
  check_out(out, p);
  run(p, out);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(snnfast, SNN_KEY, m) {
  m.impl("conv_fwd", TORCH_BOX(&conv_fwd));
  m.impl("conv_out", TORCH_BOX(&conv_out));
}

}  // namespace snn
