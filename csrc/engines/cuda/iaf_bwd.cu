// IAF x the time loop, backward; compiled once for each dtype, SNN_DTYPE.
#define SNN_ISA device
#include "kernels.h"

#include "lane.h"
// lane.h comes first: the equations use it on types that have no namespace of their own.
#include "../../equations/neurons/iaf.h"
#include "multistep_bwd.h"

template <>
void snn::cuda::iaf_bwd_of<snn::Dtype::SNN_DTYPE>(const MultistepBwd& p, void* stream) {
  multistep_bwd<IAF, ElementOf<Dtype::SNN_DTYPE>::type>(p, static_cast<Stream>(stream));
}
