// Integrate-and-fire, one time step: the C++ twin of snnfast/equations/neurons/iaf.py, which states the equations.
// V is a lane: float or double on CUDA, a vector of them on CPU. Signed: with negative spikes.
#pragma once
#include <cmath>
#include <type_traits>

#include "../../host_device.h"
#include "../../params.h"
#include "../narrow.h"
#include "lif.h"

namespace snn::inline SNN_ISA {

enum class Negative : int { none, stbif, snm };
enum class Surrogate : int { zif, triangle, rectangle, atan, sigmoid, box };

// The fields of class Rule in Python, in their order.
struct IafRule {
  bool normalised, strict, hard;
  double v_reset;
  Negative negative;
  double n_min, p_max;
  Surrogate surrogate;
  double gamma;
  bool detach_reset, memory;
  double offset, tau;  // tau 0: no leak
  bool decay_input, product;

  SNN_HD explicit IafRule(const Rule& rule) {
    const double* r = rule.of;
    normalised = r[0] != 0, strict = r[1] != 0, hard = r[2] != 0, v_reset = r[3];
    negative = Negative(int(r[4])), n_min = r[5], p_max = r[6];
    surrogate = Surrogate(int(r[7])), gamma = r[8], detach_reset = r[9] != 0;
    memory = r[10] != 0, offset = r[11];
    tau = r[12], decay_input = r[13] != 0, product = r[14] != 0;
  }
};

template <class S>  // scalar of the lane
struct IafNumbers {
  using Scalar = S;
  static constexpr bool plain = false, brief = false;  // brief: a step has few branches
  bool normalised, strict, hard, snm, detach_reset, memory, leaky, decay_input, product;
  Surrogate surrogate;
  S v_reset, n_min, p_max, gamma, zif_scale, rectangle_edge, rectangle_height, atan_width, atan_half, offset, rise, tau, keep;

  SNN_HD explicit IafNumbers(const IafRule& r)
      : normalised(r.normalised), strict(r.strict), hard(r.hard), snm(r.negative == Negative::snm), detach_reset(r.detach_reset), memory(r.memory),
        leaky(r.tau != 0), decay_input(r.decay_input), product(r.product), surrogate(shape(r.surrogate)), v_reset(S(r.v_reset)), n_min(S(r.n_min)),
        p_max(S(r.p_max)), gamma(S(r.gamma)), zif_scale(S(1.0 / (r.gamma * r.gamma))), rectangle_edge(edge(r)), rectangle_height(S(0.5 / r.gamma)),
        atan_width(S(1.5707963267948966 * r.gamma)), atan_half(S(0.5 * r.gamma)), offset(S(r.offset)), rise(S(1.0 - r.offset)), tau(S(r.tau)),
        keep(S(1.0 - 1.0 / r.tau)) {}

  // A box is a rectangle without its edges: the largest |a| inside a box is the largest number below gamma.
  SNN_HD static Surrogate shape(Surrogate which) { return which == Surrogate::box ? Surrogate::rectangle : which; }
  SNN_HD static S edge(const IafRule& r) { return r.surrogate == Surrogate::box ? std::nextafter(S(r.gamma), S(0)) : S(r.gamma); }
};

// The rule that nearly every launch has. A forward uses no surrogate, so any surrogate fits there.
template <class S>
struct PlainIafNumbers : IafNumbers<S> {
  static constexpr bool plain = true, brief = true, normalised = false, strict = false, hard = false, detach_reset = false, memory = false,
                        leaky = false;
  static constexpr S offset = S(0);
  static constexpr Surrogate surrogate = Surrogate::zif;
  SNN_HD explicit PlainIafNumbers(const IafRule& r) : IafNumbers<S>(r) {}
  static bool fits(const IafRule& r, bool forward) {
    const bool reset = !r.normalised && !r.strict && !r.hard && !r.memory && r.offset == 0 && r.tau == 0;
    return reset && (forward || (!r.detach_reset && r.surrogate == Surrogate::zif));
  }
};

// The rules of training: in volts, no offset, any reset.
template <class S, Surrogate which, bool leak>
struct TrainedIafNumbers : IafNumbers<S> {
  static constexpr bool brief = true, normalised = false, strict = false, memory = false, leaky = leak;
  static constexpr S offset = S(0);
  static constexpr Surrogate surrogate = which;
  SNN_HD explicit TrainedIafNumbers(const IafRule& r) : IafNumbers<S>(r) {}
  static bool fits(const IafRule& r) { return !r.normalised && !r.strict && !r.memory && r.offset == 0 && (r.tau != 0) == leak; }
};

// Calls f with the surrogate as a compile-time constant. A forward uses no surrogate, so one constant serves all of them.
template <bool forward, class F>
void with_surrogate(Surrogate which, F&& f) {
  using enum Surrogate;
  if constexpr (forward) {
    f(std::integral_constant<Surrogate, zif>{});
  } else {
    switch (which) {
      case zif: return f(std::integral_constant<Surrogate, zif>{});
      case triangle: return f(std::integral_constant<Surrogate, triangle>{});
      case rectangle:
      case box: return f(std::integral_constant<Surrogate, rectangle>{});
      case atan: return f(std::integral_constant<Surrogate, atan>{});
      default: return f(std::integral_constant<Surrogate, sigmoid>{});
    }
  }
}

template <bool Signed>
struct IAF {
  static constexpr int fields = 15;       // of class Rule
  static constexpr int parameters = 1;    // theta
  static constexpr bool counts = Signed;  // the count gates the spikes, so the backward needs it
  static constexpr bool levels = false;   // a spike is -1, 0 or 1

  static bool is_signed(const Rule& r) { return IafRule(r).negative != Negative::none; }
  static bool remembers(const Rule& r) { return IafRule(r).memory; }  // the count is a float memory
  static int asked(const Rule&) { return parameters; }                // how many of the last parameters have a gradient

  // Calls f with the numbers of the rule, in the narrowest type that `narrow` allows and that holds them.
  template <class S, Narrow narrow, bool forward, class F>
  static void with_numbers(const Rule& rule, F&& f) {
    const IafRule r(rule);
    if constexpr (narrow != Narrow::none)
      if (PlainIafNumbers<S>::fits(r, forward)) return f(PlainIafNumbers<S>(r));
    if constexpr (narrow == Narrow::trained && !Signed) {
      if (TrainedIafNumbers<S, Surrogate::zif, false>::fits(r))
        return with_surrogate<forward>(r.surrogate, [&](auto which) { f(TrainedIafNumbers<S, which(), false>(r)); });
      if (TrainedIafNumbers<S, Surrogate::zif, true>::fits(r))
        return with_surrogate<forward>(r.surrogate, [&](auto which) { f(TrainedIafNumbers<S, which(), true>(r)); });
    }
    f(IafNumbers<S>(r));
  }

  template <class V, class K>
  SNN_HD static V start(typename K::Scalar v0, V theta, const K& k) {
    return k.normalised ? splat<V>(v0) : v0 * theta;
  }

  template <class V, class K>
  SNN_HD static V charge(V v, V x, V theta, const K& k) {
    return k.normalised ? v + x / theta : v + x;
  }

  template <class V, class K>
  SNN_HD static V jump(V theta, const K& k) {
    using S = typename K::Scalar;
    return k.normalised ? splat<V>(S(1)) : theta;
  }

  // drive: u, the potential before the reset. lift: what is compared with the upper threshold.
  template <class V, class K>
  SNN_HD static V drive(V v, V x, V theta, const K& k) {
    if (k.leaky) return leak(v, x, k);
    return charge(v, x, theta, k);
  }

  template <class V, class K>
  SNN_HD static V lift(V u, V j, const K& k) {
    return k.offset != 0 ? u + j * k.offset : u;
  }

  // Whether a potential u crosses the threshold upwards (up) or downwards (down).
  template <class V, class K>
  SNN_HD static auto up(V u, V n, V j, const K& k) {
    u = lift(u, j, k);
    if constexpr (Signed) return (k.strict ? u > j : u >= j) & (n < splat<V>(k.p_max));
    else return k.strict ? u > j : u >= j;
  }

  template <class V, class K>
  SNN_HD static auto down(V u, V n, V j, const K& k) {
    return (k.snm ? u <= -j : u < splat<V>(typename K::Scalar(0))) & (n > splat<V>(k.n_min));
  }

  // The spike of a potential u.
  template <class V, class K>
  SNN_HD static V fire(V u, V n, V j, const K& k) {
    using S = typename K::Scalar;
    const V zero = splat<V>(S(0)), one = splat<V>(S(1)), s = where(up(u, n, j, k), one, zero);
    if constexpr (Signed) return where(down(u, n, j, k), -one, s);
    else return s;
  }

  template <class V, class K>
  SNN_HD static V step(V& v, V& n, V x, V theta, const K& k) {
    return discharge(v, n, drive(v, x, theta, k), theta, k);
  }

  // The spike of a potential u, and the state after it.
  template <class V, class K>
  SNN_HD static V discharge(V& v, V& n, V u, V theta, const K& k) {
    using S = typename K::Scalar;
    const V j = jump(theta, k), s = fire(u, n, j, k);
    // lowered: u - s j, in the form that is cheapest on each engine.
    if (k.hard) v = where(s == splat<V>(S(0)), u, splat<V>(k.v_reset));
    else if constexpr (Signed) v = lowered(u, s, up(u, n, j, k), down(u, n, j, k), j);
    else v = lowered(u, s, up(u, n, j, k), j);
    if (Signed && k.memory) n = n + s * theta;
    else n = n + s;
    return s;
  }

  template <class V, class K>
  SNN_HD static V height(V a, V j, const K& k) {
    using S = typename K::Scalar;
    const V zero = splat<V>(S(0)), one = splat<V>(S(1));
    V m = magnitude(a);
    switch (k.surrogate) {
      case Surrogate::zif: m = k.gamma - m; return where(m > zero, m, zero) * k.zif_scale;
      case Surrogate::triangle: m = j - m; return where(m > zero, m, zero) / j / j;
      case Surrogate::rectangle: return where(m <= splat<V>(k.rectangle_edge), splat<V>(k.rectangle_height), zero);
      case Surrogate::atan: {
        const V w = a * k.atan_width;
        return splat<V>(k.atan_half) / (w * w + one);
      }
      default: {
        const V g = one / (exponential(a * -k.gamma) + one);
        return g * (one - g) * k.gamma;
      }
    }
  }

  // One step of the adjoint. c is the gradient of v: after the step on entry, before the step on return. dy is masked; v and n are the
  // state before the step. Adds to dtheta, returns dx.
  template <class V, class K>
  SNN_HD static V step_bwd(V& c, V& dtheta, V dy, V v, V n, V x, V theta, const K& k) {
    V share, s;
    const V du = discharge_bwd(share, s, c, dy, drive(v, x, theta, k), n, theta, k);
    c = du;
    if (k.normalised) {
      const V dx = du / theta;
      dtheta = dtheta + (dy * s - dx * (x / theta));
      return dx;
    }
    dtheta = dtheta + share;
    if (k.leaky) {
      V dx;
      c = leak_bwd(dx, du, k);
      return dx;
    }
    return du;
  }

  // Returns the gradient of the potential u, given c, the gradient of v after the step. Puts the spike into s, and theta's share of the gradient,
  // in volts, into `share`.
  template <class V, class K>
  SNN_HD static V discharge_bwd(V& share, V& s, V c, V dy, V u, V n, V theta, const K& k) {
    using S = typename K::Scalar;
    const V zero = splat<V>(S(0));
    const V j = jump(theta, k);
    s = fire(u, n, j, k);
    V h_up = height(lift(u, j, k) - j, j, k), g = dy * theta, du, direct;
    if (!k.hard && !k.detach_reset) g = k.normalised ? g - c : (dy - c) * theta;
    const V r = !k.hard || k.detach_reset ? zero : c * (k.v_reset - u);
    du = k.hard ? where(s == zero, c, zero) : c;
    direct = k.hard ? dy * s : (dy - c) * s;
    // Without negative spikes h_down is 0: ds/du = h_up, ds/dtheta = -h_up, as `risen` changes it.
    V through;
    if constexpr (Signed) {
      h_up = where(n < splat<V>(k.p_max), h_up, zero);
      const V h_down = where(n > splat<V>(k.n_min), k.snm ? height(u + j, j, k) : height(u, j, k), zero);
      const V d_down = k.snm ? h_down : zero;
      du = du + g * (h_up + h_down);
      through = g * (d_down - risen(h_up, k));
      if (k.hard) du = du + r * (h_up - h_down), through = through - r * (risen(h_up, k) + d_down);
    } else {
      du = du + g * h_up;
      through = -(g * risen(h_up, k));
      if (k.hard) du = du + r * h_up, through = through - r * risen(h_up, k);
    }
    share = direct + through;
    return du;
  }

  // h times d(threshold of u)/d(theta). That derivative is 1 without an offset.
  template <class V, class K>
  SNN_HD static V risen(V h, const K& k) {
    return k.offset != 0 ? h * k.rise : h;
  }

  template <class V, class K>
  SNN_HD static V start_bwd(V c, typename K::Scalar v0, const K& k) {
    using S = typename K::Scalar;
    return k.normalised ? splat<V>(S(0)) : c * v0;
  }
};

}  // namespace snn
