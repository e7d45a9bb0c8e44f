// snnfast::quanta_fwd, quanta_out, quanta_bwd for one backend.
#define SNN_ISA ops
#include "../equations/neurons/quanta.h"

#include "neuron.h"

SNN_NEURON(quanta, Quanta<false>)
