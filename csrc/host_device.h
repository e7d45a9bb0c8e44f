// One qualifier for code that runs on the host and, compiled by nvcc, on the device.
#pragma once

#ifdef __CUDACC__
#define SNN_HD __host__ __device__ __forceinline__
#else
#define SNN_HD inline __attribute__((always_inline))
#endif
