// The convolution over spikes x the gathering loop.
#define SNN_ISA device
#include "kernels.h"

#include "lane.h"
// lane.h comes first: the equations use it on types that have no namespace of their own.
#include "../../equations/synapses/conv.h"
#include "gather.h"

void snn::cuda::conv_fwd(const Gather& p, void* stream) { gather<Conv>(p, static_cast<Stream>(stream)); }
