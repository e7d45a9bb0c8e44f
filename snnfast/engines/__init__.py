"""How equations are computed: the loops over time, elements and rows, in torch (`reference`) and Triton; loops in C++ and CUDA: `csrc/engines`."""
