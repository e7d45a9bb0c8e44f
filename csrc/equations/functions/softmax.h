// Softmax of a row: the C++ twin of snnfast/equations/functions/softmax.py, which states the equation.
#pragma once
#include "../../params.h"
#include "exponential.h"

namespace snn::inline SNN_ISA {

struct Softmax {
  template <class S>
  struct Numbers {
    SNN_HD explicit Numbers(const Rule&) {}
  };

  template <class S, class Row>
  SNN_HD static void apply(Row& row, const Numbers<S>&) {
    using V = typename Row::V;
    const V most = row.largest();
    row.each([&](V x) { return exponential_below<S>(x - most); });
    const V sum = row.total([](V e) { return e; });
    row.each([&](V e) { return e / sum; });
  }
};

}  // namespace snn
