// The ops of a neuron for one backend: snnfast::<op>_fwd, <op>_out, <op>_bwd. Schemas: snnfast/ops/neuron.py.
#pragma once
#include <tuple>

#include "common.h"

namespace snn {
namespace {

using Maybe = std::optional<Tensor>;

inline ScalarType count_dtype(const Multistep& p, ScalarType acc) { return p.remembers ? acc : ScalarType::Int; }

// x: [T, N] or [1, N]; theta: [C], or [K, C] where the equation has K parameters; v, count, mask: [N] or none.
template <class E>
void fill(Multistep& p, const Tensor& x, const Tensor& theta, const Maybe& v, const Maybe& count, const Maybe& mask, int64_t T, int64_t inner,
          double v0, const std::vector<double>& rule) {
  p.rule = rule_of(rule, E::fields);
  p.is_signed = E::is_signed(p.rule);
  p.remembers = E::remembers(p.rule);
  const ScalarType acc = accumulator(x);
  check_steps(x, T);
  p.dtype = dtype_of(x);
  p.T = T;
  p.N = x.size(1);
  p.C = theta.size(theta.dim() - 1);
  p.inner = inner;
  check_pattern(theta, inner, p.N, acc, E::parameters);
  if (v) check_vector("v", *v, p.N, acc);
  if (count) check_vector("count", *count, p.N, count_dtype(p, acc));
  if (mask) check_vector("mask", *mask, p.N, ScalarType::Bool);
  p.x = x.data_ptr();
  p.x_stride = row_stride(x);
  p.theta = theta.data_ptr();
  p.v = v ? v->data_ptr() : nullptr;
  p.count = count ? count->data_ptr() : nullptr;
  p.mask = mask ? static_cast<const bool*>(mask->data_ptr()) : nullptr;
  p.v0 = v0;
}

template <class Op>
void run(MultistepFwd& p, const Tensor& x, const Tensor& s, const Tensor& v_end, const Tensor& count_end) {
  p.s = s.data_ptr();
  p.v_end = v_end.data_ptr();
  p.count_end = count_end.data_ptr();
  Op::fwd(p, x);
}

// The states that a forward keeps: [ceil(T / kEvery), 1 or 2, N], or nothing.
inline Tensor allocate_kept(const Multistep& p, const Tensor& x, bool any) {
  return empty(x, {any ? (p.T + kEvery - 1) / kEvery : 0, p.is_signed ? 2 : 1, p.N}, accumulator(x));
}

// The form of the spikes: an index into SPIKES of snnfast/engines/form.py.
inline void set_form(MultistepFwd& p, int64_t spikes) {
  constexpr Spikes forms[] = {Spikes::scaled, Spikes::scaled, Spikes::int8, Spikes::bits, Spikes::count};
  STD_TORCH_CHECK(spikes >= 0 && spikes < 5, "snnfast: spikes must be 0 to 4, got ", spikes);
  p.spikes = forms[spikes];
  p.unit = spikes == 1;
}

inline Tensor allocate(const MultistepFwd& p, const Tensor& x) {
  const int64_t words = (p.N + 31) / 32;
  switch (p.spikes) {
    case Spikes::scaled: return empty(x, {p.T, p.N}, x.scalar_type());
    case Spikes::int8: return empty(x, {p.T, p.N}, ScalarType::Char);
    case Spikes::bits:
      if (!p.is_signed) return empty(x, {p.T, words}, ScalarType::Int);
      return empty(x, {2, p.T, words}, ScalarType::Int);
    default: return empty(x, {p.N}, ScalarType::Int);
  }
}

template <class Op>
std::tuple<Tensor, Tensor, Tensor, Tensor> neuron_fwd(const Tensor& x, const Tensor& theta, Maybe v, Maybe count, Maybe mask, int64_t T,
                                                      int64_t inner, double v0, int64_t spikes, int64_t every, std::vector<double> rule) {
  STD_TORCH_CHECK(every == 0 || (backend::keeps && every == kEvery), "snnfast: the forward keeps the state every ", backend::keeps ? kEvery : 0,
                  " steps or never, not every ", every);
  MultistepFwd p{};
  fill<typename Op::Equation>(p, x, theta, v, count, mask, T, inner, v0, rule);
  set_form(p, spikes);
  const Tensor s = allocate(p, x);
  const Tensor v_end = empty(x, {p.N}, accumulator(x)), count_end = empty(x, {p.N}, count_dtype(p, accumulator(x)));
  const Tensor kept = allocate_kept(p, x, every > 0);
  p.kept = every ? kept.data_ptr() : nullptr;
  run<Op>(p, x, s, v_end, count_end);
  return {s, v_end, count_end, kept};
}

// v_end and count_end may be v and count: the state is then updated in place.
template <class Op>
void neuron_out(const Tensor& x, const Tensor& theta, Maybe v, Maybe count, Maybe mask, const Tensor& out, const Tensor& v_end,
                const Tensor& count_end, int64_t T, int64_t inner, double v0, int64_t spikes, std::vector<double> rule) {
  MultistepFwd p{};
  fill<typename Op::Equation>(p, x, theta, v, count, mask, T, inner, v0, rule);
  set_form(p, spikes);
  const int64_t words = (p.N + 31) / 32;
  const int64_t planes = p.spikes == Spikes::bits && p.is_signed ? 2 : 1;
  const int64_t expected = p.spikes == Spikes::count ? p.N : planes * T * (p.spikes == Spikes::bits ? words : p.N);
  const ScalarType dtype = p.spikes == Spikes::scaled ? x.scalar_type() : p.spikes == Spikes::int8 ? ScalarType::Char : ScalarType::Int;
  STD_TORCH_CHECK(out.numel() == expected && out.is_contiguous() && out.scalar_type() == dtype, "snnfast: out does not fit");
  check_vector("v_end", v_end, p.N, accumulator(x));
  check_vector("count_end", count_end, p.N, count_dtype(p, accumulator(x)));
  run<Op>(p, x, out, v_end, count_end);
}

// For a forward that kept no states: runs a second forward, which only counts, and returns the states that the second one keeps.
template <class Op>
Tensor keep_again(const Multistep& p, const Tensor& x) {
  MultistepFwd f{};
  static_cast<Multistep&>(f) = p;
  f.mask = nullptr;
  f.spikes = Spikes::count;
  const Tensor kept = allocate_kept(p, x, true);
  f.kept = kept.data_ptr();
  const Tensor net = empty(x, {p.N}, ScalarType::Int), v_end = empty(x, {p.N}, accumulator(x)),
               count_end = empty(x, {p.N}, count_dtype(p, accumulator(x)));
  run<Op>(f, x, net, v_end, count_end);
  return kept;
}

template <class Op>
std::tuple<Tensor, Tensor, Tensor> neuron_bwd(Maybe ds, Maybe dv, const Tensor& x, const Tensor& theta, Maybe v, Maybe count, Maybe mask,
                                              const Tensor& kept, int64_t T, int64_t inner, double v0, std::vector<double> rule) {
  MultistepBwd p{};
  fill<typename Op::Equation>(p, x, theta, v, count, mask, T, inner, v0, rule);
  if (ds) {
    check_rows("ds", *ds, T, p.N);
    STD_TORCH_CHECK(ds->scalar_type() == x.scalar_type(), "snnfast: ds and x differ in dtype");
    p.ds = ds->data_ptr();
    p.ds_stride = T > 1 ? ds->stride(0) : 0;
  }
  if (dv) check_vector("dv", *dv, p.N, accumulator(x));
  p.dv = dv ? dv->data_ptr() : nullptr;
  p.constant = x.size(0) == 1 && T > 1;
  const Tensor dx = empty(x, {x.size(0), p.N}, x.scalar_type());
  constexpr int K = Op::Equation::parameters;
  p.asked = Op::Equation::asked(p.rule);
  STD_TORCH_CHECK(p.asked >= 1 && p.asked <= K, "snnfast: a gradient of ", p.asked, " of ", K, " parameters was asked for");
  const Tensor dv_start = empty(x, {p.N}, accumulator(x)),
               dtheta = K == 1 ? empty(x, {p.N}, accumulator(x)) : empty(x, {p.asked, p.N}, accumulator(x));
  p.dx = dx.data_ptr();
  p.dv_start = dv_start.data_ptr();
  p.dtheta = dtheta.data_ptr();
  Tensor states = kept;
  if constexpr (backend::keeps) {
    if (kept.size(0) == 0) states = keep_again<Op>(p, x);
    STD_TORCH_CHECK(states.dim() == 3 && states.size(0) == (T + kEvery - 1) / kEvery && states.size(1) == (p.is_signed ? 2 : 1) &&
                        states.size(2) == p.N && states.is_contiguous() && states.scalar_type() == accumulator(x),
                    "snnfast: kept is not what a forward of these steps kept");
    p.kept = states.data_ptr();
  }
  Op::bwd(p, x);
  return {dx, dv_start, dtheta};
}

}  // namespace
}  // namespace snn

// Registers the ops of a neuron. `op`: the name in the table, without _fwd or _bwd. `equation`: the plain class that gives is_signed and remembers
// of a rule, and the number of parameters.
#define SNN_NEURON(op, equation)                                                         \
  namespace snn {                                                                        \
  namespace {                                                                            \
  struct op##_launches {                                                                 \
    using Equation = equation;                                                           \
    static void fwd(const MultistepFwd& p, const Tensor& x) { backend::op##_fwd(p, x); } \
    static void bwd(const MultistepBwd& p, const Tensor& x) { backend::op##_bwd(p, x); } \
  };                                                                                     \
  }                                                                                      \
  STABLE_TORCH_LIBRARY_IMPL(snnfast, SNN_KEY, m) {                                       \
    m.impl(#op "_fwd", TORCH_BOX(&neuron_fwd<op##_launches>));                           \
    m.impl(#op "_out", TORCH_BOX(&neuron_out<op##_launches>));                           \
    m.impl(#op "_bwd", TORCH_BOX(&neuron_bwd<op##_launches>));                           \
  }                                                                                      \
  }
