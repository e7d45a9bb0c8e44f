// The CPU kernels, compiled once per instruction set from kernels.cpp, and the choice among them.
#pragma once
#include "../../params.h"
#include "blocks.h"

namespace snn {

struct Kernels {
  const char* isa;
  void (*iaf_fwd)(const MultistepFwd&, int64_t first, int64_t end);  // neurons; first is a multiple of 32
  void (*iaf_bwd)(const MultistepBwd&, int64_t first, int64_t end);
  void (*cos_fwd)(const Calibrate&, int64_t first, int64_t end);
  void (*conv_fwd)(const Gather&, const Blocks&, int64_t first, int64_t end, void* scratch);  // units of Blocks
  void (*softmax_out)(const Rows&, int64_t first, int64_t end);  // rows
  void (*layer_norm_out)(const Rows&, int64_t first, int64_t end);
  void (*qcfs_fwd)(const Elementwise&, int64_t first, int64_t end);  // elements; first is a multiple of kTile
  void (*qcfs_bwd)(const Elementwise&, int64_t first, int64_t end);  // tiles of stage one
};

extern const Kernels kernels_v4, kernels_v3, kernels_baseline;

const Kernels& kernels();              // the ones in use: the best this processor runs, unless use_isa chose others
bool supported(const char* isa);       // runs on this processor
bool stores_in_halves();               // a store of 64 bytes is carried out as two
bool use_isa(const char* isa);         // false if unknown or not supported; for tests and measurements
constexpr const char* kIsas[] = {"x86-64-v4", "x86-64-v3", "baseline"};

}  // namespace snn
