// Which backend an op file is compiled for: its dispatch key and how it runs a range in parallel.
#pragma once
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

}  // namespace snn::backend
