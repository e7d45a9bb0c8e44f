// What crosses from an op into an engine: plain pointers and numbers, every pointer with its shape.
// "acc" is the dtype of state and thresholds: float, or double where x is double.
#pragma once
#include <cstdint>

namespace snn {

enum class Dtype : int { f32, f16, bf16, f64 };
enum class Spikes : int { scaled, int8, bits, count };
enum class Negative : int { none, stbif, snm };
enum class Surrogate : int { zif, triangle, rectangle, atan, sigmoid };
enum class Grad : int { qcfs, srp, paper };

constexpr int kEvery = 16;  // the forward may keep the state before every 16th step for the backward; EVERY in snnfast/engines/reference/multistep.py

// The numbers of an integrate-and-fire launch: snnfast/equations/neurons/iaf.py, class Rule.
struct IafRule {
  bool normalised, strict, hard;
  double v_reset;
  Negative negative;
  double n_min, p_max;
  Surrogate surrogate;
  double gamma;
  bool detach_reset;
  bool memory;
  double offset;
  double tau;  // 0: no leak
  bool decay_input, product;
};

// Per neuron: neuron i has theta[(i / inner) % C]. A null v starts at v0, a null count at 0, a null mask emits everything.
struct Multistep {
  Dtype dtype;           // of x, scaled spikes, ds, dx
  const void* x;         // [T, N] at row stride x_stride, or [1, N] with x_stride 0: a constant current
  int64_t x_stride;
  const void* theta;     // acc [C]
  const void* v;         // acc [N] or null
  const void* count;     // int32 [N] or null; with rule.memory acc [N], a float memory
  const bool* mask;      // [N] or null
  int64_t T, N, C, inner;
  double v0;
  IafRule rule;
};

struct MultistepFwd : Multistep {
  Spikes spikes;
  bool unit;           // "scaled" emits s instead of s theta
  void* s;             // scaled, int8: [T, N]; bits: [T, W] or [2, T, W], W = ceil(N / 32); count: [N] int32
  void* v_end;         // acc [N]
  void* count_end;     // as count
  void* kept;          // acc [ceil(T / kEvery), 1 or 2 (v; n with negative spikes), N] or null; the CPU keeps nothing
};

struct MultistepBwd : Multistep {
  bool constant;   // x is one row for all T > 1 steps, so that dx is their sum (an expanded x has stride 0 too, and a dx per step)
  const void* ds;  // [T, N] at row stride ds_stride, or null
  int64_t ds_stride;
  const void* dv;  // acc [N] or null: gradient of v_end
  const void* kept;  // as in MultistepFwd; the CPU computes the states again
  void* dx;        // [T, N], or [1, N] for a constant current
  void* dv_start;  // acc [N]
  void* dtheta;    // acc [N], per neuron
};

// The numbers of a calibration: snnfast/equations/neurons/cos.py, class Rule.
struct CosRule {
  bool normalised;
  double max_shift;
};

struct Calibrate {
  Dtype dtype;        // of x
  const void* x;      // [T, N] at row stride x_stride, or [1, N] with x_stride 0
  int64_t x_stride;
  const void* theta;  // acc [C]; neuron i has theta[(i / inner) % C]
  int64_t T, N, C, inner;
  double v0;
  CosRule rule;
  void* v0_out;       // acc [N]
};

// Element i has theta[(i / inner) % C].
struct Elementwise {
  Dtype dtype;        // of x, y, dy, dx
  const void* x;      // [N]
  const void* theta;  // acc [C]
  int64_t N, C, inner;
  int64_t levels;
  Grad grad;
  void* y;            // forward: [N]
  const void* dy;     // backward: [N]
  void* dx;           // backward: [N]
  void* partial;      // backward: acc [tiles], stage one of dtheta
};

// The numbers of a convolution: snnfast/equations/synapses/conv.py, class Rule.
struct ConvRule {
  int64_t stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;
};

// Rows are images times steps; every array is contiguous.
struct Gather {
  Dtype dtype;       // of all arrays: f32 or f64
  const void* x;     // [R, H, W, C]
  const void* w;     // [KY, KX, C, O]
  const void* bias;  // [O] or null
  void* y;           // [R, Ho, Wo, O]
  int64_t R, H, W, C, KY, KX, O, Ho, Wo;
  ConvRule rule;
};

// A function of rows over time: every array is contiguous.
struct Rows {
  Dtype dtype;    // of all arrays: f32 or f64
  const void* x;  // [T, R, C]
  void* total;    // [R, C], the sum of the steps before; brought up to date
  void* last;     // [R, C], the function of it; brought up to date
  const void* w;  // [C] or null
  const void* b;  // [C] or null
  void* y;        // [T, R, C]
  int64_t T, R, C;
  double eps;
};

constexpr int kMostColumns = 4096;  // MOST_COLUMNS in snnfast/ops/rows.py

}  // namespace snn
