// snnfast::softmax_out, layer_norm_out for one backend. Schemas: snnfast/ops/rows.py.
#include "common.h"

namespace snn {
namespace {

using Maybe = const std::optional<Tensor>&;

void check_dense(const char* name, const Tensor& t, int64_t dims, const Tensor& x) {
  STD_TORCH_CHECK(t.dim() == dims && t.is_contiguous() && t.scalar_type() == x.scalar_type() && t.size(dims - 1) == x.size(2) &&
                      t.size(dims - 2) == x.size(1) && t.size(0) == (dims == 3 ? x.size(0) : x.size(1)),
                  "snnfast: ", name, " is not contiguous with x's rows and dtype");
}

Rows fill(const Tensor& x, const Tensor& total, const Tensor& last, const Tensor& out) {
  STD_TORCH_CHECK(x.dim() == 3 && x.size(2) >= 1 && x.size(2) <= kMostColumns, "snnfast: x is not [T, R, C] with C in range");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double, "snnfast: x is neither fp32 nor fp64");
  check_dense("x", x, 3, x);
  check_dense("total", total, 2, x);
  check_dense("last", last, 2, x);
  check_dense("out", out, 3, x);
  Rows p{};
  p.dtype = dtype_of(x);
  p.x = x.data_ptr();
  p.total = total.data_ptr();
  p.last = last.data_ptr();
  p.y = out.data_ptr();
  p.T = x.size(0), p.R = x.size(1), p.C = x.size(2);
  return p;
}

void softmax_out(const Tensor& x, const Tensor& total, const Tensor& last, const Tensor& out) {
  const Rows p = fill(x, total, last, out);
  if (p.R && p.T) backend::softmax_out(p, x);
}

void layer_norm_out(const Tensor& x, Maybe weight, Maybe bias, const Tensor& total, const Tensor& last, const Tensor& out, double eps) {
  Rows p = fill(x, total, last, out);
  if (weight) check_vector("weight", *weight, p.C, x.scalar_type());
  if (bias) check_vector("bias", *bias, p.C, x.scalar_type());
  p.w = weight ? weight->data_ptr() : nullptr;
  p.b = bias ? bias->data_ptr() : nullptr;
  p.rule.of[0] = eps;
  if (p.R && p.T) backend::layer_norm_out(p, x);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(snnfast, SNN_KEY, m) {
  m.impl("softmax_out", TORCH_BOX(&softmax_out));
  m.impl("layer_norm_out", TORCH_BOX(&layer_norm_out));
}

}  // namespace snn
