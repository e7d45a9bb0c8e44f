// QCFS x the element-wise loop.
#define SNN_ISA device
#include "kernels.h"

#include "lane.h"
// lane.h comes first: the equations use it on types that have no namespace of their own.
#include "../../equations/activations/qcfs.h"
#include "elementwise.h"

namespace snn::cuda {

void qcfs_fwd(const Elementwise& p, void* stream) { elementwise_fwd<QCFS>(p, static_cast<Stream>(stream)); }
int64_t qcfs_partials(const Elementwise& p) { return elementwise_partials(p); }
void qcfs_bwd(const Elementwise& p, void* dtheta, void* stream) { elementwise_bwd<QCFS>(p, dtheta, static_cast<Stream>(stream)); }

}  // namespace snn::cuda
