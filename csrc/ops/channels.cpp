// snnfast::channel_sums, channel_add for one backend. Schemas: snnfast/ops/channels.py.
#include "common.h"

namespace snn {
namespace {

void fill(Channels& p, const Tensor& x, int64_t C, int64_t inner) {
  check_vector("x", x, x.numel(), x.scalar_type());
  STD_TORCH_CHECK(C >= 1 && inner >= 1 && x.numel() % (C * inner) == 0, "snnfast: ", C, " channels of ", inner, " do not divide ", x.numel());
  p.dtype = dtype_of(x);
  p.x = x.data_ptr();
  p.N = x.numel(), p.C = C, p.inner = inner;
}

Tensor channel_sums(const Tensor& x, const Tensor& pivot, int64_t inner) {
  ChannelSums p{};
  fill(p, x, pivot.numel(), inner);
  check_vector("pivot", pivot, p.C, ScalarType::Double);
  const Tensor sums = empty(x, {2, p.C}, ScalarType::Double), partial = empty(x, {backend::partials(p)}, ScalarType::Double);
  p.pivot = static_cast<const double*>(pivot.data_ptr());
  p.partial = static_cast<double*>(partial.data_ptr());
  p.sums = static_cast<double*>(sums.data_ptr());
  backend::channel_sums(p, x);
  return sums;
}

void channel_add(const Tensor& y, const Tensor& x, const Tensor& line, int64_t inner) {
  ChannelAdd p{};
  STD_TORCH_CHECK(line.dim() == 2 && line.size(0) == 2 && line.is_contiguous() && line.scalar_type() == accumulator(x),
                  "snnfast: line is not a contiguous [2, C] of the right dtype");
  fill(p, x, line.size(1), inner);
  check_vector("y", y, p.N, x.scalar_type());
  p.line = line.data_ptr();
  p.y = y.data_ptr();
  if (p.N) backend::channel_add(p, x);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(snnfast, SNN_KEY, m) {
  m.impl("channel_sums", TORCH_BOX(&channel_sums));
  m.impl("channel_add", TORCH_BOX(&channel_add));
}

}  // namespace snn
