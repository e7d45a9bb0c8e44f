// One row of ops/table.h: its engine with its equation. Compiled once per row, for the time loops once per row and dtype. CMake says which, by
// SNN_OP, SNN_PARAMS, SNN_ENGINE, SNN_EQUATION, and SNN_DTYPE or nothing.
#define SNN_ISA device
#include "kernels.h"

#include "lane.h"
// lane.h comes first: the equations call its functions on types that have no namespace of their own.
#include "equations.h"  // all of csrc/equations; CMake writes it
#include "calibrate.h"
#include "channels.h"
#include "elementwise.h"
#include "gather.h"
#include "multistep.h"
#include "multistep_bwd.h"
#include "multistep_few.h"
#include "pool.h"
#include "rows.h"

namespace snn::cuda {

#ifdef SNN_DTYPE
void SNN_OP(For<Dtype::SNN_DTYPE>, const SNN_PARAMS& p, void* stream) {
  SNN_ENGINE<SNN_EQUATION, ElementOf<Dtype::SNN_DTYPE>::type>(p, static_cast<Stream>(stream));
}
#else
void SNN_OP(ForAll, const SNN_PARAMS& p, void* stream) { SNN_ENGINE<SNN_EQUATION>(p, static_cast<Stream>(stream)); }
#endif

}  // namespace snn::cuda
