// Layer norm of a row: the C++ twin of snnfast/equations/functions/layer_norm.py, which states the equation.
#pragma once
#include "../../host_device.h"
#include "../../params.h"

namespace snn::inline SNN_ISA {

struct LayerNorm {
  template <class S>
  struct Numbers {
    S eps;
    SNN_HD explicit Numbers(const Rule& r) : eps(S(r.of[0])) {}
  };

  template <class S, class Row>
  SNN_HD static void apply(Row& row, const Numbers<S>& k) {
    using V = typename Row::V;
    const V n = splat<V>(S(row.columns()));
    const V mean = row.total([](V x) { return x; }) / n;
    row.each([&](V x) { return x - mean; });
    const V deviation = square_root(row.total([](V d) { return d * d; }) / n + k.eps);
    row.each_with([&](V d, V w, V b) { return d / deviation * w + b; });
  }
};

}  // namespace snn
