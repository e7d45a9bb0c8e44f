// snnfast::iaf_fwd, iaf_out, iaf_bwd for one backend. Schemas: snnfast/ops/iaf.py.
#include <tuple>

#include "common.h"

namespace snn {
namespace {

using Maybe = std::optional<Tensor>;

IafRule rule(bool normalised, bool strict, bool hard, double v_reset, const std::string& negative, double n_min, double p_max,
             const std::string& surrogate, double gamma, bool detach_reset, bool memory, double offset, double tau, bool decay_input, bool product) {
  return {normalised, strict, hard, v_reset,
          choose<Negative>("negative", negative, {{"none", Negative::none}, {"stbif", Negative::stbif}, {"snm", Negative::snm}}),
          n_min, p_max,
          choose<Surrogate>("surrogate", surrogate,
                            {{"zif", Surrogate::zif}, {"triangle", Surrogate::triangle}, {"rectangle", Surrogate::rectangle},
                             {"atan", Surrogate::atan}, {"sigmoid", Surrogate::sigmoid}}),
          gamma, detach_reset, memory, offset, tau, decay_input, product};
}

ScalarType count_dtype(const IafRule& r, ScalarType acc) { return r.memory ? acc : ScalarType::Int; }

// x: [T, N] or [1, N]; theta: [C]; v, count, mask: [N] or none.
void fill(Multistep& p, const Tensor& x, const Tensor& theta, const Maybe& v, const Maybe& count, const Maybe& mask, int64_t T,
          int64_t inner, double v0, const IafRule& r) {
  const ScalarType acc = accumulator(x);
  check_steps(x, T);
  p.dtype = dtype_of(x);
  p.T = T;
  p.N = x.size(1);
  p.C = theta.size(0);
  p.inner = inner;
  check_pattern(theta, inner, p.N, acc);
  if (v) check_vector("v", *v, p.N, acc);
  if (count) check_vector("count", *count, p.N, count_dtype(r, acc));
  if (mask) check_vector("mask", *mask, p.N, ScalarType::Bool);
  p.x = x.data_ptr();
  p.x_stride = row_stride(x);
  p.theta = theta.data_ptr();
  p.v = v ? v->data_ptr() : nullptr;
  p.count = count ? count->data_ptr() : nullptr;
  p.mask = mask ? static_cast<const bool*>(mask->data_ptr()) : nullptr;
  p.v0 = v0;
  p.rule = r;
}

void run(MultistepFwd& p, const Tensor& x, const Tensor& s, const Tensor& v_end, const Tensor& count_end) {
  p.s = s.data_ptr();
  p.v_end = v_end.data_ptr();
  p.count_end = count_end.data_ptr();
  backend::iaf_fwd(p, x);
}

// The states that a forward keeps: [ceil(T / kEvery), 1 or 2, N], or nothing.
Tensor allocate_kept(const Multistep& p, const Tensor& x, bool any) {
  return empty(x, {any ? (p.T + kEvery - 1) / kEvery : 0, p.rule.negative == Negative::none ? 1 : 2, p.N}, accumulator(x));
}

Spikes spikes_of(const std::string& name) {
  return choose<Spikes>("spikes", name,
                        {{"scaled", Spikes::scaled}, {"unit", Spikes::scaled}, {"int8", Spikes::int8}, {"bits", Spikes::bits}, {"count", Spikes::count}});
}

Tensor allocate(const MultistepFwd& p, const Tensor& x) {
  const int64_t words = (p.N + 31) / 32;
  switch (p.spikes) {
    case Spikes::scaled: return empty(x, {p.T, p.N}, x.scalar_type());
    case Spikes::int8: return empty(x, {p.T, p.N}, ScalarType::Char);
    case Spikes::bits:
      if (p.rule.negative == Negative::none) return empty(x, {p.T, words}, ScalarType::Int);
      return empty(x, {2, p.T, words}, ScalarType::Int);
    default: return empty(x, {p.N}, ScalarType::Int);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> iaf_fwd(const Tensor& x, const Tensor& theta, Maybe v, Maybe count, Maybe mask, int64_t T,
                                                   int64_t inner, double v0, std::string spikes, int64_t every, bool normalised,
                                                   bool strict, bool hard, double v_reset, std::string negative, double n_min,
                                                   double p_max, std::string surrogate, double gamma, bool detach_reset, bool memory, double offset, double tau, bool decay_input, bool product) {
  STD_TORCH_CHECK(every == 0 || (backend::keeps && every == kEvery), "snnfast: the forward keeps the state every ", backend::keeps ? kEvery : 0,
                  " steps or never, not every ", every);
  MultistepFwd p{};
  fill(p, x, theta, v, count, mask, T, inner, v0,
       rule(normalised, strict, hard, v_reset, negative, n_min, p_max, surrogate, gamma, detach_reset, memory, offset, tau, decay_input, product));
  p.spikes = spikes_of(spikes);
  p.unit = spikes == "unit";
  const Tensor s = allocate(p, x);
  const Tensor v_end = empty(x, {p.N}, accumulator(x)), count_end = empty(x, {p.N}, count_dtype(p.rule, accumulator(x)));
  const Tensor kept = allocate_kept(p, x, every > 0);
  p.kept = every ? kept.data_ptr() : nullptr;
  run(p, x, s, v_end, count_end);
  return {s, v_end, count_end, kept};
}

// v_end and count_end may be v and count: the state is then updated in place.
void iaf_out(const Tensor& x, const Tensor& theta, Maybe v, Maybe count, Maybe mask, const Tensor& out, const Tensor& v_end,
             const Tensor& count_end, int64_t T, int64_t inner, double v0, std::string spikes, bool normalised, bool strict, bool hard, double v_reset,
             std::string negative, double n_min, double p_max, std::string surrogate, double gamma, bool detach_reset, bool memory, double offset, double tau, bool decay_input, bool product) {
  MultistepFwd p{};
  fill(p, x, theta, v, count, mask, T, inner, v0,
       rule(normalised, strict, hard, v_reset, negative, n_min, p_max, surrogate, gamma, detach_reset, memory, offset, tau, decay_input, product));
  p.spikes = spikes_of(spikes);
  p.unit = spikes == "unit";
  const int64_t words = (p.N + 31) / 32;
  const int64_t planes = p.spikes == Spikes::bits && p.rule.negative != Negative::none ? 2 : 1;
  const int64_t expected = p.spikes == Spikes::count ? p.N : planes * T * (p.spikes == Spikes::bits ? words : p.N);
  const ScalarType dtype = p.spikes == Spikes::scaled ? x.scalar_type() : p.spikes == Spikes::int8 ? ScalarType::Char : ScalarType::Int;
  STD_TORCH_CHECK(out.numel() == expected && out.is_contiguous() && out.scalar_type() == dtype, "snnfast: out does not fit");
  check_vector("v_end", v_end, p.N, accumulator(x));
  check_vector("count_end", count_end, p.N, count_dtype(p.rule, accumulator(x)));
  run(p, x, out, v_end, count_end);
}

// The states of a forward that kept none: a second forward that only counts.
Tensor keep_again(const Multistep& p, const Tensor& x) {
  MultistepFwd f{};
  static_cast<Multistep&>(f) = p;
  f.mask = nullptr;
  f.spikes = Spikes::count;
  const Tensor kept = allocate_kept(p, x, true);
  f.kept = kept.data_ptr();
  const Tensor net = empty(x, {p.N}, ScalarType::Int), v_end = empty(x, {p.N}, accumulator(x)), count_end = empty(x, {p.N}, count_dtype(p.rule, accumulator(x)));
  run(f, x, net, v_end, count_end);
  return kept;
}

std::tuple<Tensor, Tensor, Tensor> iaf_bwd(Maybe ds, Maybe dv, const Tensor& x, const Tensor& theta, Maybe v, Maybe count, Maybe mask,
                                           const Tensor& kept, int64_t T, int64_t inner, double v0, bool normalised, bool strict,
                                           bool hard, double v_reset, std::string negative, double n_min, double p_max,
                                           std::string surrogate, double gamma, bool detach_reset, bool memory, double offset, double tau, bool decay_input, bool product) {
  MultistepBwd p{};
  fill(p, x, theta, v, count, mask, T, inner, v0,
       rule(normalised, strict, hard, v_reset, negative, n_min, p_max, surrogate, gamma, detach_reset, memory, offset, tau, decay_input, product));
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
  const Tensor dv_start = empty(x, {p.N}, accumulator(x)), dtheta = empty(x, {p.N}, accumulator(x));
  p.dx = dx.data_ptr();
  p.dv_start = dv_start.data_ptr();
  p.dtheta = dtheta.data_ptr();
  Tensor states = kept;
  if constexpr (backend::keeps) {
    if (kept.size(0) == 0) states = keep_again(p, x);
    STD_TORCH_CHECK(states.dim() == 3 && states.size(0) == (T + kEvery - 1) / kEvery && states.size(1) == (p.rule.negative == Negative::none ? 1 : 2) &&
                        states.size(2) == p.N && states.is_contiguous() && states.scalar_type() == accumulator(x),
                    "snnfast: kept is not what a forward of these steps kept");
    p.kept = states.data_ptr();
  }
  backend::iaf_bwd(p, x);
  return {dx, dv_start, dtheta};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(snnfast, SNN_KEY, m) {
  m.impl("iaf_fwd", TORCH_BOX(&iaf_fwd));
  m.impl("iaf_out", TORCH_BOX(&iaf_out));
  m.impl("iaf_bwd", TORCH_BOX(&iaf_bwd));
}

}  // namespace snn
