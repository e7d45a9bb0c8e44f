// Chooses the instruction set once, by what the processor can do.
#include <cstring>

#include "kernels.h"

namespace snn {

bool supported(const char* isa) {
  __builtin_cpu_init();
  if (!std::strcmp(isa, "x86-64-v4"))
    return supported("x86-64-v3") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!std::strcmp(isa, "x86-64-v3"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("f16c") && __builtin_cpu_supports("lzcnt") && __builtin_cpu_supports("movbe");
  return !std::strcmp(isa, "baseline");
}

bool stores_in_halves() {
  static const bool found = (__builtin_cpu_init(), __builtin_cpu_is("amdfam19h"));  // Zen 4; others of its family lack AVX-512 and this store
  return found;
}

static const Kernels* const kTables[] = {&kernels_v4, &kernels_v3, &kernels_baseline};

static const Kernels* best() {
  for (const Kernels* k : kTables)
    if (supported(k->isa)) return k;
  return &kernels_baseline;
}

static const Kernels*& chosen() {
  static const Kernels* k = best();
  return k;
}

const Kernels& kernels() { return *chosen(); }

bool use_isa(const char* isa) {
  for (const Kernels* k : kTables)
    if (!std::strcmp(isa, k->isa) && supported(isa)) {
      chosen() = k;
      return true;
    }
  return false;
}

}  // namespace snn
