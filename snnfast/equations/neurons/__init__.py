"""The neurons, one file each: the equation in the docstring, one time step in bare operators."""
