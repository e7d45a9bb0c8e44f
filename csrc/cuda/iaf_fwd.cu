// IAF x the time loop, forward.
#define SNN_ISA device
#include "kernels.h"

#include "lane.h"
// lane.h comes first: the equations use it on types that have no namespace of their own.
#include "../neurons/iaf.h"
#include "multistep.h"

void snn::cuda::iaf_fwd(const MultistepFwd& p, void* stream) { multistep_fwd<IAF>(p, static_cast<Stream>(stream)); }
