// Parametric leaky integrate-and-fire, one time step: the C++ twin of snnfast/equations/neurons/plif.py, which states the equations.
#pragma once
#include "../../host_device.h"
#include "../../params.h"
#include "../parameters.h"
#include "iaf.h"

namespace snn::inline SNN_ISA {

// The rule is IAF's, in volts, without offset, memory and leak.
template <class S>
struct PlifNumbers : IafNumbers<S> {
  static constexpr bool normalised = false, memory = false, leaky = false;
  static constexpr S offset = S(0);
  SNN_HD explicit PlifNumbers(const IafRule& r) : IafNumbers<S>(r) {}
};

// The rules of training, with one surrogate.
template <class S, Surrogate which>
struct TrainedPlifNumbers : PlifNumbers<S> {
  static constexpr bool brief = true, strict = false;
  static constexpr Surrogate surrogate = which;
  SNN_HD explicit TrainedPlifNumbers(const IafRule& r) : PlifNumbers<S>(r) {}
};

struct PlifNeuron {
  static constexpr int fields = IAF<false>::fields, parameters = 2;  // theta, rho
  static constexpr bool counts = false, levels = false;

  static bool is_signed(const Rule&) { return false; }
  static bool remembers(const Rule&) { return false; }
  static int asked(const Rule&) { return parameters; }  // how many of the last parameters have a gradient

  template <class S, Narrow narrow, bool forward, class F>
  static void with_numbers(const Rule& rule, F&& f) {
    const IafRule r(rule);
    if constexpr (narrow == Narrow::trained)
      if (!r.strict) return with_surrogate<forward>(r.surrogate, [&](auto which) { f(TrainedPlifNumbers<S, which()>(r)); });
    f(PlifNumbers<S>(r));
  }

  template <class V, class K>
  SNN_HD static V start(typename K::Scalar v0, const Parameters<V, 2>& own, const K&) {
    return v0 * own.e[0];
  }

  // v - r, where r is the potential that v decays to.
  template <class V, class K>
  SNN_HD static V above(V v, const K& k) {
    return k.hard ? v - k.v_reset : v;
  }

  // u, the potential before the reset.
  template <class V, class K>
  SNN_HD static V drive(V v, V x, V rho, const K& k) {
    using S = typename K::Scalar;
    if (k.decay_input) return v + (x - above(v, k)) * rho;
    if (k.product) return v * (splat<V>(S(1)) - rho) + x;
    return v - above(v, k) * rho + x;
  }

  template <class V, class K>
  SNN_HD static V step(V& v, V& n, V x, const Parameters<V, 2>& own, const K& k) {
    return IAF<false>::discharge(v, n, drive(v, x, own.e[1], k), own.e[0], k);
  }

  template <class V, class K>
  SNN_HD static V step_bwd(V& c, Parameters<V, 2>& share, V dy, V v, V n, V x, const Parameters<V, 2>& own, const K& k) {
    using S = typename K::Scalar;
    const V theta = own.e[0], rho = own.e[1];
    V dtheta, s;
    const V du = IAF<false>::discharge_bwd(dtheta, s, c, dy, drive(v, x, rho, k), n, theta, k);
    share.e[0] = share.e[0] + dtheta;
    share.e[1] = share.e[1] + (k.decay_input ? du * (x - above(v, k)) : du * -above(v, k));
    c = du * (splat<V>(S(1)) - rho);
    return k.decay_input ? du * rho : du;
  }

  template <class V, class K>
  SNN_HD static V start_bwd(V c, typename K::Scalar v0, const K&) {
    return c * v0;
  }
};

// The engines ask for an equation with negative spikes and for one without; this neuron has no negative spikes, so one class serves both.
template <bool> using PLIF = PlifNeuron;

}  // namespace snn
