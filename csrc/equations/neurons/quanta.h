// Integrate-and-fire with several quanta in one step: the C++ twin of snnfast/equations/neurons/quanta.py, which states the equations.
#pragma once
#include "../../host_device.h"
#include "../../params.h"
#include "../narrow.h"
#include "iaf.h"

namespace snn::inline SNN_ISA {

// The fields of class Rule in Python, in their order. The fields that iaf.h has too are moved to where IafRule reads them.
struct QuantaRule : IafRule {
  double m;
  bool power;

  SNN_HD explicit QuantaRule(const Rule& rule) : IafRule(common(rule)), m(rule.of[0]), power(rule.of[1] != 0) {}

 private:
  SNN_HD static Rule common(const Rule& rule) {
    const double* r = rule.of;
    Rule iaf{};
    iaf.of[0] = r[2], iaf.of[4] = r[3], iaf.of[5] = r[4], iaf.of[6] = r[5], iaf.of[7] = r[6], iaf.of[8] = r[7], iaf.of[9] = r[8];
    return iaf;
  }
};

template <class S>
struct QuantaNumbers : IafNumbers<S> {
  static constexpr bool memory = false;
  S m;
  bool power, open;  // open: no upper cap on the count, so that s is at most m
  SNN_HD explicit QuantaNumbers(const QuantaRule& r) : IafNumbers<S>(r), m(S(r.m)), power(r.power), open(r.p_max > 1e30) {}
};

// The rule of conversion.
template <class S>
struct PlainQuantaNumbers : QuantaNumbers<S> {
  static constexpr bool plain = true, brief = true, normalised = true, power = false;
  SNN_HD explicit PlainQuantaNumbers(const QuantaRule& r) : QuantaNumbers<S>(r) {}
  static bool fits(const QuantaRule& r) { return r.normalised && !r.power; }
};

template <bool Signed>
struct Quanta {
  static constexpr int fields = 9, parameters = 1;       // theta, the quantum
  static constexpr bool counts = Signed, levels = true;  // spikes are any whole numbers

  static bool is_signed(const Rule& r) { return QuantaRule(r).negative != Negative::none; }
  static bool remembers(const Rule&) { return false; }
  static int asked(const Rule&) { return parameters; }  // how many of the last parameters have a gradient

  template <class S, Narrow narrow, bool forward, class F>
  static void with_numbers(const Rule& rule, F&& f) {
    const QuantaRule r(rule);
    if constexpr (narrow != Narrow::none && forward)
      if (PlainQuantaNumbers<S>::fits(r)) return f(PlainQuantaNumbers<S>(r));
    f(QuantaNumbers<S>(r));
  }

  template <class V, class K>
  SNN_HD static V start(typename K::Scalar v0, V theta, const K& k) {
    return IAF<Signed>::start(v0, theta, k);
  }

  // The range that s may take after n quanta.
  template <class V>
  struct Reach {
    V lo, hi;
  };

  template <class V, class K>
  SNN_HD static Reach<V> reach(V n, const K& k) {
    const V zero = splat<V>(typename K::Scalar(0)), most = splat<V>(k.m);
    if constexpr (!Signed) {
      return {zero, most};
    } else {
      V lo = k.n_min - n;
      lo = where(lo > -most, lo, -most);
      lo = where(lo < zero, lo, zero);
      if (k.open) return {lo, most};
      const V hi = k.p_max - n, below = where(hi < most, hi, most);
      return {lo, where(below > zero, below, zero)};
    }
  }

  // The power of two nearest to t >= 0. The ladder ends at m, so t is first limited to 2 m.
  template <class V, class K>
  SNN_HD static V amplitude(V t, const K& k) {
    const V most = splat<V>(typename K::Scalar(2) * k.m);
    return nearest_power(where(t < most, t, most));
  }

  // The largest amplitude that is at most hi, a whole number >= 0.
  template <class V, class K>
  SNN_HD static V within(V hi, const K& k) {
    return k.open ? hi : nearest_power(hi * typename K::Scalar(0.75));  // m is a power of two
  }

  template <class V, class K>
  SNN_HD static V fire(V z, const Reach<V>& reach, const K& k) {
    using S = typename K::Scalar;
    const V zero = splat<V>(S(0)), lo = reach.lo, hi = reach.hi;
    if (!k.power) {
      const V f = round_down(z), up = where(z >= splat<V>(S(1)), where(f < hi, f, hi), zero);
      if constexpr (Signed) return where(z < zero, where(f > lo, f, lo), up);
      else return up;
    }
    const V a = amplitude(where(z < zero, -z, z), k), most = within(hi, k);
    const V up = where(z >= splat<V>(S(0.75)), where(a < most, a, most), zero);
    if constexpr (Signed) {
      const V least = nearest_power(lo * S(-0.75));
      return where(z <= splat<V>(S(-0.75)), zero - where(a < least, a, least), up);
    } else {
      return up;
    }
  }

  template <class V, class K>
  SNN_HD static V units(V u, V theta, const K& k) {
    return k.normalised ? u : u / theta;
  }

  template <class V, class K>
  SNN_HD static V step(V& v, V& n, V x, V theta, const K& k) {
    const V u = IAF<Signed>::charge(v, x, theta, k), s = fire(units(u, theta, k), reach(n, k), k);
    v = k.normalised ? u - s : u - s * theta;
    n = n + s;
    return s;
  }

  // ds/dz.
  template <class V, class K>
  SNN_HD static V slope(V z, const Reach<V>& reach, const K& k) {
    using S = typename K::Scalar;
    const V one = splat<V>(S(1)), zero = splat<V>(S(0)), lo = reach.lo, hi = reach.hi;
    if (!k.power) {
      V r = round_down(z + S(0.5));
      r = where(r < hi, r, hi);
      r = where(r > lo + S(1), r, lo + S(1));
      return where(lo < hi, IAF<Signed>::height(z - r, one, k), zero);
    }
    V most = within(hi, k), t = z;
    if constexpr (Signed) {
      most = where(z < zero, nearest_power(lo * S(-0.75)), most);
      t = where(z < zero, -z, z);
    }
    V a = amplitude(where(t < splat<V>(S(0.75)), one, t), k);
    a = where(a < most, a, most);
    a = where(a > one, a, one);
    return where(most > zero, IAF<Signed>::height((t - a * S(0.75)) / a, one, k), zero);
  }

  // Takes and returns what IAF::step_bwd does.
  template <class V, class K>
  SNN_HD static V step_bwd(V& c, V& dtheta, V dy, V v, V n, V x, V theta, const K& k) {
    const V z = units(IAF<Signed>::charge(v, x, theta, k), theta, k);
    const Reach<V> room = reach(n, k);
    const V s = fire(z, room, k), h = slope(z, room, k);
    if (k.normalised) {
      V g = dy * theta;
      if (!k.detach_reset) g = g - c;
      c = c + g * h;
      const V dx = c / theta;
      dtheta = dtheta + (dy * s - dx * (x / theta));
      return dx;
    }
    V g = dy;
    if (!k.detach_reset) g = dy - c;
    g = g * h;
    dtheta = dtheta + ((dy - c) * s - g * z);
    c = c + g;
    return c;
  }

  template <class V, class K>
  SNN_HD static V start_bwd(V c, typename K::Scalar v0, const K& k) {
    return IAF<Signed>::start_bwd(c, v0, k);
  }
};

}  // namespace snn
