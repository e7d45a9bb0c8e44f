// snnfast::qcfs_fwd, qcfs_bwd for one backend. Schema: snnfast/ops/qcfs.py.
#include <tuple>

#define SNN_ISA ops
#include "../equations/activations/qcfs.h"

#include "common.h"

namespace snn {
namespace {

void fill(Elementwise& p, const Tensor& x, const Tensor& theta, int64_t inner, const std::vector<double>& rule) {
  check_vector("x", x, x.numel(), x.scalar_type());
  check_pattern(theta, inner, x.numel(), accumulator(x));
  p.dtype = dtype_of(x);
  p.x = x.data_ptr();
  p.theta = theta.data_ptr();
  p.N = x.numel();
  p.C = theta.size(0);
  p.inner = inner;
  p.rule = rule_of(rule, QCFS::fields);
}

Tensor qcfs_fwd(const Tensor& x, const Tensor& theta, int64_t inner, std::vector<double> rule) {
  ElementwiseFwd p{};
  fill(p, x, theta, inner, rule);
  const Tensor y = empty(x, {p.N}, x.scalar_type());
  p.y = y.data_ptr();
  backend::qcfs_fwd(p, x);
  return y;
}

std::tuple<Tensor, Tensor> qcfs_bwd(const Tensor& dy, const Tensor& x, const Tensor& theta, int64_t inner, std::vector<double> rule) {
  ElementwiseBwd p{};
  fill(p, x, theta, inner, rule);
  check_vector("dy", dy, p.N, x.scalar_type());
  const ScalarType acc = accumulator(x);
  const Tensor dx = empty(x, {p.N}, x.scalar_type()), dtheta = empty(x, {p.C}, acc), partial = empty(x, {backend::partials(p)}, acc);
  p.dy = dy.data_ptr();
  p.dx = dx.data_ptr();
  p.partial = partial.data_ptr();
  p.dtheta = dtheta.data_ptr();
  backend::qcfs_bwd(p, x);
  return {dx, dtheta};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(snnfast, SNN_KEY, m) {
  m.impl("qcfs_fwd", TORCH_BOX(&qcfs_fwd));
  m.impl("qcfs_bwd", TORCH_BOX(&qcfs_bwd));
}

}  // namespace snn
