"""Functions of a row of numbers, as definitions."""
