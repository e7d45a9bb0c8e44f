// The start voltage that COS calibrates: the C++ twin of snnfast/equations/neurons/cos.py, which states the equations.
#pragma once
#include "iaf.h"

namespace snn::inline SNN_ISA {

template <class S>
struct CosNumbers {
  using Scalar = S;
  bool normalised;
  S max_shift;
  SNN_HD explicit CosNumbers(const Rule& r) : normalised(r.of[0] != 0), max_shift(S(r.of[1])) {}
};

struct COS {
  static constexpr int fields = 2;  // of class Rule: normalised, max_shift
  template <class S> using Numbers = CosNumbers<S>;

  template <class V, class K>
  SNN_HD static V start(typename K::Scalar v0, V theta, const K& k) {
    return IAF<false>::start(v0, theta, k);
  }

  template <class V, class K>
  SNN_HD static void unwatched(V& low, V& high, V theta, const K& k) {
    using S = typename K::Scalar;
    const V j = IAF<false>::jump(theta, k);
    low = j * S(1000);
    high = j * S(-1000);
  }

  template <class V, class K>
  SNN_HD static void watch(V& v, V& n, V& low, V& high, V x, V theta, const K& k) {
    using S = typename K::Scalar;
    const V j = IAF<false>::jump(theta, k), u = IAF<false>::charge(v, x, theta, k);
    const auto up = u >= j;
    low = where(up & (u < low), u, low);
    high = where((u < j) & (u > high), u, high);
    const V s = where(up, splat<V>(S(1)), splat<V>(S(0)));
    v = lowered(u, s, up, j);
    n = n + s;
  }

  template <class V, class K>
  SNN_HD static V shifted(V v, V n, V low, V high, V theta, const K& k) {
    using S = typename K::Scalar;
    const V j = IAF<false>::jump(theta, k), one = splat<V>(S(1)), zero = splat<V>(S(0)), half = splat<V>(S(0.5)), most = splat<V>(k.max_shift);
    V down = low / j - S(0.999), rise = splat<V>(S(1.001)) - high / j;
    down = where(down > one, down, one);
    rise = where(rise > one, rise, one);
    rise = where(rise > most, most, rise);
    // A NaN membrane stays NaN.
    return where(v == v, where((v < zero) & (n > zero), half - down, where(v >= j, half + rise, half)), v);
  }
};

}  // namespace snn
