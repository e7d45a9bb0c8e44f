"""A spiking network on its way through time, chunk by chunk."""
