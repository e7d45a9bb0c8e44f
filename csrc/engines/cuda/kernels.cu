// One row of ops/table.h: its engine with its equation. Compiled once per row, for the time loops once per row and dtype. CMake says which, by
// SNN_OP, SNN_PARAMS, SNN_ENGINE, SNN_EQUATION, and SNN_DTYPE or nothing.
#include "engines.h"

namespace snn::cuda {

#ifdef SNN_DTYPE
void SNN_OP(For<Dtype::SNN_DTYPE>, const SNN_PARAMS& p, void* stream) {
  SNN_ENGINE<SNN_EQUATION, ElementOf<Dtype::SNN_DTYPE>::type>(p, static_cast<Stream>(stream));
}
#else
void SNN_OP(ForAll, const SNN_PARAMS& p, void* stream) { SNN_ENGINE<SNN_EQUATION>(p, static_cast<Stream>(stream)); }
#endif

}  // namespace snn::cuda
