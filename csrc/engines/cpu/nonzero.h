// Lists of what is not zero.
#pragma once
#include "simd.h"

namespace snn::inline SNN_ISA {

SNN_HD uint32_t nonzero(F32 v) {  // bit i: lane i is not zero; NaN counts as not zero
#if defined(__AVX512BW__)
  return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_UQ);
#else
  return signs(reinterpret_cast<F32>(v != F32{}));
#endif
}

SNN_HD uint32_t nonzero(F64 v) {
#if defined(__AVX512BW__)
  return _mm512_cmp_pd_mask(v, _mm512_setzero_pd(), _CMP_NEQ_UQ);
#elif defined(__AVX2__)
  return uint32_t(_mm256_movemask_pd(reinterpret_cast<F64>(v != F64{})));
#else
  return uint32_t(_mm_movemask_pd(reinterpret_cast<F64>(v != F64{})));
#endif
}

// Appends place and value of the lanes in `mask`; may write a vector beyond them.
template <class S> SNN_HD int append(uint32_t mask, int first, const S* x, uint16_t* index, S* value) {
#if defined(__AVX512BW__)
  if constexpr (std::is_same_v<S, float>) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i places = _mm512_maskz_compress_epi32(__mmask16(mask), _mm512_add_epi32(lanes, _mm512_set1_epi32(first)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(index), _mm512_cvtepi32_epi16(places));
    _mm512_storeu_ps(value, _mm512_maskz_compress_ps(__mmask16(mask), _mm512_loadu_ps(x)));
    return __builtin_popcount(mask);
  }
#endif
  int n = 0;
  for (; mask; mask &= mask - 1, ++n) {
    const int lane = __builtin_ctz(mask);
    index[n] = uint16_t(first + lane);
    value[n] = x[lane];
  }
  return n;
}

// Places and values of the non-zeros of x[0 .. count), in order; returns how many. May write a vector beyond them.
template <class S> SNN_HD int list(const S* x, int count, uint16_t* index, S* value) {
  // Lanes per call of `append`: one vector where `append` compresses a vector; else a word of 32, so that the loop of `append` ends once per word.
#if defined(__AVX512BW__)
  constexpr int unit = std::is_same_v<S, float> ? kWidth<S> : kUnit;
#else
  constexpr int unit = kUnit;
#endif
  int n = 0, c = 0;
  for (; c + unit <= count; c += unit) {
    uint32_t mask = 0;
    for (int i = 0; i < unit; i += kWidth<S>) mask |= nonzero(load(x + c + i)) << i;
    n += append(mask, c, x + c, index + n, value + n);
  }
  for (; c < count; ++c)
    if (x[c] != S(0)) {
      index[n] = uint16_t(c);
      value[n++] = x[c];
    }
  return n;
}

// As `list`, of x in units: x per_unit[0], or x[c] per_unit[c] where by_channel, to the nearest whole number.
SNN_HD int list_units(const float* x, int count, uint16_t* index, uint32_t* value, const float* per_unit, bool by_channel) {
  float* found = reinterpret_cast<float*>(value);
  const int n = list(x, count, index, found);
  for (int i = 0; by_channel && i < n; ++i) found[i] *= per_unit[index[i]];
  const F32 u = splat<F32>(by_channel ? 1.0f : per_unit[0]);
  for (int i = 0; i < n; i += kWidth<float>) store(value + i, rounded(load(found + i) * u), false);
  return n;
}

// As `list`, of bytes. May write a vector beyond them.
SNN_HD int list_bytes(const int8_t* x, int count, uint16_t* index, uint32_t* value) {
  int n = 0, c = 0;
  const auto append = [&](int at) {
    index[n] = uint16_t(at);
    value[n++] = uint32_t(int32_t(x[at]));
  };
#if defined(__AVX512BW__)
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (; c + 16 <= count; c += 16) {
    const __m512i s = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + c)));
    const __mmask16 mask = _mm512_test_epi32_mask(s, s);
    const __m512i places = _mm512_maskz_compress_epi32(mask, _mm512_add_epi32(lanes, _mm512_set1_epi32(c)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(index + n), _mm512_cvtepi32_epi16(places));
    _mm512_storeu_si512(value + n, _mm512_maskz_compress_epi32(mask, s));
    n += __builtin_popcount(uint32_t(mask));
  }
#endif
  for (; c + 8 <= count; c += 8) {
    uint64_t word;
    std::memcpy(&word, x + c, sizeof word);
    while (word) {
      const int byte = __builtin_ctzll(word) / 8;
      append(c + byte);
      word &= ~(uint64_t(0xff) << (8 * byte));
    }
  }
  for (; c < count; ++c)
    if (x[c]) append(c);
  return n;
}

}  // namespace snn
