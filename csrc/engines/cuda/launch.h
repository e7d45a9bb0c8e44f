// Launching: the shape of a grid, the stream, and the message when a launch fails.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#ifndef SNN_LAUNCH  // tests/cuda_on_host has one of its own
#define SNN_LAUNCH(kernel, blocks, threads, stream, ...) kernel<<<blocks, threads, 0, stream>>>(__VA_ARGS__)
#endif

namespace snn::inline SNN_ISA {

using Stream = cudaStream_t;

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("snnfast: ") + what + ": " + cudaGetErrorString(error));
}

inline int multiprocessors() {
  int device = 0, many = 0;
  check(cudaGetDevice(&device), "no CUDA device");
  check(cudaDeviceGetAttribute(&many, cudaDevAttrMultiProcessorCount, device), "reading the device's size");
  return many;
}

// Whether `threads` threads, each with 16-byte words in flight, are enough for every multiprocessor.
inline bool fills(int64_t threads) { return threads >= int64_t(multiprocessors()) * 192; }

// Threads per block that spread few neurons over all multiprocessors.
inline int block_for(int64_t threads) {
  const int64_t each = threads / multiprocessors();
  return each >= 512 ? 256 : each >= 128 ? 64 : 32;
}

// Whether each of these lies on a word of 16 bytes, or is null.
inline bool on_words(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; });
}

// Launches as many blocks as it takes to hold `threads` threads.
template <class... P, class... A>
void launch(void (*kernel)(P...), int64_t threads, int block, Stream stream, const A&... arguments) {
  const int64_t blocks = (threads + block - 1) / block;
  if (blocks > INT32_MAX) throw std::runtime_error("snnfast: more neurons than one launch takes (2^31 blocks)");
  SNN_LAUNCH(kernel, unsigned(blocks), unsigned(block), stream, arguments...);
  check(cudaGetLastError(), "launching a kernel");
}

}  // namespace snn
