// snnfast::cos_fwd for one backend. Schema: snnfast/ops/cos.py.
#define SNN_ISA ops
#include "../equations/neurons/cos.h"

#include "common.h"

namespace snn {
namespace {

Tensor cos_fwd(const Tensor& x, const Tensor& theta, int64_t T, int64_t inner, double v0, std::vector<double> rule) {
  check_steps(x, T);
  check_pattern(theta, inner, x.size(1), accumulator(x));
  const Tensor v0_out = empty(x, {x.size(1)}, accumulator(x));
  const Calibrate p{
      dtype_of(x),      x.data_ptr(), row_stride(x), theta.data_ptr(), T, x.size(1), theta.size(0), inner, v0, rule_of(rule, COS::fields),
      v0_out.data_ptr()};
  backend::cos_fwd(p, x);
  return v0_out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(snnfast, SNN_KEY, m) { m.impl("cos_fwd", TORCH_BOX(&cos_fwd)); }

}  // namespace snn
