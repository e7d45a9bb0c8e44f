// How the backward of an activation sums dtheta on CUDA: the engine and the op's allocation read it here.
#pragma once
#include <algorithm>
#include <cstdint>

#include "../../params.h"

namespace snn::cuda {

constexpr int64_t kSpan = 2048;      // elements of a warp, at least
constexpr int64_t kTiles = 1 << 14;  // warps that a run is cut into, at most
constexpr int64_t kShortRun = 256;   // below, a warp would idle
constexpr int64_t kColumnThreads = 1 << 17;

// Stage one: its form, and the shape [outer, C, inner] of what it leaves.
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
    // Few rows for a thread where there are few columns; at least 8, at most 64.
    rows = std::clamp<int64_t>(outer * p.C * p.inner / (4 * kColumnThreads), 8, 64);
    outer = (outer + rows - 1) / rows;
  }
  static int64_t numbers_of(const Elementwise& p) {
    if (p.N == 0) return 0;
    const Reduction r(p);
    return r.outer * p.C * r.inner;
  }
};

}  // namespace snn::cuda
