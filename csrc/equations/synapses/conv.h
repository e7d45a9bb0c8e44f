// A convolution over spikes: the C++ twin of snnfast/equations/synapses/conv.py, which states the equation.
#pragma once
#include "../../host_device.h"

namespace snn::inline SNN_ISA {

struct Conv {
  static constexpr bool whole = false;  // sums of whole numbers

  template <class V>
  SNN_HD static V add(V total, V x, V w) {
    return total + x * w;
  }
};

}  // namespace snn
