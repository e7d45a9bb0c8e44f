// Which threshold element i has: theta[(i / inner) % C], without a division where 32 bits suffice.
#pragma once
#include <cstdint>

#include "../host_device.h"

namespace snn::inline SNN_ISA {

// n / d for 0 <= n < 2^31, as a product and a shift (Granlund and Montgomery, 1994).
struct Divisor {
  uint32_t m = 1, s = 0;

  Divisor() = default;
  explicit Divisor(uint32_t d) {
    while ((uint64_t(1) << s) < d) ++s;
    m = uint32_t((((uint64_t(1) << s) - d) << 32) / d) + 1;
  }
  __device__ __forceinline__ uint32_t operator()(uint32_t n) const { return (__umulhi(n, m) + n) >> s; }
};

struct Pattern {
  int64_t C, inner;
  bool small;  // every index is below 2^31
  Divisor by_inner, by_C;

  Pattern(int64_t N, int64_t C, int64_t inner) : C(C), inner(inner), small(N < (int64_t(1) << 31)) {
    if (small) by_inner = Divisor(uint32_t(inner)), by_C = Divisor(uint32_t(C));
  }
  __device__ __forceinline__ int64_t operator()(int64_t i) const {
    if (C == 1) return 0;
    if (small) {
      const uint32_t run = by_inner(uint32_t(i));
      return run - by_C(run) * uint32_t(C);
    }
    return (i / inner) % C;
  }
};

}  // namespace snn
