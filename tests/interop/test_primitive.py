"""SpikingJelly's neurons that were told to give the primitive function of their surrogate."""

import pytest
import torch

import snnfast


def test_the_primitive_function_in_place_of_spikes():
    """SpikingJelly's set_spiking_mode(False), asked for after the neurons were taken: they run as before."""
    pytest.importorskip("spikingjelly", reason="SpikingJelly is not installed")
    from spikingjelly.activation_based import neuron, surrogate

    nets = [torch.nn.Sequential(neuron.IFNode(0.7, None, surrogate.Sigmoid(), step_mode="m")) for _ in range(2)]
    snnfast.accelerate(nets[1])
    x = torch.rand(4, 2, 3)
    for spiking in (True, False, True):
        for net in nets:
            net[0].reset()
            net[0].surrogate_function.set_spiking_mode(spiking)
        a, b = (net(x) for net in nets)
        assert torch.equal(a, b) and bool(((a == 0) | (a == 1)).all()) == spiking
