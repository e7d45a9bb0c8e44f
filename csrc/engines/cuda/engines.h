// The CUDA column whole: every engine, every equation. What a unit of kernels.cu includes, and what the host's build of them compiles once.
#pragma once
#define SNN_ISA device
#include "kernels.h"

#include "lane.h"
// lane.h comes first: the equations call its functions on types that have no namespace of their own.
#include "equations.h"  // all of csrc/equations; CMake writes it
#include "calibrate.h"
#include "channels.h"
#include "elementwise.h"
#include "gather.h"
#include "multistep.h"
#include "multistep_bwd.h"
#include "multistep_few.h"
#include "pool.h"
#include "rows.h"
