// exp(z) for z <= 0: the C++ twin of snnfast/equations/functions/exponential.py, which states the operations.
#pragma once
#include "../../host_device.h"

namespace snn::inline SNN_ISA {

// 2^-m, where m is a power of two.
constexpr double power(int m) { return m == 1 ? 0.5 : power(m / 2) * power(m / 2); }

// p 2^-m for a whole number m in [0, 2 bit): one product for each bit of m that is set, from `bit` down.
template <int bit, class S, class V>
SNN_HD V scaled_down(V p, V m) {
  constexpr S factor = S(power(bit));
  const V at = splat<V>(S(bit));
  p = where(m >= at, p * factor, p);
  if constexpr (bit == 1) return p;
  else return scaled_down<bit / 2, S>(p, where(m >= at, m - S(bit), m));
}

template <class S, class V>
SNN_HD V exponential_below(V z) {
  constexpr bool wide = sizeof(S) == 8;
  const V n = round_down(z * S(1.4426950408889634) + S(0.5));
  const V r = (z - n * S(0.693359375)) + n * S(2.1219444005469057e-4);
  V p = splat<V>(S(1.0 / 5040));
  if constexpr (wide) {
    p = r * S(1.0 / 6227020800) + S(1.0 / 479001600);
    p = p * r + S(1.0 / 39916800);
    p = p * r + S(1.0 / 3628800);
    p = p * r + S(1.0 / 362880);
    p = p * r + S(1.0 / 40320);
    p = p * r + S(1.0 / 5040);
  }
  p = p * r + S(1.0 / 720);
  p = p * r + S(1.0 / 120);
  p = p * r + S(1.0 / 24);
  p = p * r + S(1.0 / 6);
  p = p * r + S(0.5);
  p = p * r + S(1);
  p = p * r + S(1);
  const V zero = splat<V>(S(0)), m = zero - n;
  p = scaled_down<wide ? 512 : 64, S>(p, m);
  return where(z < splat<V>(S(wide ? -707 : -86)), zero, p);
}

}  // namespace snn
