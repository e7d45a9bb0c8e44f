// IAF x the time loop, backward.
#define SNN_ISA device
#include "kernels.h"

#include "lane.h"
// lane.h comes first: the equations use it on types that have no namespace of their own.
#include "../neurons/iaf.h"
#include "multistep_bwd.h"

void snn::cuda::iaf_bwd(const MultistepBwd& p, void* stream) { multistep_bwd<IAF>(p, static_cast<Stream>(stream)); }
