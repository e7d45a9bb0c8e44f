// The backend that an op file is compiled for: its dispatch key SNN_KEY, and the code that runs its launches. With SNN_CUDA the backend is CUDA,
// else the CPU; a test names its own header in SNN_BACKEND.
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
