"""How it is computed: the loops over time, elements and rows, in torch (`reference`) and Triton; those in C++ and CUDA are in `csrc/engines`."""
