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
inline void iaf_fwd(const MultistepFwd& p, const Tensor&) { cuda::iaf_fwd(p, nullptr); }
inline void iaf_bwd(const MultistepBwd& p, const Tensor&) { cuda::iaf_bwd(p, nullptr); }
inline void cos_fwd(const Calibrate& p, const Tensor&) { cuda::cos_fwd(p, nullptr); }
inline void conv_fwd(const Gather& p, const Tensor&) { cuda::conv_fwd(p, nullptr); }
inline void softmax_out(const Rows& p, const Tensor&) { cuda::softmax_out(p, nullptr); }
inline void layer_norm_out(const Rows& p, const Tensor&) { cuda::layer_norm_out(p, nullptr); }
inline void qcfs_fwd(const Elementwise& p, const Tensor&) { cuda::qcfs_fwd(p, nullptr); }
inline int64_t qcfs_partials(const Elementwise& p) { return cuda::qcfs_partials(p); }
inline void qcfs_bwd(const Elementwise& p, void* dtheta, const Tensor&) { cuda::qcfs_bwd(p, dtheta, nullptr); }

}  // namespace snn::backend
