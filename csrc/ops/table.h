// The one list of ops. A row has the op's kernel, the struct of its arguments, the engine that runs it, and the equation.
// Each row becomes an entry in the CPU's table of kernels with a launch that is cut into pieces (engines/cpu), a CUDA unit with its launch
// (engines/cuda; CMake reads the rows here), and a launch for the tests that run the CUDA column on the host.
#pragma once

#define SNN_OPS(X)                                        \
  X(iaf_fwd, MultistepFwd, multistep_fwd, IAF)            \
  X(iaf_bwd, MultistepBwd, multistep_bwd, IAF)            \
  X(plif_fwd, MultistepFwd, multistep_fwd, PLIF)          \
  X(plif_bwd, MultistepBwd, multistep_bwd, PLIF)          \
  X(quanta_fwd, MultistepFwd, multistep_fwd, Quanta)      \
  X(quanta_bwd, MultistepBwd, multistep_bwd, Quanta)      \
  X(norm_neuron_fwd, MultistepFwd, multistep_fwd, Normed) \
  X(norm_neuron_bwd, MultistepBwd, multistep_bwd, Normed) \
  X(cos_fwd, Calibrate, calibrate, COS)                   \
  X(qcfs_fwd, ElementwiseFwd, elementwise_fwd, QCFS)      \
  X(qcfs_bwd, ElementwiseBwd, elementwise_bwd, QCFS)      \
  X(conv_fwd, Gather, gather, Conv)                       \
  X(softmax_out, Rows, rows, Softmax)                     \
  X(layer_norm_out, Rows, rows, LayerNorm)                \
  X(channel_sums, ChannelSums, channel_sums, Moments)     \
  X(channel_add, ChannelAdd, channel_add, Correction)     \
  X(pool_fwd, PoolFwd, pool_fwd, MaxPool)                 \
  X(pool_bwd, PoolBwd, pool_bwd, MaxPool)

// Rows of the CPU alone, which CMake does not read: on CUDA, sums of whole numbers run on tensor cores, in Triton.
#define SNN_CPU_OPS(ROW) ROW(exact_fwd, Gather, gather, Exact)
