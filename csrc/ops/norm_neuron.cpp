// snnfast::norm_neuron_fwd, norm_neuron_out, norm_neuron_bwd for one backend.
#define SNN_ISA ops
#include "../equations/neurons/norm_neuron.h"

#include "neuron.h"

SNN_NEURON(norm_neuron, NormedNeuron)
