// Max pooling over windows: the C++ twin of snnfast/equations/functions/max_pool.py, which states the definition.
#pragma once
#include "../../host_device.h"

namespace snn::inline SNN_ISA {

struct MaxPool {
  template <class V>
  SNN_HD static auto better(V x, V largest) {
    return (x > largest) | (x != x);
  }
};

}  // namespace snn
