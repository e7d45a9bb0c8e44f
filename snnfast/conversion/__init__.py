"""From a trained network to a spiking one."""
