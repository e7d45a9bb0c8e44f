// snnfast::iaf_fwd, iaf_out, iaf_bwd for one backend.
#define SNN_ISA ops
#include "../equations/neurons/iaf.h"

#include "neuron.h"

SNN_NEURON(iaf, IAF<false>)
