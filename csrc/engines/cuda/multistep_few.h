// The time loop on CUDA for few neurons and many steps, where the one warp of a multiprocessor waits for its own steps and not for memory.
//
// A block has 32 neurons and four warps. One warp computes, from shared memory to shared memory, so that its step is little more than the equation.
// The other three warps run on other schedulers. They bring the rows of x kTiles - 1 tiles early and take the spikes away, in words of 16 bytes.
#pragma once
#include "multistep.h"

namespace snn::inline SNN_ISA {

constexpr int kFewThreads = 128, kFewRows = 32, kTiles = 4;  // per block; per tile, a multiple of kEvery; tiles of x in shared memory
constexpr int kFewSteps = 64;                                // the fewest steps for this kernel

// How far the warp that computes looks ahead in its tile: a load from shared memory takes as long as two steps.
constexpr int kLook = 4;

template <class E, class X, Spikes kind, class K>
__global__ void __launch_bounds__(kFewThreads)
    multistep_few_kernel(const __grid_constant__ MultistepFwd p, const __grid_constant__ Pattern pattern, const K k, int multiprocessors) {
  using S = Acc<X>;
  using Y = typename Element<kind, X>::type;
  constexpr int word = kWide<X>, words = 32 / word;  // neurons that are moved together; such words in a row of a tile
  alignas(16) __shared__ X xs[kTiles][kFewRows][32];
  alignas(16) __shared__ Y ys[2][kFewRows][32];
  const int lane = threadIdx.x % 32, T = int(p.T), tiles = (T + kFewRows - 1) / kFewRows;
  const int64_t first = int64_t(blockIdx.x) * 32, i = first + lane;
  // Blocks that share a multiprocessor compute in different warps, so that each has a scheduler to itself.
  const int computes = int(blockIdx.x) / multiprocessors % 4, warp = int(threadIdx.x) / 32;

  if (warp != computes) {
    const int helper = ((warp - computes - 1) & 3) * 32 + lane;
    const X* x = static_cast<const X*>(p.x) + first;
    Y* y = static_cast<Y*>(p.s) + first;
    // Calls f(row, column) for each word of tile `tile` that this thread moves. Rows end at T, columns at N.
    const auto each = [&](int tile, const auto& f) {
      for (int c = helper; c < kFewRows * words; c += kFewThreads - 32) {
        const int r = c / words, column = c % words * word;
        if (tile * kFewRows + r < T && first + column < p.N) f(r, column);
      }
    };
    const auto bring = [&](int tile) {
      each(tile, [&](int r, int column) { copy_ahead(&xs[tile % kTiles][r][column], x + (int64_t(tile) * kFewRows + r) * p.x_stride + column); });
      end_ahead();  // also where there was no copy, so that there is one group per tile
    };
    const auto take = [&](int tile) {
      each(tile, [&](int r, int column) {
        store_once(y + (int64_t(tile) * kFewRows + r) * p.N + column, *reinterpret_cast<const Pack<Y, word>*>(&ys[tile % 2][r][column]));
      });
    };
    for (int tile = 0; tile < kTiles - 1; ++tile) bring(tile);
    wait_ahead<kTiles - 2>();
    __syncthreads();
    for (int tile = 0; tile < tiles; ++tile) {
      bring(tile + kTiles - 1);
      if (tile) take(tile - 1);
      wait_ahead<kTiles - 2>();  // the next tile has arrived
      __syncthreads();
    }
    take(tiles - 1);
    return;
  }

  const bool inside = i < p.N;
  const OwnLanes<E, S, 1> own(static_cast<const S*>(p.theta), pattern, inside ? i : 0);
  Neurons<E, S, 1> neurons(p, own, k, inside ? i : 0, inside);
  const S scale = p.unit ? S(1) : own.row[0].e[0];
  S* kept = static_cast<S*>(p.kept) + i;
  __syncthreads();
  for (int tile = 0; tile < tiles; ++tile) {
    const X(&from)[kFewRows][32] = xs[tile % kTiles];
    Y(&to)[kFewRows][32] = ys[tile % 2];
    const auto one = [&](int r, X x) {
      if (r % kEvery == 0 && p.kept && inside) {
        *kept = neurons.v.e[0];
        if constexpr (E::counts) kept[p.N] = neurons.n.e[0];
        kept += (E::counts ? 2 : 1) * p.N;
      }
      const S s = neurons.step(0, widen(x), own[0], k);
      if constexpr (kind == Spikes::int8) to[r][lane] = spike_byte<E>(s);
      else to[r][lane] = narrow<X>(s * scale);
    };
    if (T - tile * kFewRows >= kFewRows) {
      X ahead[kFewRows];
#pragma unroll
      for (int r = 0; r < kLook; ++r) ahead[r] = from[r][lane];
#pragma unroll
      for (int r = 0; r < kFewRows; ++r) {
        if (r + kLook < kFewRows) ahead[r + kLook] = from[r + kLook][lane];
        one(r, ahead[r]);
      }
    } else {
#pragma unroll 1
      for (int r = 0; r < T - tile * kFewRows; ++r) one(r, from[r][lane]);
    }
    __syncthreads();
  }
  if (inside) neurons.leave(p, k, i);
}

// The most blocks per multiprocessor for this kernel: with more there are enough warps to hide what each waits for. On an H100 the other kernel
// takes 1.13 x as long with 4 blocks, and 0.94 x with 8.
constexpr int kFewBlocks = 4;

// What this kernel is made for. `bits` and `count` are excluded because they store little, other rules because their steps are long.
template <class X, Spikes kind, class K>
constexpr bool few = K::plain && sizeof(X) <= 4 && (kind == Spikes::scaled || kind == Spikes::int8);

template <class X>
bool is_few(const MultistepFwd& p) {
  return p.T >= kFewSteps && p.x_stride != 0 && in_words<X>(p) && p.N <= int64_t(multiprocessors()) * 32 * kFewBlocks;
}

template <template <bool> class E, class X>
void multistep_fwd(const MultistepFwd& p, Stream stream) {
  if (p.N == 0) return;
  const Pattern pattern(p.theta, p.N, p.C, p.inner);
  with(p.spikes, [&](auto kind) {
    with(kWide<X> > 1 && in_words<X>(p) && fills(p.N / kWide<X>), [&](auto wide) {
      with(p.is_signed, [&](auto is_signed) {
        using Eq = E<is_signed()>;
        Eq::template with_numbers<Acc<X>, kNarrow<X, kind()>, true>(p.rule, [&](const auto& k) {
          using K = std::decay_t<decltype(k)>;
          if constexpr (!wide() && few<X, kind(), K>)
            if (is_few<X>(p)) {
              launch(multistep_few_kernel<Eq, X, kind(), K>, (p.N + 31) / 32 * kFewThreads, kFewThreads, stream, p, pattern, k, multiprocessors());
              return;
            }
          // Rules with branches have long steps: a thread takes at most four neurons, of halves too.
          constexpr int many = !wide() ? 1 : K::brief ? kWide<X> : std::min(kWide<X>, 4);
          const int64_t threads = p.N / many;
          launch(multistep_fwd_kernel<Eq, X, kind(), many, K>, threads, block_for(threads), stream, p, pattern, k);
        });
      });
    });
  });
}

}  // namespace snn
