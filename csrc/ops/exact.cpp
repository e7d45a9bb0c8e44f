// snnfast::exact_fwd, exact_out on the CPU. Schema: snnfast/ops/exact.py. On CUDA these ops run in Triton, on tensor cores.
#include "geometry.h"

#if !defined(SNN_CUDA) && !defined(SNN_BACKEND)

namespace snn {
namespace {

Gather fill(const Tensor& s, const Tensor& per_unit, const Tensor& w, const Tensor& bias, const Tensor& scale, const ConvRule& rule) {
  Gather p{};
  p.bytes = s.scalar_type() == ScalarType::Char;
  check_dense("s", s, 4, p.bytes ? ScalarType::Char : ScalarType::Float);
  check_dense("w", w, 4, ScalarType::Int);
  set_geometry(p, s, w, rule);
  check_vector("bias", bias, p.O, ScalarType::Int);
  check_vector("scale", scale, p.O, ScalarType::Float);
  p.by_channel = per_unit.size(0) != 1;
  check_vector("per_unit", per_unit, p.by_channel ? s.size(3) : 1, ScalarType::Float);
  p.dtype = Dtype::f32;
  p.x = s.data_ptr(), p.w = w.data_ptr(), p.bias = bias.data_ptr();
  p.per_unit = static_cast<const float*>(per_unit.data_ptr()), p.scale = static_cast<const float*>(scale.data_ptr());
  return p;
}

Tensor exact_fwd(const Tensor& s, const Tensor& per_unit, const Tensor& w, const Tensor& bias, const Tensor& scale, int64_t stride_y,
                 int64_t stride_x, int64_t padding_y, int64_t padding_x, int64_t dilation_y, int64_t dilation_x) {
  Gather p = fill(s, per_unit, w, bias, scale, {stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x});
  const Tensor y = empty(s, {p.R, p.Ho, p.Wo, p.O}, ScalarType::Float);
  p.y = y.data_ptr();
  if (y.numel()) backend::exact_fwd(p, y);
  return y;
}

void exact_out(const Tensor& s, const Tensor& per_unit, const Tensor& w, const Tensor& bias, const Tensor& scale, const Tensor& out, int64_t stride_y,
               int64_t stride_x, int64_t padding_y, int64_t padding_x, int64_t dilation_y, int64_t dilation_x) {
  Gather p = fill(s, per_unit, w, bias, scale, {stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x});
  check_out(out, p);
  p.y = out.data_ptr();
  if (out.numel()) backend::exact_fwd(p, out);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(snnfast, SNN_KEY, m) {
  m.impl("exact_fwd", TORCH_BOX(&exact_fwd));
  m.impl("exact_out", TORCH_BOX(&exact_out));
}

}  // namespace snn

#endif
