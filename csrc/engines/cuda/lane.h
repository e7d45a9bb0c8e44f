// Lanes on CUDA: a plain float or double per thread. This file has what the equations need (splat, where, magnitude, round_down, exponential) and
// what the engines need (16-byte words, conversions).
#pragma once
#include <cuda_runtime.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../../host_device.h"

namespace snn::inline SNN_ISA {

using half = __half;
using bfloat = __nv_bfloat16;

// ---- the primitives of the equations

template <class V, class S> SNN_HD V splat(S s) { return V(s); }
template <class V> SNN_HD V where(bool c, V a, V b) { return c ? a : b; }
// u - s j for a spike s of -1, 0 or 1: s j is exact, so one fused instruction rounds as a product and a difference do. The comparison leaves s in a
// register after 5 cycles; a selection by the predicate of the comparison would wait for 13.
SNN_HD float fused(float a, float b, float c) { return fmaf(a, b, c); }
SNN_HD double fused(double a, double b, double c) { return fma(a, b, c); }
template <class V> SNN_HD V lowered(V u, V s, bool, V j) { return fused(-s, j, u); }
template <class V> SNN_HD V lowered(V u, V s, bool, bool, V j) { return fused(-s, j, u); }
// f / b for a whole f from 0 to b, where inverse is 1 / b, rounded. The result is that of a true division, to the last bit (Markstein 1990;
// test_whole_quotients tries them). A true division sends zeros down its slow path, and half of the elements are zero; this slowed an H100.
template <class V> SNN_HD V ratio(V f, V b, V inverse) {
  const V q = f * inverse;
  return fused(fused(-b, q, f), inverse, q);
}

SNN_HD float magnitude(float x) { return fabsf(x); }
SNN_HD double magnitude(double x) { return fabs(x); }
SNN_HD float round_down(float x) { return floorf(x); }
SNN_HD double round_down(double x) { return floor(x); }
// For a normal x >= 0 below 1.5 * 2^127: 2^j with 0.75 2^j <= x < 1.5 2^j, or 0 if x is 0.
template <class I, class S>
SNN_HD S nearest_power(S x, I half, I exponent) {
  I bits;
  std::memcpy(&bits, &x, sizeof x);
  bits = (bits + half) & exponent;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
SNN_HD float nearest_power(float x) { return nearest_power<uint32_t>(x, 0x400000u, 0x7f800000u); }
SNN_HD double nearest_power(double x) { return nearest_power<uint64_t>(x, uint64_t(1) << 51, uint64_t(0x7ff) << 52); }
SNN_HD float square_root(float x) { return sqrtf(x); }
SNN_HD double square_root(double x) { return sqrt(x); }
SNN_HD float exponential(float x) { return expf(x); }
SNN_HD double exponential(double x) { return exp(x); }

// ---- memory

// `many` neighbours, moved as one word of up to 16 bytes.
template <class X, int many>
struct alignas(sizeof(X) * many <= 16 ? sizeof(X) * many : 16) Pack {
  X e[many];
};

template <int bytes> struct WordOf;
template <> struct WordOf<1> { using type = unsigned char; };
template <> struct WordOf<2> { using type = unsigned short; };
template <> struct WordOf<4> { using type = unsigned int; };
template <> struct WordOf<8> { using type = uint2; };
template <> struct WordOf<16> { using type = uint4; };

// x, ds and s are used once: they are read and written with a hint that the caches should evict them first.
template <class X, int many>
__device__ __forceinline__ Pack<X, many> load_once(const X* p) {
  using W = typename WordOf<sizeof(X) * many>::type;
  const W w = __ldcs(reinterpret_cast<const W*>(p));
  return reinterpret_cast<const Pack<X, many>&>(w);
}

template <class X, int many>
__device__ __forceinline__ void store_once(X* p, const Pack<X, many>& v) {
  using W = typename WordOf<sizeof(X) * many>::type;
  __stcs(reinterpret_cast<W*>(p), reinterpret_cast<const W&>(v));
}

// Copies 16 bytes from global to shared memory while the thread goes on. The copies up to end_ahead() are one group. After wait_ahead<many>() all
// groups of this thread but the last `many` have arrived, for this thread; other threads see them after a barrier.
__device__ __forceinline__ void copy_ahead(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(unsigned(__cvta_generic_to_shared(shared))), "l"(global) : "memory");
#else
  *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}
__device__ __forceinline__ void end_ahead() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int many>
__device__ __forceinline__ void wait_ahead() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(many) : "memory");
#endif
}

// Returns v, but the compiler knows nothing of the value before this point, so halves stay packed until they are used. Unpacked early, halves take
// twice the registers.
template <class X, int many>
__device__ __forceinline__ Pack<X, many> late(Pack<X, many> v) {
  if constexpr (sizeof(X) == 2 && many > 1) {
    unsigned* words = reinterpret_cast<unsigned*>(&v);
#pragma unroll
    for (int i = 0; i < many / 2; ++i) asm volatile("" : "+r"(words[i]));
  }
  return v;
}

// The numbers of a thread's `many` neurons. Every index into e is known at compile time, so that e lives in registers.
template <class S, int many> struct Lanes { S e[many]; };

// Loads and stores in words of at most 16 bytes. The pointer must be aligned to these words.
template <int many, class S>
__device__ __forceinline__ Lanes<S, many> load_lanes(const S* p) {
  constexpr int each = sizeof(S) * many <= 16 ? many : 16 / int(sizeof(S));
  Lanes<S, many> r;
#pragma unroll
  for (int i = 0; i < many; i += each) {
    const Pack<S, each> part = *reinterpret_cast<const Pack<S, each>*>(p + i);
#pragma unroll
    for (int j = 0; j < each; ++j) r.e[i + j] = part.e[j];
  }
  return r;
}

template <int many, class S>
__device__ __forceinline__ void store_lanes(S* p, const Lanes<S, many>& v) {
  constexpr int each = sizeof(S) * many <= 16 ? many : 16 / int(sizeof(S));
#pragma unroll
  for (int i = 0; i < many; i += each) {
    Pack<S, each> part;
#pragma unroll
    for (int j = 0; j < each; ++j) part.e[j] = v.e[i + j];
    *reinterpret_cast<Pack<S, each>*>(p + i) = part;
  }
}

// Four spikes of -1, 0 or 1 as the bytes of a word, the first spike in the lowest byte. The top byte of 1.0 is 0x3f, that of -1.0 is 0xbf. A
// conversion to int8 runs at a quarter of the rate of these instructions.
template <bool negative>
__device__ __forceinline__ uint32_t spike_bytes(float a, float b, float c, float d) {
  const uint32_t low = __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x0073),
                 high = __byte_perm(__float_as_uint(c), __float_as_uint(d), 0x0073);
  const uint32_t top = __byte_perm(low, high, 0x5410), ones = top & 0x01010101u;
  return negative ? ones | (top >> 7 & 0x01010101u) * 0xfeu : ones;
}

// The same for one spike. An equation E whose spikes are any whole numbers needs a conversion.
template <class E>
__device__ __forceinline__ int8_t spike_byte(float s) {
  if constexpr (E::levels) return int8_t(s);
  const int32_t bits = int32_t(__float_as_uint(s));
  return int8_t(bits >> 31 | (bits >> 23 & 1));
}
template <class E>
__device__ __forceinline__ int8_t spike_byte(double s) {
  return int8_t(s);
}

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(half x) { return __half2float(x); }
__device__ __forceinline__ float widen(bfloat x) { return __bfloat162float(x); }

// To the nearest, ties to even.
template <class X> __device__ __forceinline__ X narrow(float x);
template <class X> __device__ __forceinline__ X narrow(double x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ double narrow<double>(double x) { return x; }
template <> __device__ __forceinline__ half narrow<half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ bfloat narrow<bfloat>(float x) { return __float2bfloat16_rn(x); }

}  // namespace snn
