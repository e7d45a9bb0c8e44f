// snnfast::qcfs_fwd, qcfs_bwd for one backend. Schemas: snnfast/ops/qcfs.py.
#include <algorithm>
#include <tuple>
#include <vector>

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
  backend::parallel((p.N + kTile - 1) / kTile, kTile, [&](int64_t first, int64_t end) {
    kernels().qcfs_fwd(p, first * kTile, std::min(p.N, end * kTile));
  });
  return y;
}

// Stage two of dtheta: adds what the tiles of stage one found for each threshold, in the order of the tiles.
template <class S>
void join(S* dtheta, const S* partial, int64_t C, int64_t tiles_per_threshold) {
  std::vector<double> sum(C, 0.0);
  for (int64_t t = 0; t < tiles_per_threshold; ++t)
    for (int64_t c = 0; c < C; ++c) sum[c] += partial[t * C + c];
  for (int64_t c = 0; c < C; ++c) dtheta[c] = S(sum[c]);
}

std::tuple<Tensor, Tensor> qcfs_bwd(const Tensor& dy, const Tensor& x, const Tensor& theta, int64_t inner, int64_t levels,
                                    std::string grad) {
  Elementwise p = params(x, theta, inner, levels, grad);
  check_vector("dy", dy, p.N, x.scalar_type());
  const ScalarType acc = accumulator(x);
  const Tensor dx = empty(x, {p.N}, x.scalar_type()), dtheta = empty(x, {p.C}, acc);
  p.dy = dy.data_ptr();
  p.dx = dx.data_ptr();
  // A tile of stage one: kTile elements; one run of a threshold; or as many [C, inner] rows as fill kTile elements.
  const bool one = p.C == 1, runs = !one && p.inner >= kUnit;
  const int64_t rows = std::max<int64_t>(1, kTile / (p.C * p.inner));
  const int64_t size = one ? kTile : runs ? p.inner : rows * p.C * p.inner;
  const int64_t tiles = (p.N + size - 1) / size;
  // One number per tile, or per tile and threshold where a tile holds them all.
  const int64_t numbers = one || runs ? tiles : tiles * p.C;
  const Tensor partial = empty(x, {numbers}, acc);
  p.partial = partial.data_ptr();
  backend::parallel(tiles, size, [&](int64_t first, int64_t end) { kernels().qcfs_bwd(p, rows, first, end); });
  if (acc == ScalarType::Double)
    join(static_cast<double*>(dtheta.data_ptr()), static_cast<const double*>(partial.data_ptr()), p.C, numbers / p.C);
  else
    join(static_cast<float*>(dtheta.data_ptr()), static_cast<const float*>(partial.data_ptr()), p.C, numbers / p.C);
  return {dx, dtheta};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(snnfast, SNN_KEY, m) {
  m.impl("qcfs_fwd", TORCH_BOX(&qcfs_fwd));
  m.impl("qcfs_bwd", TORCH_BOX(&qcfs_bwd));
}

}  // namespace snn
