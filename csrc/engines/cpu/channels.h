// Channels on the CPU: x is [outer, C, inner]. For each channel an op forms sums, or adds a line.
//
// Sums are in fp64, in a fixed order that depends neither on the threads nor on the instruction set. A stripe of rows leaves two numbers per channel
// (tiles.h), each from 16 interleaved sums where a channel's run is that long. The stripes are added in their order.
#pragma once
#include <algorithm>

#include "../../dtype.h"
#include "../../params.h"
#include "../../switch.h"
#include "elementwise.h"
#include "simd.h"
#include "spread.h"
#include "tiles.h"

namespace snn::inline SNN_ISA {

constexpr int kInterleaved = 16;                                  // interleaved sums of a run
constexpr int kInterleavedLanes = kInterleaved / kWidth<double>;  // the lanes that hold them

// 16 numbers from p on, as doubles.
SNN_HD void widen(const double* p, F64 (&to)[kInterleavedLanes]) {
  for (int j = 0; j < kInterleavedLanes; ++j) to[j] = load(p + j * kWidth<double>);
}
template <class X>
SNN_HD void widen(const X* p, F64 (&to)[kInterleavedLanes]) {
  constexpr int W = kWidth<float>;
  for (int j = 0; j < kInterleaved / W; ++j) {
    const F32 v = load(p + j * W);
#if defined(__AVX512BW__)
    to[2 * j] = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    to[2 * j + 1] = _mm512_cvtps_pd(_mm256_castsi256_ps(_mm512_extracti64x4_epi64(_mm512_castps_si512(v), 1)));
#elif defined(__AVX2__)
    to[2 * j] = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
    to[2 * j + 1] = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
#else
    to[2 * j] = _mm_cvtps_pd(v);
    to[2 * j + 1] = _mm_cvtps_pd(_mm_movehl_ps(v, v));
#endif
  }
}

inline double halves(double (&a)[kInterleaved]) {
  for (int half = kInterleaved / 2; half; half /= 2)
    for (int j = 0; j < half; ++j) a[j] += a[j + half];
  return a[0];
}

// Adds a run of one channel to its sums.
template <class M, class X>
inline void sum_run(double& total, double& squares, const X* x, int64_t count, double pivot) {
  F64 t[kInterleavedLanes] = {}, q[kInterleavedLanes] = {};
  const F64 from = splat<F64>(pivot);
  int64_t i = 0;
  for (; i + kInterleaved <= count; i += kInterleaved) {
    F64 v[kInterleavedLanes];
    widen(x + i, v);
    for (int j = 0; j < kInterleavedLanes; ++j) M::add(t[j], q[j], v[j], from);
  }
  alignas(64) double ts[kInterleaved], qs[kInterleaved];
  for (int j = 0; j < kInterleavedLanes; ++j) store(ts + j * kWidth<double>, t[j], false), store(qs + j * kWidth<double>, q[j], false);
  if (i < count) {
    X rest[kInterleaved] = {};
    std::memcpy(rest, x + i, sizeof(X) * (count - i));
    alignas(64) double v[kInterleaved];
    F64 lanes[kInterleavedLanes];
    widen(rest, lanes);
    for (int j = 0; j < kInterleavedLanes; ++j) store(v + j * kWidth<double>, lanes[j], false);
    for (int j = 0; i + j < count; ++j) M::add(ts[j], qs[j], v[j], pivot);
  }
  total += halves(ts), squares += halves(qs);
}

// Adds a row of C channels, with one number each, to their sums.
template <class M, class X>
inline void sum_row(double* total, double* squares, const X* x, int64_t C, const double* pivot) {
  int64_t c = 0;
  for (; c + kInterleaved <= C; c += kInterleaved) {
    F64 v[kInterleavedLanes];
    widen(x + c, v);
    for (int j = 0; j < kInterleavedLanes; ++j) {
      const int64_t at = c + j * kWidth<double>;
      F64 t = load(total + at), q = load(squares + at);
      M::add(t, q, v[j], load(pivot + at));
      store(total + at, t, false), store(squares + at, q, false);
    }
  }
  if (c == C) return;
  X rest[kInterleaved] = {};
  std::memcpy(rest, x + c, sizeof(X) * (C - c));
  alignas(64) double v[kInterleaved];
  F64 lanes[kInterleavedLanes];
  widen(rest, lanes);
  for (int j = 0; j < kInterleavedLanes; ++j) store(v + j * kWidth<double>, lanes[j], false);
  for (int j = 0; c + j < C; ++j) M::add(total[c + j], squares[c + j], v[j], pivot[c + j]);
}

// Stripes [first, end).
template <class M>
void channel_sums(const ChannelSums& p, int64_t first, int64_t end) {
  with_dtype(p.dtype, [&](auto of) {
    using X = typename decltype(of)::type;
    const Stripes stripes(p);
    const int64_t row = p.C * p.inner, outer = p.N / row;
    for (int64_t stripe = first; stripe < end; ++stripe) {
      double *total = p.partial + stripe * 2 * p.C, *squares = total + p.C;
      std::fill(total, total + 2 * p.C, 0.0);
      for (int64_t o = stripe * stripes.rows; o < std::min(outer, (stripe + 1) * stripes.rows); ++o) {
        const X* x = static_cast<const X*>(p.x) + o * row;
        if (p.inner == 1) sum_row<M>(total, squares, x, p.C, p.pivot);
        else
          for (int64_t c = 0; c < p.C; ++c) sum_run<M>(total[c], squares[c], x + c * p.inner, p.inner, p.pivot[c]);
      }
    }
  });
}

// Writes q and p of the elements [first, first + count).
template <class S>
inline void spread_lines(S* q, S* p, const ChannelAdd& of, int64_t first, int count) {
  struct Pattern {
    const void* theta;
    int64_t C, inner;
  } pattern{of.line, of.C, of.inner};
  spread(q, pattern, first, count, 0);
  spread(p, pattern, first, count, 1);
}

// Elements [first, end).
template <class M>
void channel_add(const ChannelAdd& p, int64_t first, int64_t end) {
  with_dtype(p.dtype, [&](auto of) {
    using X = typename decltype(of)::type;
    using S = Acc<X>;
    const X* x = static_cast<const X*>(p.x);
    X* y = static_cast<X*>(p.y);
    alignas(64) S q[kTile + kWidth<S>] = {}, line[kTile + kWidth<S>] = {};
    for (int64_t at = first; at < end; at += kTile) {
      const int count = int(std::min<int64_t>(kTile, end - at));
      spread_lines(q, line, p, at, count);
      lanes<S>(count, [&](int i, int many) __attribute__((always_inline)) {
        const Lane<S> v = M::corrected(load_part(y + at + i, many), load_part(x + at + i, many), load(q + i), load(line + i));
        store_part(y + at + i, v, many, false);
      });
    }
  });
}

}  // namespace snn
