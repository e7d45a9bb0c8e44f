"""Other people's models with the kernels of snnfast."""
