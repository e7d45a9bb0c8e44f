// What the op files see of CUDA: each launch on the tensor's device and that device's current stream, without waiting.
#pragma once
#include <cstdint>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "kernels.h"

// Declared here because torch's header shows it only beside CUDA's own headers; libtorch_cuda has it in every build.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace snn::backend {

using torch::stable::Tensor;

constexpr bool keeps = true;  // the forward keeps the state before every kEvery-th step for the backward

inline void prepare(void*, int64_t) {}

// Makes x's device current while it lives, and knows its stream.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& x) : guard_(x.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream_));
  }
  void* stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

inline void iaf_fwd(const MultistepFwd& p, const Tensor& x) { cuda::iaf_fwd(p, OnDevice(x).stream()); }
inline void iaf_bwd(const MultistepBwd& p, const Tensor& x) { cuda::iaf_bwd(p, OnDevice(x).stream()); }
inline void cos_fwd(const Calibrate& p, const Tensor& x) { cuda::cos_fwd(p, OnDevice(x).stream()); }
inline void conv_fwd(const Gather& p, const Tensor& x) { cuda::conv_fwd(p, OnDevice(x).stream()); }
inline void softmax_out(const Rows& p, const Tensor& x) { cuda::softmax_out(p, OnDevice(x).stream()); }
inline void layer_norm_out(const Rows& p, const Tensor& x) { cuda::layer_norm_out(p, OnDevice(x).stream()); }
inline void qcfs_fwd(const Elementwise& p, const Tensor& x) { cuda::qcfs_fwd(p, OnDevice(x).stream()); }
inline int64_t qcfs_partials(const Elementwise& p) { return cuda::qcfs_partials(p); }
inline void qcfs_bwd(const Elementwise& p, void* dtheta, const Tensor& x) { cuda::qcfs_bwd(p, dtheta, OnDevice(x).stream()); }

}  // namespace snn::backend
