// COS x the calibrating loop.
#define SNN_ISA device
#include "kernels.h"

#include "lane.h"
// lane.h comes first: the equations use it on types that have no namespace of their own.
#include "../../equations/neurons/cos.h"
#include "calibrate.h"

void snn::cuda::cos_fwd(const Calibrate& p, void* stream) { calibrate<COS>(p, static_cast<Stream>(stream)); }
