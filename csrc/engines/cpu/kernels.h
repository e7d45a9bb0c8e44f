// The CPU kernels, compiled once per instruction set from kernels.cpp, and the choice among them.
#pragma once
#include "../../ops/table.h"
#include "../../params.h"
#include "blocks.h"

namespace snn {

// A kernel runs the piece [first, end) of a launch. Units: neurons (first is a multiple of 32); elements (first is a multiple of kTile); tiles or
// stripes of stage one; rows; images.
template <class P> struct KernelOf { using type = void (*)(const P&, int64_t first, int64_t end); };
template <> struct KernelOf<Gather> {
  using type = void (*)(const Gather&, const Cut&, int64_t first, int64_t end, void* scratch);
};  // [first, end) are units of Cut

struct Kernels {
  const char* isa;
#define SNN_KERNEL(op, params, engine, equation) KernelOf<params>::type op;
  SNN_OPS(SNN_KERNEL)
  SNN_CPU_OPS(SNN_KERNEL)
#undef SNN_KERNEL
};

extern const Kernels kernels_v4, kernels_v3, kernels_baseline;

const Kernels& kernels();         // the ones in use: the best this processor runs, unless use_isa chose others
bool supported(const char* isa);  // runs on this processor
bool stores_in_halves();          // a store of 64 bytes is carried out as two
bool use_isa(const char* isa);    // false if unknown or not supported; for tests and measurements
constexpr const char* kIsas[] = {"x86-64-v4", "x86-64-v3", "baseline"};

}  // namespace snn
