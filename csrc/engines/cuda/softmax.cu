// Softmax x functions of rows over time.
#define SNN_ISA device
#include "kernels.h"

#include "lane.h"
// lane.h comes first: the equations use it on types that have no namespace of their own.
#include "../../equations/functions/softmax.h"
#include "rows.h"

void snn::cuda::softmax_out(const Rows& p, void* stream) { rows<Softmax>(p, static_cast<Stream>(stream)); }
