// Sums over the numbers of a channel, and the addition of a line x q + p: the C++ twin of snnfast/equations/functions/moments.py, which states the
// equations.
#pragma once
#include "../../host_device.h"

namespace snn::inline SNN_ISA {

struct Moments {
  template <class V>
  SNN_HD static void add(V& total, V& squares, V x, V pivot) {
    const V d = x - pivot;
    total = total + d;
    squares = squares + d * d;
  }
};

struct Correction {
  template <class V>
  SNN_HD static V corrected(V y, V x, V q, V p) {
    return y + (x * q + p);
  }
};

}  // namespace snn
