// IAF x the time loop, forward; compiled once for each dtype, SNN_DTYPE.
#define SNN_ISA device
#include "kernels.h"

#include "lane.h"
// lane.h comes first: the equations use it on types that have no namespace of their own.
#include "../../equations/neurons/iaf.h"
#include "multistep.h"

template <>
void snn::cuda::iaf_fwd_of<snn::Dtype::SNN_DTYPE>(const MultistepFwd& p, void* stream) {
  multistep_fwd<IAF, ElementOf<Dtype::SNN_DTYPE>::type>(p, static_cast<Stream>(stream));
}
