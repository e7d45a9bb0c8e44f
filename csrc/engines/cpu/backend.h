// What the op files see of the CPU: each launch cut into pieces, each piece given to the kernels of the instruction set in use.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "kernels.h"
#include "sizes.h"
#include "tiles.h"

namespace snn::backend {

using torch::stable::Tensor;

constexpr bool keeps = false;  // the backward computes the states again, block by block in the cache

// Calls f(first, end) for pieces of [0, units) that are each worth a thread; a unit has `work` elements.
template <class F>
void parallel(int64_t units, int64_t work, const F& f) {
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, work));
  torch::stable::parallel_for(0, units, grain, f);
}

// The memory of a large result is nearly always new from the operating system. Its first touch, page by page, costs more than the arithmetic: 27 ms
// for 64 MiB, against 5 ms for a copy. With huge pages the first touch costs a quarter of that. madvise is a hint: where the system has no huge pages
// to give, nothing changes.
inline void prepare(void* p, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t huge = uintptr_t(2) << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(p) + huge - 1) / huge * huge, last = (reinterpret_cast<uintptr_t>(p) + bytes) / huge * huge;
  if (last > first + huge) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// ---- the pieces of a launch

// The pieces are neurons, over all T steps. A launch that is cut in another way has an overload of its own.
template <class P>
void run(typename KernelOf<P>::type kernel, const P& p) {
  parallel((p.N + kUnit - 1) / kUnit, p.T * kUnit, [&](int64_t first, int64_t end) { kernel(p, first * kUnit, std::min(p.N, end * kUnit)); });
}

inline void run(KernelOf<ElementwiseFwd>::type kernel, const ElementwiseFwd& p) {
  parallel((p.N + kTile - 1) / kTile, kTile, [&](int64_t first, int64_t end) { kernel(p, first * kTile, std::min(p.N, end * kTile)); });
}

inline void run(KernelOf<Gather>::type kernel, const Gather& p) {
  const Cut cut(p, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, cut.units(), 1, [&](int64_t first, int64_t end) {
    const std::unique_ptr<void, decltype(&std::free)> scratch(std::aligned_alloc(64, cut.bytes()), &std::free);
    if (!scratch) throw std::bad_alloc();
    kernel(p, cut, first, end, scratch.get());
  });
}

inline void run(KernelOf<Rows>::type kernel, const Rows& p) {
  parallel(p.R, p.T * p.C, [&](int64_t first, int64_t end) { kernel(p, first, end); });
}

// How many numbers `partial` holds.
inline int64_t partials(const Elementwise& p) { return Tiles(p).numbers; }

// Stage two: for each threshold, adds the numbers that the tiles of stage one left, in the order of the tiles.
template <class S>
void join(S* dtheta, const S* partial, int64_t C, int64_t tiles_per_threshold) {
  std::vector<double> sum(C, 0.0);
  for (int64_t t = 0; t < tiles_per_threshold; ++t)
    for (int64_t c = 0; c < C; ++c) sum[c] += partial[t * C + c];
  for (int64_t c = 0; c < C; ++c) dtheta[c] = S(sum[c]);
}

inline void run(KernelOf<ElementwiseBwd>::type kernel, const ElementwiseBwd& p) {
  const Tiles tiles(p);
  parallel(tiles.many, tiles.size, [&](int64_t first, int64_t end) { kernel(p, first, end); });
  if (p.dtype == Dtype::f64) join(static_cast<double*>(p.dtheta), static_cast<const double*>(p.partial), p.C, tiles.numbers / p.C);
  else join(static_cast<float*>(p.dtheta), static_cast<const float*>(p.partial), p.C, tiles.numbers / p.C);
}

inline int64_t partials(const ChannelSums& p) { return Stripes(p).numbers; }

inline void run(KernelOf<ChannelSums>::type kernel, const ChannelSums& p) {
  const Stripes stripes(p);
  parallel(stripes.many, stripes.rows * p.C * p.inner, [&](int64_t first, int64_t end) { kernel(p, first, end); });
  join(p.sums, p.partial, 2 * p.C, stripes.many);
}

inline void run(KernelOf<ChannelAdd>::type kernel, const ChannelAdd& p) {
  parallel((p.N + kTile - 1) / kTile, kTile, [&](int64_t first, int64_t end) { kernel(p, first * kTile, std::min(p.N, end * kTile)); });
}

inline void run(KernelOf<PoolFwd>::type kernel, const PoolFwd& p) {
  parallel(p.P, p.H * p.W * p.C, [&](int64_t first, int64_t end) { kernel(p, first, end); });
}
inline void run(KernelOf<PoolBwd>::type kernel, const PoolBwd& p) {
  parallel(p.P, p.H * p.W * p.C, [&](int64_t first, int64_t end) { kernel(p, first, end); });
}

// ---- the launches; the tensor tells the device

#define SNN_LAUNCH_OF(op, params, engine, equation) \
  inline void op(const params& p, const Tensor&) { run(kernels().op, p); }
SNN_OPS(SNN_LAUNCH_OF)
SNN_CPU_OPS(SNN_LAUNCH_OF)
#undef SNN_LAUNCH_OF

}  // namespace snn::backend
