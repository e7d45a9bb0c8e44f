// snnfast::pool_fwd, pool_bwd for one backend. Schemas: snnfast/ops/pool.py.
#include <tuple>

#include "common.h"

namespace snn {
namespace {

// like: x [P, H, W, C] or dy [P, Ho, Wo, C]; rule: the numbers of PoolRule in their order.
void fill(Pool& p, const Tensor& like, int64_t H, int64_t W, const std::vector<int64_t>& rule) {
  STD_TORCH_CHECK(like.dim() == 4 && like.is_contiguous() && rule.size() == 6, "snnfast: the images are not [P, H, W, C], or the rule not 6 numbers");
  p.dtype = dtype_of(like);
  p.P = like.size(0), p.H = H, p.W = W, p.C = like.size(3);
  p.rule = {rule[0], rule[1], rule[2], rule[3], rule[4], rule[5]};
  const PoolRule& r = p.rule;
  STD_TORCH_CHECK(std::min({r.size_y, r.size_x, r.stride_y, r.stride_x}) >= 1 && r.size_y * r.size_x <= kMostWindow && r.padding_y >= 0 &&
                      r.padding_x >= 0 && 2 * r.padding_y <= r.size_y && 2 * r.padding_x <= r.size_x,
                  "snnfast: no window of a pooling");
  p.Ho = (H + 2 * r.padding_y - r.size_y) / r.stride_y + 1;
  p.Wo = (W + 2 * r.padding_x - r.size_x) / r.stride_x + 1;
  STD_TORCH_CHECK(H + 2 * r.padding_y >= r.size_y && W + 2 * r.padding_x >= r.size_x, "snnfast: the image is smaller than a window");
}

std::tuple<Tensor, Tensor> pool_fwd(const Tensor& x, std::vector<int64_t> rule) {
  PoolFwd p{};
  fill(p, x, x.size(1), x.size(2), rule);
  const Tensor y = empty(x, {p.P, p.Ho, p.Wo, p.C}, x.scalar_type()), at = empty(x, {p.P, p.Ho, p.Wo, p.C}, ScalarType::Byte);
  p.x = x.data_ptr();
  p.y = y.data_ptr();
  p.at = static_cast<uint8_t*>(at.data_ptr());
  if (y.numel()) backend::pool_fwd(p, x);
  return {y, at};
}

Tensor pool_bwd(const Tensor& dy, const Tensor& at, int64_t H, int64_t W, std::vector<int64_t> rule) {
  PoolBwd p{};
  fill(p, dy, H, W, rule);
  STD_TORCH_CHECK(dy.size(1) == p.Ho && dy.size(2) == p.Wo, "snnfast: dy does not fit");
  check_vector("at", at, dy.numel(), ScalarType::Byte);
  const Tensor dx = empty(dy, {p.P, H, W, p.C}, dy.scalar_type());
  p.dy = dy.data_ptr();
  p.at = static_cast<const uint8_t*>(at.data_ptr());
  p.dx = dx.data_ptr();
  if (dx.numel()) backend::pool_bwd(p, dy);
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(snnfast, SNN_KEY, m) {
  m.impl("pool_fwd", TORCH_BOX(&pool_fwd));
  m.impl("pool_bwd", TORCH_BOX(&pool_bwd));
}

}  // namespace snn
