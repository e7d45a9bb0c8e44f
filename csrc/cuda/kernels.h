// The CUDA kernels, one function per op: each is launched on a stream of the current device and does not wait.
#pragma once
#include "../params.h"

namespace snn::cuda {

void iaf_fwd(const MultistepFwd&, void* stream);
void iaf_bwd(const MultistepBwd&, void* stream);
void cos_fwd(const Calibrate&, void* stream);
void conv_fwd(const Gather&, void* stream);
void softmax_out(const Rows&, void* stream);
void layer_norm_out(const Rows&, void* stream);
void qcfs_fwd(const Elementwise&, void* stream);
int64_t qcfs_partials(const Elementwise&);  // how many numbers `partial` holds
void qcfs_bwd(const Elementwise&, void* dtheta, void* stream);

}  // namespace snn::cuda
