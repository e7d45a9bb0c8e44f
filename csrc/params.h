// What crosses from an op into an engine: plain pointers and numbers, every pointer with its shape.
// "acc" is the dtype of state and thresholds: float, or double where x is double.
#pragma once
#include <cstdint>

namespace snn {

enum class Dtype : int { f32, f16, bf16, f64 };
enum class Spikes : int { scaled, int8, bits, count };

constexpr int kEvery = 16;  // the forward may keep the state before every 16th step for the backward; EVERY in snnfast/engines/reference/multistep.py

// The numbers of an equation: the fields of its class Rule in Python, in order. A flag is 0 or 1; a choice is its index among the choices.
// Only the equation knows what they mean.
constexpr int kMostNumbers = 20;
struct Rule { double of[kMostNumbers]; };

// Neuron i has theta[q, (i / inner) % C] as the q-th parameter of its equation. A null v starts at v0 (times theta where voltages are
// not normalised), a null count at 0; with a null mask every
// neuron emits its spikes.
struct Multistep {
  Dtype dtype;    // of x, scaled spikes, ds, dx
  const void* x;  // [T, N] at row stride x_stride, or [1, N] with x_stride 0: a constant current
  int64_t x_stride;
  const void* theta;  // acc [K, C], K parameters; theta itself is the first
  const void* v;      // acc [N] or null
  const void* count;  // int32 [N] or null; where `remembers` is set, a float memory, acc [N]
  const bool* mask;   // [N] or null
  int64_t T, N, C, inner;
  double v0;
  Rule rule;
  bool is_signed;  // with negative spikes
  bool remembers;
};

struct MultistepFwd : Multistep {
  Spikes spikes;
  bool unit;        // "scaled" emits s instead of s theta
  void* s;          // scaled, int8: [T, N]; bits: [T, W] or [2, T, W], W = ceil(N / 32); count: [N] int32
  void* v_end;      // acc [N]
  void* count_end;  // as count
  void* kept;       // acc [ceil(T / kEvery), 1 or 2 (v; n with negative spikes), N] or null; the CPU keeps nothing
};

struct MultistepBwd : Multistep {
  bool constant;   // x is one row for all T > 1 steps, so dx is the sum over the steps (an expanded x has stride 0 too, but one dx per step)
  const void* ds;  // [T, N] at row stride ds_stride, or null
  int64_t ds_stride;
  const void* dv;    // acc [N] or null: gradient of v_end
  const void* kept;  // as in MultistepFwd; the CPU computes the states again
  void* dx;          // [T, N], or [1, N] for a constant current
  void* dv_start;    // acc [N]
  void* dtheta;      // acc [asked, N], per neuron: gradients of the last `asked` of K parameters
  int asked;
};

struct Calibrate {
  Dtype dtype;    // of x
  const void* x;  // [T, N] at row stride x_stride, or [1, N] with x_stride 0
  int64_t x_stride;
  const void* theta;  // acc [C]; neuron i has theta[(i / inner) % C]
  int64_t T, N, C, inner;
  double v0;
  Rule rule;
  void* v0_out;  // acc [N]
};

// Element i has theta[(i / inner) % C].
struct Elementwise {
  Dtype dtype;        // of x, y, dy, dx
  const void* x;      // [N]
  const void* theta;  // acc [C]
  int64_t N, C, inner;
  Rule rule;
};

struct ElementwiseFwd : Elementwise {
  void* y;  // [N]
};

struct ElementwiseBwd : Elementwise {
  const void* dy;  // [N]
  void* dx;        // [N]
  void* partial;   // acc, of length backend::partials: stage one of dtheta
  void* dtheta;    // acc [C]
};

// The numbers of a convolution: snnfast/equations/synapses/conv.py, class Rule.
struct ConvRule { int64_t stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x; };

// Rows are images times steps; every array is contiguous.
struct Gather {
  Dtype dtype;       // of all arrays: f32 or f64
  const void* x;     // [R, H, W, groups C]
  const void* w;     // [KY, KX, C, O]
  const void* bias;  // [O] or null
  void* y;           // [R, Ho, Wo, O]
  int64_t R, H, W, C, KY, KX, O, Ho, Wo;
  int64_t groups;  // of outputs, as many of each; group g reads channels [g C, (g + 1) C)
  ConvRule rule;
  // Of sums of whole numbers, whose x and y are f32 while w and bias are int32: x is per_unit[c] or per_unit[0] times as many units.
  bool bytes;             // x is int8 instead, in units
  const float* per_unit;  // [groups C] or [1]
  bool by_channel;
  const float* scale;  // [O]: y = scale times the sum
};

// A function of rows over time: every array is contiguous.
struct Rows {
  Dtype dtype;    // of all arrays: f32 or f64
  const void* x;  // [T, R, C]
  void* total;    // [R, C], the sum of x over all earlier steps; updated in place
  void* last;     // [R, C], the function of `total`; updated in place
  const void* w;  // [C] or null
  const void* b;  // [C] or null
  void* y;        // [T, R, C]
  int64_t T, R, C;
  Rule rule;
};

// Element i belongs to channel (i / inner) % C: x is [outer, C, inner] in memory.
struct Channels {
  Dtype dtype;    // of x and y
  const void* x;  // [N]
  int64_t N, C, inner;
};

struct ChannelSums : Channels {
  const double* pivot;  // [C]
  double* partial;      // of length backend::partials: stage one
  double* sums;         // [2, C]: sums of x - pivot, sums of (x - pivot)^2
};

struct ChannelAdd : Channels {
  const void* line;  // acc [2, C]: q, p
  void* y;           // [N]: y + (x q + p)
};

// The numbers of a pooling: snnfast/equations/functions/max_pool.py, class Rule.
struct PoolRule { int64_t size_y, size_x, stride_y, stride_x, padding_y, padding_x; };

// Images x [P, H, W, C] and windows [P, Ho, Wo, C]. Where each channel is stored as a separate image, C is 1.
struct Pool {
  Dtype dtype;  // of x, y, dy, dx
  int64_t P, H, W, C, Ho, Wo;
  PoolRule rule;
};

struct PoolFwd : Pool {
  const void* x;
  void* y;
  uint8_t* at;  // index of y's number within its window, counted row by row
};

struct PoolBwd : Pool {
  const void* dy;
  const uint8_t* at;
  void* dx;
};

constexpr int kMostWindow = 255;  // the most numbers in a window

constexpr int kMostColumns = 4096;  // MOST_COLUMNS in snnfast/ops/rows.py

}  // namespace snn
