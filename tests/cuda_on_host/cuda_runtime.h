// CUDA's kernels on the host, for tests on a machine without a GPU: found before CUDA's own header of this name when a .cu file is
// compiled by g++. Blocks run one after the other; the threads of a block are fibers that change at shuffles, ballots and barriers.
// Shows wrong indices, wrong arithmetic and wrong writes; shows neither speed nor races between blocks.
#pragma once
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <utility>
#include <vector>

#include <vector_types.h>

#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__

#include <cuda_runtime_api.h>

namespace host {

struct Index { unsigned x; };
inline Index thread, block, threads;

// The threads of one block.
class Block {
 public:
  static Block& current() {
    static Block b;
    return b;
  }

  void run(unsigned many, const std::function<void()>& kernel) {
    kernel_ = &kernel;
    threads.x = many;
    if (fibers_.size() < many) fibers_.resize(many);
    for (unsigned i = 0; i < many; ++i) {
      Fiber& f = fibers_[i];
      if (f.stack.empty()) f.stack.resize(96 << 10);
      getcontext(&f.context);
      f.context.uc_stack = {f.stack.data(), 0, f.stack.size()};
      f.context.uc_link = nullptr;
      makecontext(&f.context, &Block::start, 0);
      f.done = false;
      f.turn = 0;
    }
    for (bool any = true; any;) {
      any = false;
      for (unsigned i = 0; i < many; ++i)
        if (!fibers_[i].done) {
          thread.x = i;
          swapcontext(&main_, &fibers_[i].context);
          any = any || !fibers_[i].done;
        }
    }
  }

  // Gives the other threads their turn: all threads that live are at the same call, or past the end.
  void wait() {
    const unsigned me = thread.x;
    swapcontext(&fibers_[me].context, &main_);
  }

  // Leaves `value` for the lanes of this warp and comes back when all have left theirs.
  void exchange(uint64_t value) {
    Fiber& f = fibers_[thread.x];
    f.slot[f.turn & 1] = value;
    wait();
    ++f.turn;
  }
  // What lane `lane` of this warp left at the exchange that just ended.
  uint64_t of(unsigned lane) {
    const unsigned other = thread.x / 32 * 32 + lane;
    // It may be one exchange behind, having left its value, or one ahead, or have ended since.
    if (other >= threads.x || fibers_[other].turn + 1 < fibers_[thread.x].turn) {
      std::fprintf(stderr, "a warp's exchange with lane %u, which is not there\n", lane);
      std::abort();
    }
    return fibers_[other].slot[(fibers_[thread.x].turn - 1) & 1];
  }

 private:
  struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    bool done = true;
    unsigned turn = 0;
    uint64_t slot[2];
  };
  static void start() {
    Block& b = current();
    (*b.kernel_)();
    b.fibers_[thread.x].done = true;
    swapcontext(&b.fibers_[thread.x].context, &b.main_);
  }
  std::vector<Fiber> fibers_;
  ucontext_t main_;
  const std::function<void()>* kernel_ = nullptr;
};

template <class K, class... A>
void launch(K* kernel, unsigned blocks, unsigned threads, const A&... arguments) {
  const std::function<void()> call = [&] { kernel(arguments...); };
  for (block.x = 0; block.x < blocks; ++block.x) Block::current().run(threads, call);
}

template <class V>
uint64_t bits_of(V v) {
  uint64_t b = 0;
  std::memcpy(&b, &v, sizeof v);
  return b;
}

}  // namespace host

#define threadIdx host::thread
#define blockIdx host::block
#define blockDim host::threads
#define SNN_LAUNCH(kernel, blocks, threads, stream, ...) (void)(stream), host::launch(kernel, blocks, threads, __VA_ARGS__)

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline unsigned __float_as_uint(float v) { return unsigned(host::bits_of(v)); }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned choice) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  unsigned word = 0;
  for (int i = 0; i < 4; ++i) word |= unsigned(bytes >> 8 * (choice >> 4 * i & 7) & 255) << 8 * i;
  return word;
}
template <class V> V __ldcs(const V* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(V)) std::fprintf(stderr, "a misaligned load\n"), std::abort();
  return *p;
}
template <class V> void __stcs(V* p, V v) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(V)) std::fprintf(stderr, "a misaligned store\n"), std::abort();
  *p = v;
}
inline void __syncthreads() { host::Block::current().wait(); }
inline unsigned __ballot_sync(unsigned, int on) {
  auto& b = host::Block::current();
  b.exchange(on != 0);
  unsigned word = 0;
  for (unsigned lane = 0; lane < 32; ++lane) word |= unsigned(b.of(lane)) << lane;
  return word;
}
inline int __ffs(int v) { return __builtin_ffs(v); }
template <class V> V __shfl_xor_sync(unsigned, V v, int mask) {
  auto& b = host::Block::current();
  b.exchange(host::bits_of(v));
  const uint64_t other = b.of((threadIdx.x % 32) ^ unsigned(mask));
  V r;
  std::memcpy(&r, &other, sizeof r);
  return r;
}

// One multiprocessor, so that few neurons are enough for 16-byte words.
#define cudaGetDevice(p) (*(p) = 0, cudaSuccess)
#define cudaDeviceGetAttribute(p, what, device) ((void)(device), *(p) = 1, cudaSuccess)
#define cudaGetLastError() cudaSuccess
#define cudaGetErrorString(e) ((void)(e), "")
#define cudaMemsetAsync(p, value, bytes, stream) ((void)(stream), std::memset(p, value, bytes), cudaSuccess)
