// What the op files see when the CUDA kernels run on the host: no device, no stream.
#pragma once
#include <cstdint>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "engines/cuda/kernels.h"

namespace snn::backend {

using torch::stable::Tensor;

constexpr bool keeps = true;

inline void prepare(void*, int64_t) {}
inline int64_t partials(const Elementwise& p) { return cuda::Reduction::numbers_of(p); }
inline int64_t partials(const ChannelSums& p) { return cuda::ChannelStripes(p).numbers(p.C); }

#define SNN_LAUNCH_OF(op, params, engine, equation) \
  inline void op(const params& p, const Tensor&) { cuda::op(p, nullptr); }
SNN_OPS(SNN_LAUNCH_OF)
#undef SNN_LAUNCH_OF

}  // namespace snn::backend
