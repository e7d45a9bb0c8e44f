// Compiled once per instruction set, with SNN_ISA = v4, v3 or baseline and the matching -march: equations x engines.
#include "kernels.h"

#include "simd.h"
// simd.h comes first: the equations call its functions on types that have no namespace of their own.
#include "equations.h"  // all of csrc/equations; CMake writes it
#include "calibrate.h"
#include "channels.h"
#include "elementwise.h"
#include "gather.h"
#include "multistep.h"
#include "multistep_bwd.h"
#include "pool.h"
#include "rows.h"

namespace snn {

#define SNN_JOIN(a, b) a##b
#define SNN_TABLE(isa) SNN_JOIN(kernels_, isa)

extern const Kernels SNN_TABLE(SNN_ISA) = {
#if defined(__AVX512BW__)
    "x86-64-v4",
#elif defined(__AVX2__)
    "x86-64-v3",
#else
    "baseline",
#endif
#define SNN_ENTRY(op, params, engine, equation) engine<equation>,
    SNN_OPS(SNN_ENTRY) SNN_CPU_OPS(SNN_ENTRY)};

}  // namespace snn
