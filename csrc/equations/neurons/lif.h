// The leak of a leaky integrate-and-fire neuron: the C++ twin of snnfast/equations/neurons/lif.py, which states the equations.
#pragma once
#include "../../host_device.h"

namespace snn::inline SNN_ISA {

template <class V, class K>
SNN_HD V leak(V v, V x, const K& k) {
  using S = typename K::Scalar;
  const V r = splat<V>(k.hard ? k.v_reset : S(0)), tau = splat<V>(k.tau);
  if (k.decay_input) return v + (x - (v - r)) / tau;
  if (k.product) return v * k.keep + x;
  return v - (v - r) / tau + x;
}

// Returns the gradient of v before the step, given du, the gradient of u. Puts the gradient of x into dx.
template <class V, class K>
SNN_HD V leak_bwd(V& dx, V du, const K& k) {
  dx = k.decay_input ? du / splat<V>(k.tau) : du;
  return du * k.keep;
}

}  // namespace snn
