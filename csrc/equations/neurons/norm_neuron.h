// Batch norm and the neuron behind it, one time step: the C++ twin of snnfast/equations/neurons/norm_neuron.py, which states the equations.
#pragma once
#include "../../host_device.h"
#include "../../params.h"
#include "../parameters.h"
#include "iaf.h"
#include "plif.h"

namespace snn::inline SNN_ISA {

struct NormRule : IafRule {
  bool learnt;
  int asked;
  SNN_HD explicit NormRule(const Rule& rule) : IafRule(rule), learnt(rule.of[IAF<false>::fields] != 0), asked(int(rule.of[IAF<false>::fields + 1])) {}
};

// The rule is IAF's, in volts, without offset and memory.
template <class S>
struct NormNumbers : IafNumbers<S> {
  static constexpr bool normalised = false, memory = false;
  static constexpr S offset = S(0);
  bool learnt;
  SNN_HD explicit NormNumbers(const NormRule& r) : IafNumbers<S>(r), learnt(r.learnt) {}
};

// The rules of training, with one surrogate.
template <class S, Surrogate which>
struct TrainedNormNumbers : NormNumbers<S> {
  static constexpr bool brief = true, strict = false;
  static constexpr Surrogate surrogate = which;
  SNN_HD explicit TrainedNormNumbers(const NormRule& r) : NormNumbers<S>(r) {}
};

struct NormedNeuron {
  static constexpr int fields = IAF<false>::fields + 2, parameters = 4;  // theta, rho, scale, shift
  static constexpr bool counts = false, levels = false;

  static bool is_signed(const Rule&) { return false; }
  static bool remembers(const Rule&) { return false; }
  static int asked(const Rule& r) { return NormRule(r).asked; }

  template <class S, Narrow narrow, bool forward, class F>
  static void with_numbers(const Rule& rule, F&& f) {
    const NormRule r(rule);
    if constexpr (narrow == Narrow::trained)
      if (!r.strict) return with_surrogate<forward>(r.surrogate, [&](auto which) { f(TrainedNormNumbers<S, which()>(r)); });
    f(NormNumbers<S>(r));
  }

  template <class V, class K>
  SNN_HD static V start(typename K::Scalar v0, const Parameters<V, 4>& own, const K&) {
    return v0 * own.e[0];
  }

  // u, the potential before the reset.
  template <class V, class K>
  SNN_HD static V charged(V v, V y, V theta, V rho, const K& k) {
    if (k.learnt) return PlifNeuron::drive(v, y, rho, k);
    return IAF<false>::drive(v, y, theta, k);
  }

  template <class V, class K>
  SNN_HD static V step(V& v, V& n, V x, const Parameters<V, 4>& own, const K& k) {
    return IAF<false>::discharge(v, n, charged(v, x * own.e[2] + own.e[3], own.e[0], own.e[1], k), own.e[0], k);
  }

  template <class V, class K>
  SNN_HD static V step_bwd(V& c, Parameters<V, 4>& share, V dy, V v, V n, V x, const Parameters<V, 4>& own, const K& k) {
    using S = typename K::Scalar;
    const V theta = own.e[0], rho = own.e[1], y = x * own.e[2] + own.e[3];
    V dtheta, s;
    const V du = IAF<false>::discharge_bwd(dtheta, s, c, dy, charged(v, y, theta, rho, k), n, theta, k);
    V current = du;
    c = du;
    if (k.learnt) {
      const V above = PlifNeuron::above(v, k);
      share.e[1] = share.e[1] + (k.decay_input ? du * (y - above) : du * -above);
      if (k.decay_input) current = du * rho;
      c = du * (splat<V>(S(1)) - rho);
    } else if (k.leaky) {
      c = leak_bwd(current, du, k);
    }
    share.e[0] = share.e[0] + dtheta;
    share.e[2] = share.e[2] + current * x;
    share.e[3] = share.e[3] + current;
    return current * own.e[2];
  }

  template <class V, class K>
  SNN_HD static V start_bwd(V c, typename K::Scalar v0, const K&) {
    return c * v0;
  }
};

// The engines ask for an equation with negative spikes and for one without; this neuron has no negative spikes, so one class serves both.
template <bool> using Normed = NormedNeuron;

}  // namespace snn
