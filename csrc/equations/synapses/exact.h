// Sums of whole numbers: the C++ twin of snnfast/equations/synapses/exact.py, which states the definition.
#pragma once
#include "../../host_device.h"

namespace snn::inline SNN_ISA {

struct Exact {
  static constexpr bool whole = true;

  template <class V>
  SNN_HD static V add(V total, V s, V w) {
    return total + s * w;
  }

  template <class V>
  SNN_HD static V add_one(V total, V w) {  // of s = 1
    return total + w;
  }

  // y: the sum, rounded to fp32.
  template <class V>
  SNN_HD static V current(V y, V scale) {
    return y * scale;
  }
};

}  // namespace snn
