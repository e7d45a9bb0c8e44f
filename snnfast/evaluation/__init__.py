"""Accuracy after every number of time steps, and what goes with it."""
