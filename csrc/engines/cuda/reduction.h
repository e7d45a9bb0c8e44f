// How sums are cut on CUDA: dtheta of an activation, and the sums of channels. The engines and the ops' allocations both read this file.
#pragma once
#include <algorithm>
#include <cstdint>

#include "../../params.h"

namespace snn::cuda {

constexpr int64_t kSpan = 2048;      // elements per warp; the last warp of a run has fewer
constexpr int64_t kTiles = 1 << 14;  // about as many warps a run is cut into: up to twice as many, since a span is a multiple of kSpan
constexpr int64_t kShortRun = 256;   // in a shorter run, a warp would idle
constexpr int64_t kColumnThreads = 1 << 17;

// The form of stage one, and the shape [outer, C, inner] of its result.
struct Reduction {
  bool runs;
  int64_t outer, inner, rows = 0, span = 0;

  explicit Reduction(const Elementwise& p) {
    const int64_t length = p.C == 1 ? p.N : p.inner;
    runs = p.C == 1 || p.inner >= kShortRun;
    outer = p.N / (p.C * length);
    inner = p.inner;
    if (runs) {
      span = std::max(kSpan, (length + kTiles - 1) / kTiles / kSpan * kSpan);
      inner = (length + span - 1) / span;
      return;
    }
    // Fewer rows per thread where there are fewer elements; at least 8, at most 64.
    rows = std::clamp<int64_t>(outer * p.C * p.inner / (4 * kColumnThreads), 8, 64);
    outer = (outer + rows - 1) / rows;
  }
  static int64_t numbers_of(const Elementwise& p) {
    if (p.N == 0) return 0;
    const Reduction r(p);
    return r.outer * p.C * r.inner;
  }
};

// The sums of channels, x seen as [outer, C, inner]. Stage one leaves [stripes, 2, C, inner]. Where runs are long, a warp takes a channel's runs in
// `rows` rows, and inner of the result is 1. Where runs are short, a thread goes down `rows` rows of a column.
struct ChannelStripes {
  bool runs;
  int64_t outer, rows, stripes, inner;

  explicit ChannelStripes(const Channels& p) {
    const int64_t row = p.C * p.inner;
    outer = p.N / row;
    runs = p.inner >= 32;
    rows = runs ? std::max<int64_t>(1, 2 * kSpan / p.inner) : std::max<int64_t>(64, p.N >> 19);
    stripes = (outer + rows - 1) / rows;
    inner = runs ? 1 : p.inner;
  }
  int64_t numbers(int64_t C) const { return stripes * 2 * C * inner; }
};

}  // namespace snn::cuda
