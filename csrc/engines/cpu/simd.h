// Lanes on the CPU: a lane is a GCC vector of the widest registers that this translation unit is compiled for. This file has what the equations
// need (splat, where, round_down, exponential) and what the engines need (load, store, pack).
// SNN_ISA names the translation unit (v4, v3, baseline). Translation units must share nothing that is defined here.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <immintrin.h>

#include "../../host_device.h"
#include "sizes.h"

namespace snn::inline SNN_ISA {

#if defined(__AVX512BW__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

typedef float F32 __attribute__((vector_size(kBytes)));
typedef int32_t I32 __attribute__((vector_size(kBytes)));
typedef double F64 __attribute__((vector_size(kBytes)));
typedef int64_t I64 __attribute__((vector_size(kBytes)));
typedef float U32 __attribute__((vector_size(kBytes), aligned(4), may_alias));
typedef double U64 __attribute__((vector_size(kBytes), aligned(8), may_alias));
typedef uint32_t N32 __attribute__((vector_size(kBytes)));
typedef uint32_t UN32 __attribute__((vector_size(kBytes), aligned(4), may_alias));

template <class S> struct LaneOf;
template <> struct LaneOf<float> {
  using V = F32;
  using I = I32;
  using U = U32;
};
template <> struct LaneOf<double> {
  using V = F64;
  using I = I64;
  using U = U64;
};
template <> struct LaneOf<uint32_t> {  // whole numbers modulo 2^32; as signed ones in `rounded` and `converted`
  using V = N32;
  using I = I32;
  using U = UN32;
};
template <class S> using Lane = typename LaneOf<S>::V;
template <class S> constexpr int kWidth = kBytes / int(sizeof(S));

// f16 and bf16 in memory; float and double stand for themselves.
struct half { uint16_t bits; };
struct bfloat { uint16_t bits; };

// ---- the primitives of the equations

template <class V, class S> SNN_HD V splat(S s) { return s - V{}; }  // nothing is left of the 0, as it would be of -0 + 0
template <class M, class V> SNN_HD V where(M c, V a, V b) { return c ? a : b; }
// u - s j for a spike s, up or down: selects the value of s j, then subtracts once. For s = 0 that value is j * 0, which does not depend on time.
// Where j is infinite, j * 0 is NaN and the NaN shows.
template <class M, class V> SNN_HD V lowered(V u, V /*s*/, M up, V j) { return u - where(up, j, j * 0); }
template <class M, class V> SNN_HD V lowered(V u, V /*s*/, M up, M down, V j) { return u - where(down, -j, where(up, j, j * 0)); }
// f / b for a whole f from 0 to b; inverse = 1 / b.
template <class V, class S> SNN_HD V ratio(V f, S b, S /*inverse*/) { return f / b; }

SNN_HD F32 magnitude(F32 x) { return reinterpret_cast<F32>(reinterpret_cast<I32>(x) & 0x7fffffff); }
SNN_HD F64 magnitude(F64 x) { return reinterpret_cast<F64>(reinterpret_cast<I64>(x) & 0x7fffffffffffffff); }

// For a normal x >= 0 below 1.5 * 2^127: 2^j with 0.75 2^j <= x < 1.5 2^j, or 0 if x is 0. Adding a half in the bits below the exponent carries
// into the exponent from 1.5 on.
SNN_HD F32 nearest_power(F32 x) { return reinterpret_cast<F32>((reinterpret_cast<I32>(x) + 0x400000) & 0x7f800000); }
SNN_HD F64 nearest_power(F64 x) { return reinterpret_cast<F64>((reinterpret_cast<I64>(x) + (int64_t(1) << 51)) & 0x7ff0000000000000); }

SNN_HD F32 round_down(F32 x) {
#if defined(__AVX512BW__)
  return _mm512_floor_ps(x);
#elif defined(__AVX2__)
  return _mm256_floor_ps(x);
#else
  const F32 t = __builtin_convertvector(__builtin_convertvector(x, I32), F32);
  const F32 f = t > x ? t - 1.0f : t;
  const F32 size = x < 0.0f ? -x : x;
  return size < 8388608.0f ? f : x;  // 2^23 and above are whole, and NaN stays
#endif
}

SNN_HD F64 round_down(F64 x) {
  for (int i = 0; i < kWidth<double>; ++i) x[i] = __builtin_floor(x[i]);
  return x;
}

SNN_HD F32 square_root(F32 x) {
#if defined(__AVX512BW__)
  return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#else
  return _mm_sqrt_ps(x);
#endif
}

SNN_HD F64 square_root(F64 x) {
  for (int i = 0; i < kWidth<double>; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
}

// Between fp32 and signed whole numbers, to the nearest.
SNN_HD N32 rounded(F32 x) {
#if defined(__AVX512BW__)
  return reinterpret_cast<N32>(_mm512_cvtps_epi32(x));
#elif defined(__AVX2__)
  return reinterpret_cast<N32>(_mm256_cvtps_epi32(x));
#else
  return reinterpret_cast<N32>(_mm_cvtps_epi32(x));
#endif
}
SNN_HD F32 converted(N32 n) { return __builtin_convertvector(reinterpret_cast<I32>(n), F32); }

template <class V> SNN_HD V exponential(V x) {
  for (unsigned i = 0; i < sizeof(V) / sizeof(x[0]); ++i) x[i] = std::exp(x[i]);
  return x;
}

// ---- loads

SNN_HD F32 load(const float* p) { return *reinterpret_cast<const U32*>(p); }
SNN_HD F64 load(const double* p) { return *reinterpret_cast<const U64*>(p); }
SNN_HD N32 load(const uint32_t* p) { return *reinterpret_cast<const UN32*>(p); }

SNN_HD F32 load(const half* p) {
#if defined(__AVX512BW__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  F32 v;
  for (int i = 0; i < kWidth<float>; ++i) {
    _Float16 h;
    std::memcpy(&h, p + i, sizeof h);
    v[i] = float(h);
  }
  return v;
#endif
}

typedef uint16_t H16 __attribute__((vector_size(kBytes / 2)));

SNN_HD F32 load(const bfloat* p) {
  H16 h;
  std::memcpy(&h, p, sizeof h);
  return reinterpret_cast<F32>(__builtin_convertvector(h, N32) << 16);
}

// ---- stores; with `stream`, float and int8 are written past the cache and need p aligned to the bytes written; other types ignore it

// Streamed stores are weakly ordered: call fence before the result is handed to another thread.
SNN_HD void fence(bool stream) {
  if (stream) _mm_sfence();
}

SNN_HD void store(float* p, F32 v, bool stream) {
  if (stream) {
#if defined(__AVX512BW__)
    _mm512_stream_ps(p, v);
#elif defined(__AVX2__)
    _mm256_stream_ps(p, v);
#else
    _mm_stream_ps(p, v);
#endif
  } else {
    *reinterpret_cast<U32*>(p) = v;
  }
}

SNN_HD void store(double* p, F64 v, bool) { *reinterpret_cast<U64*>(p) = v; }
SNN_HD void store(uint32_t* p, N32 v, bool) { *reinterpret_cast<UN32*>(p) = v; }

SNN_HD void store(half* p, F32 v, bool) {
#if defined(__AVX512BW__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  for (int i = 0; i < kWidth<float>; ++i) {
    const _Float16 h = _Float16(v[i]);
    std::memcpy(p + i, &h, sizeof h);
  }
#endif
}

SNN_HD void store(bfloat* p, F32 v, bool) {
  // Round to nearest, ties to even; NaN to the quiet NaN that torch writes.
  const N32 b = reinterpret_cast<N32>(v);
  N32 r = (b + 0x7fffu + ((b >> 16) & 1u)) >> 16;
  r = v == v ? r : N32{} + 0x7fc0u;
  const H16 h = __builtin_convertvector(r, H16);
  std::memcpy(p, &h, sizeof h);
}

// ---- packing a unit of 32 spikes (each lane a whole number from -127 to 127)

template <class V, int K> SNN_HD void store_int8(int8_t* p, const V (&s)[K], bool stream) {
#if defined(__AVX512BW__)
  if constexpr (std::is_same_v<V, F32>) {
    const __m128i a = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(s[0])), b = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(s[1]));
    const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
    if (stream) _mm256_stream_si256(reinterpret_cast<__m256i*>(p), both);
    else _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), both);
    return;
  }
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<V, F32>) {
    const __m256i lo = _mm256_packs_epi32(_mm256_cvtps_epi32(s[0]), _mm256_cvtps_epi32(s[1]));
    const __m256i hi = _mm256_packs_epi32(_mm256_cvtps_epi32(s[2]), _mm256_cvtps_epi32(s[3]));
    // packs works within 128-bit halves: put the groups of four back in order.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i both = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(lo, hi), order);
    if (stream) _mm256_stream_si256(reinterpret_cast<__m256i*>(p), both);
    else _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), both);
    return;
  }
#endif
  constexpr int W = kUnit / K;
  for (int j = 0; j < K; ++j)
    for (int i = 0; i < W; ++i) p[j * W + i] = int8_t(s[j][i]);
}

SNN_HD uint32_t signs(F32 v) {  // bit i: lane i is negative
#if defined(__AVX512BW__)
  return _mm512_movepi32_mask(_mm512_castps_si512(v));
#elif defined(__AVX2__)
  return uint32_t(_mm256_movemask_ps(v));
#else
  return uint32_t(_mm_movemask_ps(v));
#endif
}

SNN_HD uint32_t signs(F64 v) {
  uint32_t m = 0;
  for (int i = 0; i < kWidth<double>; ++i) m |= uint32_t(v[i] < 0) << i;
  return m;
}

template <class V, int K> SNN_HD uint32_t pack_negative(const V (&s)[K]) {
  uint32_t word = 0;
  for (int j = 0; j < K; ++j) word |= signs(s[j]) << (j * (kUnit / K));
  return word;
}

template <class V, int K> SNN_HD uint32_t pack_positive(const V (&s)[K]) {
  uint32_t word = 0;
  for (int j = 0; j < K; ++j) word |= signs(V{} - s[j]) << (j * (kUnit / K));  // 0 - 0 is +0, while -(0) would carry a sign
  return word;
}

}  // namespace snn
