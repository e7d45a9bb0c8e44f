"""The quantised activations, one file each: the equation in the docstring, one element in bare operators."""
