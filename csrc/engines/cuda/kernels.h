// The CUDA kernels, one function per op: each is launched on a stream of the current device and does not wait.
#pragma once
#include "../../params.h"

namespace snn::cuda {

// A unit for each dtype of x, so that they are compiled side by side: the time loops are most of the build.
template <Dtype> void iaf_fwd_of(const MultistepFwd&, void* stream);
template <Dtype> void iaf_bwd_of(const MultistepBwd&, void* stream);
template <> void iaf_fwd_of<Dtype::f32>(const MultistepFwd&, void* stream);
template <> void iaf_fwd_of<Dtype::f16>(const MultistepFwd&, void* stream);
template <> void iaf_fwd_of<Dtype::bf16>(const MultistepFwd&, void* stream);
template <> void iaf_fwd_of<Dtype::f64>(const MultistepFwd&, void* stream);
template <> void iaf_bwd_of<Dtype::f32>(const MultistepBwd&, void* stream);
template <> void iaf_bwd_of<Dtype::f16>(const MultistepBwd&, void* stream);
template <> void iaf_bwd_of<Dtype::bf16>(const MultistepBwd&, void* stream);
template <> void iaf_bwd_of<Dtype::f64>(const MultistepBwd&, void* stream);
inline void iaf_fwd(const MultistepFwd& p, void* stream) {
  switch (p.dtype) {
    case Dtype::f32: return iaf_fwd_of<Dtype::f32>(p, stream);
    case Dtype::f16: return iaf_fwd_of<Dtype::f16>(p, stream);
    case Dtype::bf16: return iaf_fwd_of<Dtype::bf16>(p, stream);
    case Dtype::f64: return iaf_fwd_of<Dtype::f64>(p, stream);
  }
}
inline void iaf_bwd(const MultistepBwd& p, void* stream) {
  switch (p.dtype) {
    case Dtype::f32: return iaf_bwd_of<Dtype::f32>(p, stream);
    case Dtype::f16: return iaf_bwd_of<Dtype::f16>(p, stream);
    case Dtype::bf16: return iaf_bwd_of<Dtype::bf16>(p, stream);
    case Dtype::f64: return iaf_bwd_of<Dtype::f64>(p, stream);
  }
}
void cos_fwd(const Calibrate&, void* stream);
void conv_fwd(const Gather&, void* stream);
void softmax_out(const Rows&, void* stream);
void layer_norm_out(const Rows&, void* stream);
void qcfs_fwd(const Elementwise&, void* stream);
int64_t qcfs_partials(const Elementwise&);  // how many numbers `partial` holds
void qcfs_bwd(const Elementwise&, void* dtheta, void* stream);

}  // namespace snn::cuda
