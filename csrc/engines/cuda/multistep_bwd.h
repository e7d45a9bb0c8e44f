// The adjoint of the time loop on CUDA: recomputes the potentials, segment by segment of kEvery steps from the last.
//
// A thread takes its neurons forward through a segment, from the state that the forward kept, with their potentials in registers; then backward.
// x and ds are read once, with all rows of a segment in flight at once (ds in fp64: one row); dx is written once. dtheta is written per neuron.
#pragma once
#include "multistep.h"

namespace snn::inline SNN_ISA {

constexpr int kThreadsBwd = 128;

// Neurons per thread: one, because a segment of one neuron fills the registers; for halves two, so that a warp still moves 128 bytes.
template <class X> constexpr int kPair = sizeof(X) == 2 ? 2 : 1;

// The least number of blocks that a multiprocessor must hold: four, with 128 registers, where a step has one threshold and few branches and x is
// not fp64.
template <class E, class X, class K> constexpr int kBlocksBwd = K::brief && !E::counts && sizeof(X) <= 4 ? 4 : 2;

template <class E, class X, int many, class K>
__global__ void __launch_bounds__(kThreadsBwd, kBlocksBwd<E, X, K>)
    multistep_bwd_kernel(const __grid_constant__ MultistepBwd p, const __grid_constant__ Pattern pattern, const K k) {
  using S = Acc<X>;
  constexpr bool late_ds = sizeof(X) == 8;  // ds of a whole segment would not fit the registers as doubles
  const int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * many;
  if (i >= p.N) return;
  const int T = int(p.T);
  const OwnLanes<E, S, many> own(static_cast<const S*>(p.theta), pattern, i);
  Lanes<S, many> c{}, sum{};
  Own<E, S> share[many];
#pragma unroll
  for (int j = 0; j < many; ++j)
#pragma unroll
    for (int q = 0; q < E::parameters; ++q) part(share[j], q) = S(0);
  bool on[many];
  if (p.dv) c = load_lanes<many>(static_cast<const S*>(p.dv) + i);
#pragma unroll
  for (int j = 0; j < many; ++j) on[j] = p.ds && (!p.mask || p.mask[i + j]);
  // Without ds, the loads of ds read x instead: a branch around these loads would keep them from being issued together.
  const X* const all_ds = static_cast<const X*>(p.ds ? p.ds : p.x);
  const int64_t ds_stride = p.ds ? p.ds_stride : p.x_stride;

  // The segment of steps [t, t + kEvery), or what is left of it: a whole one has no predicates, so that all its loads are issued before the first
  // is waited for.
  const auto segment = [&](auto whole, int t) {
    const int left = decltype(whole)::value ? kEvery : T - t;
    const X* x = static_cast<const X*>(p.x) + t * p.x_stride + i;
    const X* ds = all_ds + t * ds_stride + i;
    Pack<X, many> xs[kEvery], dss[kEvery];
    if constexpr (!late_ds) {
#pragma unroll
      for (int r = 0; r < kEvery; ++r)
        if (r < left) dss[r] = load_once<X, many>(ds + r * ds_stride);
    }
#pragma unroll
    for (int r = 0; r < kEvery; ++r)
      if (r < left) xs[r] = load_once<X, many>(x + r * p.x_stride);
    const S* kept = static_cast<const S*>(p.kept) + int64_t(t / kEvery) * (E::counts ? 2 : 1) * p.N + i;
    Lanes<S, many> v = load_lanes<many>(kept), n{}, vs[kEvery];
    Lanes<S, many> ns[kEvery];
    if constexpr (E::counts) n = load_lanes<many>(kept + p.N);
#pragma unroll
    for (int r = 0; r < kEvery; ++r) {
      if (r < left) {
        vs[r] = v;
#pragma unroll
        for (int j = 0; j < many; ++j) {
          if constexpr (E::counts) ns[r].e[j] = n.e[j];
          E::step(v.e[j], n.e[j], widen(late(xs[r]).e[j]), own[j], k);
        }
      }
    }
    X* dx = static_cast<X*>(p.dx) + t * p.N + i;
#pragma unroll
    for (int r = kEvery - 1; r >= 0; --r) {
      if (r < left) {
        Pack<X, many> d;
        if constexpr (late_ds) dss[r] = load_once<X, many>(ds + r * ds_stride);
#pragma unroll
        for (int j = 0; j < many; ++j) {
          const S dy = on[j] ? S(widen(late(dss[r]).e[j])) : S(0);
          const S g = E::step_bwd(c.e[j], share[j], dy, vs[r].e[j], E::counts ? ns[r].e[j] : S(0), S(widen(late(xs[r]).e[j])), own[j], k);
          sum.e[j] += g;
          d.e[j] = narrow<X>(g);
        }
        if (!p.constant) store_once(dx + r * p.N, d);
      }
    }
  };
  int t = (T - 1) / kEvery * kEvery;
  constexpr bool both = K::brief;  // a segment with many branches has long machine code, and two copies would not fit the instruction cache
  if (both && T - t < kEvery) {
    segment(Constant<false>{}, t);
    t -= kEvery;
  }
#pragma unroll 1
  for (; t >= 0; t -= kEvery) segment(Constant<both>{}, t);
#pragma unroll
  for (int j = 0; j < many; ++j)
    if (!p.v) part(share[j], 0) = part(share[j], 0) + E::start_bwd(c.e[j], S(p.v0), k);
  store_lanes(static_cast<S*>(p.dv_start) + i, c);
#pragma unroll
  for (int q = 0; q < E::parameters; ++q) {
    const int row = q + p.asked - E::parameters;
    if (row < 0) continue;
    Lanes<S, many> of;
#pragma unroll
    for (int j = 0; j < many; ++j) of.e[j] = part(share[j], q);
    store_lanes(static_cast<S*>(p.dtheta) + row * p.N + i, of);
  }
  if (!p.constant) return;
#pragma unroll
  for (int j = 0; j < many; ++j) static_cast<X*>(p.dx)[i + j] = narrow<X>(sum.e[j]);
}

template <class X>
bool in_words(const MultistepBwd& p) {
  constexpr int many = kPair<X>;
  return p.N % many == 0 && p.x_stride % many == 0 && p.ds_stride % many == 0 && on_words({p.x, p.ds, p.dx, p.dv, p.dv_start, p.dtheta, p.kept});
}

template <template <bool> class E, class X>
void multistep_bwd(const MultistepBwd& p, Stream stream) {
  if (p.N == 0) return;
  const Pattern pattern(p.theta, p.N, p.C, p.inner);
  with(kPair<X> > 1 && in_words<X>(p) && fills(p.N / kPair<X>), [&](auto wide) {
    with(p.is_signed, [&](auto is_signed) {
      using Eq = E<is_signed()>;
      Eq::template with_numbers<Acc<X>, kNarrow<X>, false>(p.rule, [&](const auto& k) {
        constexpr int many = wide() && std::decay_t<decltype(k)>::brief ? kPair<X> : 1;
        const int64_t threads = p.N / many;
        auto kernel = multistep_bwd_kernel<Eq, X, many, std::decay_t<decltype(k)>>;
        launch(kernel, threads, std::min(kThreadsBwd, block_for(threads)), stream, p, pattern, k);
      });
    });
  });
}

}  // namespace snn
