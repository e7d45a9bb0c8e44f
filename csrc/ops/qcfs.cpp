// snnfast::qcfs_fwd, qcfs_bwd for one backend. Schemas: snnfast/ops/qcfs.py.
#include <tuple>

#include "common.h"

namespace snn {
namespace {

Elementwise params(const Tensor& x, const Tensor& theta, int64_t inner, int64_t levels, const std::string& grad) {
  check_vector("x", x, x.numel(), x.scalar_type());
  check_pattern(theta, inner, x.numel(), accumulator(x));
  Elementwise p{};
  p.dtype = dtype_of(x);
  p.x = x.data_ptr();
  p.theta = theta.data_ptr();
  p.N = x.numel();
  p.C = theta.size(0);
  p.inner = inner;
  p.levels = levels;
  p.grad = choose<Grad>("grad", grad, {{"qcfs", Grad::qcfs}, {"srp", Grad::srp}, {"paper", Grad::paper}});
  return p;
}

Tensor qcfs_fwd(const Tensor& x, const Tensor& theta, int64_t inner, int64_t levels, std::string grad) {
  Elementwise p = params(x, theta, inner, levels, grad);
  const Tensor y = empty(x, {p.N}, x.scalar_type());
  p.y = y.data_ptr();
  backend::qcfs_fwd(p, x);
  return y;
}

std::tuple<Tensor, Tensor> qcfs_bwd(const Tensor& dy, const Tensor& x, const Tensor& theta, int64_t inner, int64_t levels,
                                    std::string grad) {
  Elementwise p = params(x, theta, inner, levels, grad);
  check_vector("dy", dy, p.N, x.scalar_type());
  const ScalarType acc = accumulator(x);
  const Tensor dx = empty(x, {p.N}, x.scalar_type()), dtheta = empty(x, {p.C}, acc), partial = empty(x, {backend::qcfs_partials(p)}, acc);
  p.dy = dy.data_ptr();
  p.dx = dx.data_ptr();
  p.partial = partial.data_ptr();
  backend::qcfs_bwd(p, dtheta.data_ptr(), x);
  return {dx, dtheta};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(snnfast, SNN_KEY, m) {
  m.impl("qcfs_fwd", TORCH_BOX(&qcfs_fwd));
  m.impl("qcfs_bwd", TORCH_BOX(&qcfs_bwd));
}

}  // namespace snn
