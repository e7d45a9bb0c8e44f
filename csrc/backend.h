// Which backend an op file is compiled for: its dispatch key and how it runs a range in parallel.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "cpu/kernels.h"
#include "cpu/sizes.h"

#define SNN_KEY CPU

namespace snn::backend {

// f(first, end) over [0, units), each unit `work` elements, in pieces that are worth a thread.
template <class F>
void parallel(int64_t units, int64_t work, const F& f) {
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, work));
  torch::stable::parallel_for(0, units, grain, f);
}

// A large result is nearly always fresh from the kernel, and its first touch, page by page, costs more than the arithmetic: 27 ms for
// 64 MiB, against 5 ms for a copy. In huge pages it costs a quarter of that. A hint; where the system has none to give, nothing changes.
inline void prepare(void* p, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t huge = uintptr_t(2) << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(p) + huge - 1) / huge * huge, last = (reinterpret_cast<uintptr_t>(p) + bytes) / huge * huge;
  if (last > first + huge) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace snn::backend
