// Thresholds in the order of the elements: element i has theta[(i / inner) % C].
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "simd.h"

namespace snn::inline SNN_ISA {

// Writes theta of elements [first, first + count) to out, from row q of theta. P has theta, C and inner.
template <class S, class P>
inline void spread(S* out, const P& p, int64_t first, int count, int q = 0) {
  const S* theta = static_cast<const S*>(p.theta) + q * p.C;
  int64_t run = first % p.inner, c = (first / p.inner) % p.C;
  for (int i = 0; i < count;) {
    const int many = int(std::min<int64_t>(count - i, p.inner == 1 ? p.C - c : p.inner - run));
    if (p.inner == 1) {
      std::memcpy(out + i, theta + c, sizeof(S) * many);
      c = 0;
    } else {
      std::fill(out + i, out + i + many, theta[c]);
      run += many;
      if (run == p.inner) run = 0, c = c + 1 == p.C ? 0 : c + 1;
    }
    i += many;
  }
}

}  // namespace snn
