// Which backend an op file is compiled for: its dispatch key SNN_KEY, and what runs its launches. Compiled with SNN_CUDA it is CUDA, else the CPU;
// a test gives a header of its own.
#pragma once
#if defined(SNN_BACKEND)
#include SNN_BACKEND
#elif defined(SNN_CUDA)
#include "../engines/cuda/backend.h"
#define SNN_KEY CUDA
#else
#include "../engines/cpu/backend.h"
#define SNN_KEY CPU
#endif
