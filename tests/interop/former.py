"""Run with SpikingJelly 0.0.0.0.12 or 0.0.0.0.14 on the path: their neurons before and after `accelerate`, spikes, states and gradients."""

import sys

import torch

import snnfast


def nodes(version):
    """(what it is, a function that makes it) of every setting that the authors' programs use, and others."""
    if version == "12":
        from spikingjelly.clock_driven import neuron, surrogate

        made = {"IF": neuron.MultiStepIFNode, "LIF": neuron.MultiStepLIFNode, "PLIF": neuron.MultiStepParametricLIFNode}
        extra = dict(backend="torch")
    else:
        from spikingjelly.activation_based import neuron, surrogate

        made = {"IF": neuron.IFNode, "LIF": neuron.LIFNode, "PLIF": neuron.ParametricLIFNode}
        extra = dict(step_mode="m", backend="torch")

    class Thin(made["LIF"]):  # as SpikingResformer has it
        def __init__(self):
            super().__init__(tau=2.0, detach_reset=True, surrogate_function=surrogate.ATan(), **extra)

    class Thick(made["LIF"]):
        def neuronal_charge(self, x):
            self.v = self.v + x

    for kind, cls in made.items():
        for v_reset in (0.0, None):
            for detach in (True, False):
                for fire in (surrogate.Sigmoid(alpha=4.0), surrogate.ATan()):
                    for own in [{}] if kind == "IF" else [dict(decay_input=True), dict(decay_input=False)]:
                        for theta in (1.0, 0.5):
                            how = dict(v_threshold=theta, v_reset=v_reset, detach_reset=detach, surrogate_function=fire, **own, **extra)
                            name = f"{kind} {v_reset} {detach} {type(fire).__name__} {own} {theta}"
                            yield name, (lambda cls=cls, how=how: cls(**how)), True
    yield "LIF tau 1.5", lambda: made["LIF"](tau=1.5, surrogate_function=surrogate.Sigmoid(), **extra), True
    yield "thin", Thin, True
    yield "thick", lambda: Thick(**extra), False
    if version == "14":
        yield "single step", lambda: made["LIF"](), False


def same(a, b):
    return torch.equal(a, b)


def main(version):
    many = 0
    for name, make, known in nodes(version):
        for training in (True, False):
            torch.manual_seed(0)
            one, other = make().train(training), make().train(training)
            net = torch.nn.Sequential(other)
            report = snnfast.accelerate(net)
            assert len(report.replaced) == known and len(report.left) == (not known), (name, str(report))
            if not known:
                continue
            for _ in range(2):  # the second call goes on from the state of the first
                x = (torch.randn(4, 3, 50) * 1.5).requires_grad_()
                z = x.detach().clone().requires_grad_()
                s, t = one(x), net(z)
                assert same(s, t), name
                assert same(one.v, other.v), name
                assert 0 < float(s.detach().mean()) < 1
                if s.requires_grad:
                    g = torch.randn_like(s)
                    s.backward(g), t.backward(g)
                    assert torch.allclose(x.grad, z.grad, rtol=1e-4, atol=1e-5), name
                    for a, b in zip(one.parameters(), other.parameters()):
                        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-4), name
                one.v, other.v = one.v.detach(), other.v.detach()
            one.reset(), other.reset()
            assert one.v == other.v and isinstance(other.v, float)
            x = torch.randn(4, 3, 50)
            with torch.no_grad():
                assert same(one(x), net(x)), name
            report.undo()
            assert type(other) is type(one)
            many += 1
    print(f"{many} settings, equal")


if __name__ == "__main__":
    main(sys.argv[1])
