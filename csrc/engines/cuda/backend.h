// What the op files see of CUDA: each launch on the tensor's device and that device's current stream, without waiting.
#pragma once
#include <cstdint>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "kernels.h"

// Declared here because torch's header declares this function only together with CUDA's own headers; every build of libtorch_cuda has the function.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace snn::backend {

using torch::stable::Tensor;

constexpr bool keeps = true;  // the forward keeps the state before every kEvery-th step for the backward

inline void prepare(void*, int64_t) {}

// While an object of this class lives, x's device is current; stream() is the current stream of that device.
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

#define SNN_LAUNCH_OF(op, params, engine, equation) \
  inline void op(const params& p, const Tensor& x) { cuda::op(p, OnDevice(x).stream()); }
SNN_OPS(SNN_LAUNCH_OF)
#undef SNN_LAUNCH_OF

// How many numbers `partial` holds.
inline int64_t partials(const Elementwise& p) { return cuda::Reduction::numbers_of(p); }
inline int64_t partials(const ChannelSums& p) { return cuda::ChannelStripes(p).numbers(p.C); }

}  // namespace snn::backend
