// Which threshold element i has: theta[(i / inner) % C], without a division where 32 bits suffice.
#pragma once
#include <cstdint>

#include "../../equations/parameters.h"
#include "lane.h"

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
  bool rows;   // neighbouring elements have neighbouring thresholds, and theta is aligned to 16 bytes
  Divisor by_inner, by_C;

  Pattern(const void* theta, int64_t N, int64_t C, int64_t inner)
      : C(C), inner(inner), small(N < (int64_t(1) << 31)), rows(inner == 1 && reinterpret_cast<uintptr_t>(theta) % 16 == 0) {
    if (small && C > 1) by_inner = Divisor(uint32_t(inner)), by_C = Divisor(uint32_t(C));
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

// theta of the `many` elements from i on; i is a multiple of `many`. One access where the elements share a threshold or have neighbouring
// thresholds.
template <int many, class S>
__device__ __forceinline__ Lanes<S, many> thresholds(const S* theta, const Pattern& pattern, int64_t i) {
  if (pattern.rows && pattern.C % many == 0) return load_lanes<many>(theta + pattern(i));
  const bool shared = pattern.C == 1 || pattern.inner % many == 0;
  Lanes<S, many> r;
  if (shared) r.e[0] = theta[pattern(i)];
#pragma unroll
  for (int j = 0; j < many; ++j) r.e[j] = shared ? r.e[0] : theta[pattern(i + j)];
  return r;
}

// The parameters of the `many` neurons from i on: row q of theta [K, C] is the q-th.
template <class E, class S, int many>
struct OwnLanes {
  Lanes<S, many> row[E::parameters];

  __device__ __forceinline__ OwnLanes(const S* theta, const Pattern& pattern, int64_t i) {
#pragma unroll
    for (int q = 0; q < E::parameters; ++q) row[q] = thresholds<many>(theta + q * pattern.C, pattern, i);
  }
  // The parameters of neuron j.
  __device__ __forceinline__ Own<E, S> operator[](int j) const {
    Own<E, S> own;
#pragma unroll
    for (int q = 0; q < E::parameters; ++q) part(own, q) = row[q].e[j];
    return own;
  }
};

}  // namespace snn
