// QCFS, one element: the C++ twin of snnfast/equations/activations/qcfs.py, which states the equations.
#pragma once
#include "../../host_device.h"
#include "../../params.h"

namespace snn::inline SNN_ISA {

enum class Grad : int { qcfs, srp, paper };

// The fields of class Rule in Python: levels, grad.
template <class S>
struct QcfsNumbers {
  using Scalar = S;
  S levels, inverse;  // inverse = 1 / levels
  Grad grad;
  SNN_HD explicit QcfsNumbers(const Rule& r) : levels(S(r.of[0])), inverse(S(1) / levels), grad(Grad(int(r.of[1]))) {}
};

struct QCFS {
  static constexpr int fields = 2;  // of class Rule
  template <class S> using Numbers = QcfsNumbers<S>;

  template <class V, class K>
  SNN_HD static V quantise(V z, const K& k) {
    using S = typename K::Scalar;
    const V zero = splat<V>(S(0)), one = splat<V>(S(1));
    z = where(z < zero, zero, z);
    z = where(z > one, one, z);
    return ratio(round_down(z * k.levels + S(0.5)), k.levels, k.inverse);
  }

  template <class V, class K>
  SNN_HD static V fwd(V x, V theta, const K& k) {
    return quantise(x / theta, k) * theta;
  }

  // Returns dx and puts this element's share of dtheta into dtheta.
  template <class V, class K>
  SNN_HD static V bwd(V& dtheta, V dy, V x, V theta, const K& k) {
    using S = typename K::Scalar;
    const S levels = k.levels;
    const V zero = splat<V>(S(0)), one = splat<V>(S(1)), top = splat<V>(levels);
    const V z = x / theta, outside = where(z == z, zero, z);  // a NaN quotient stays NaN
    if (k.grad == Grad::qcfs) {
      auto inside = (z >= zero) & (z <= one);
      dtheta = where(inside, dy * (quantise(z, k) - z), where(z > one, dy, outside));
      return where(inside, dy, outside);
    }
    const V f = round_down(z * levels + S(0.5));
    auto inside = (f >= zero) & (k.grad == Grad::srp ? f <= top : f < top);
    auto above = k.grad == Grad::srp ? f > top : f >= top;
    dtheta = where(inside, dy * (quantise(z, k) - z), where(above, dy, outside));
    return where(inside, dy, outside);
  }
};

}  // namespace snn
