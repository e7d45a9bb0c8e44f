// snnfast::plif_fwd, plif_out, plif_bwd for one backend.
#define SNN_ISA ops
#include "../equations/neurons/plif.h"

#include "neuron.h"

SNN_NEURON(plif, PlifNeuron)
