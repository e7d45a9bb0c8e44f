// The CUDA kernels, one function per row of the table: each is launched on a stream of the current device and does not wait.
#pragma once
#include <type_traits>

#include "../../ops/table.h"
#include "../../params.h"
#include "reduction.h"

namespace snn::cuda {

// What a unit is compiled for: one dtype of x, or all. The time loops are most of the build, so their dtypes are compiled in parallel.
template <Dtype> struct For {};
struct ForAll {};
template <class P> constexpr bool by_dtype = std::is_base_of_v<Multistep, P>;

#define SNN_LAUNCH_OF(op, params, engine, equation)                 \
  void op(For<Dtype::f32>, const params&, void* stream);            \
  void op(For<Dtype::f16>, const params&, void* stream);            \
  void op(For<Dtype::bf16>, const params&, void* stream);           \
  void op(For<Dtype::f64>, const params&, void* stream);            \
  void op(ForAll, const params&, void* stream);                     \
  template <class P>                                                \
  void op(const P& p, void* stream) {                               \
    if constexpr (by_dtype<P>) {                                    \
      switch (p.dtype) {                                            \
        case Dtype::f32: return op(For<Dtype::f32>{}, p, stream);   \
        case Dtype::f16: return op(For<Dtype::f16>{}, p, stream);   \
        case Dtype::bf16: return op(For<Dtype::bf16>{}, p, stream); \
        case Dtype::f64: return op(For<Dtype::f64>{}, p, stream);   \
      }                                                             \
    } else {                                                        \
      op(ForAll{}, p, stream);                                      \
    }                                                               \
  }
SNN_OPS(SNN_LAUNCH_OF)
#undef SNN_LAUNCH_OF

}  // namespace snn::cuda
