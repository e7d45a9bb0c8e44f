"""Every conversion method on VGG and ResNet against a plain simulation, written from the definitions, in fp64 with exact spike counts."""

import copy
import dataclasses

import pytest
import torch

import snnfast
from snnfast import nn
from snnfast.conversion import method as methods
from snnfast.conversion.methods import COS, METHODS, SNM, SRP, STBIF, Method

T, TAU, RHO = 11, 5, 4
# Methods with several quanta a step: most of them, quanta in a threshold, ladder, whether negative ones. None at its default.
SEVERAL = {
    "quanta": (8, 8, "uniform", True),
    "power": (16, 16, "power", True),
    "group": (5, 5, "uniform", False),
}


class Plain(torch.nn.Module):
    """One neuron layer as SEMANTICS writes it: a loop over time on [T, B, ...]; it replaces a quantised activation.

    One network pass with `steps` = T takes every layer through all T steps, layer by layer, which is the same as step by step.
    """

    def __init__(self, theta):
        super().__init__()
        self.theta, self.steps, self.run, self.mask, self.found = theta, None, None, None, None

    def forward(self, y):
        x = y.unflatten(0, (self.steps, -1))
        theta = self.theta.view(-1, *(1,) * (x.dim() - 3)) if self.theta.numel() > 1 else self.theta
        k = self.run
        if k["several"]:
            return self.several(x, theta, k, *k["several"])
        if k["normalised"]:
            x, one = x / theta, torch.ones_like(theta)
        else:
            one = theta
        v0 = self.calibrated(x[: k["rho"]], one) if k["rho"] else k["v0"]
        v, N, memory, out = v0 * one + torch.zeros_like(x[0]), torch.zeros_like(x[0]), torch.zeros_like(x[0]), []
        for xt in x:
            v = v + xt
            gate = memory > 0 if k["memory"] else N > k["n_min"]
            up, down = (v >= one) & (N < k["p_max"]), torch.zeros_like(v, dtype=torch.bool)
            if k["negative"] == "stbif":
                down = (v < 0) & gate
            if k["negative"] == "snm":
                down = (v <= -one) & gate
            s = up.to(v.dtype) - down.to(v.dtype)
            v, N, memory = v - s * one, N + s, memory + s * theta
            out.append(s * theta * (1 if self.mask is None else self.mask))
        self.found = v / one, N
        return torch.stack(out).flatten(0, 1)

    def several(self, x, theta, k, m, parts, ladder, signed):
        """Up to m quanta of theta/parts a step, rung by rung."""
        q = theta / parts
        x, one = (x / q, torch.ones_like(q)) if k["normalised"] else (x, q)
        v, N, out = k["v0"] * one + torch.zeros_like(x[0]), torch.zeros_like(x[0]), []
        for xt in x:
            v = v + xt
            z, s = v / one, torch.zeros_like(v)
            for size in range(1, m + 1):
                if ladder == "power" and size & (size - 1):
                    continue
                at = size if ladder == "uniform" else 0.75 * size
                s = torch.where((z >= at) & (N + size <= k["p_max"]), float(size), s)
                if signed:
                    low = z < 1 - size if ladder == "uniform" else -z >= at
                    s = torch.where(low & (N - size >= k["n_min"]), -float(size), s)
            v, N = v - s * one, N + s
            out.append(s * q)
        self.found = v / one, N
        return torch.stack(out).flatten(0, 1)

    @staticmethod
    def calibrated(x, one):
        v, N = 0.5 * one + torch.zeros_like(x[0]), torch.zeros_like(x[0])
        low, high = torch.full_like(v, 1000.0), torch.full_like(v, -1000.0)
        for xt in x:
            u = v + xt
            s = u >= one
            low, high = torch.where(s, torch.minimum(low, u / one), low), torch.where(s, high, torch.maximum(high, u / one))
            v, N = u - s * one, N + s
        v, v0 = v / one, torch.full_like(v, 0.5)
        v0[(v < 0) & (N > 0)] -= torch.clamp(low - 0.999, min=1)[(v < 0) & (N > 0)]
        v0[v >= 1] += torch.clamp(1.001 - high, min=1)[v >= 1]
        return v0


def simulate(net, x, method, parity=False, v0=0.5, caps=(0, float("inf")), mask="authors"):
    """Logits of each step, [T, B, classes], and the final counts of each layer."""
    net = copy.deepcopy(net).eval()
    for name, m in list(net.named_modules()):
        if isinstance(m, nn.Quantised):
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, Plain(m.threshold().detach()))
    layers = [m for m in net.modules() if isinstance(m, Plain)]
    negative = next((n for n in ("stbif", "snm") if n in method), None)
    if method == "power" or (parity and method == "snm"):
        v0 = 0.0
    run = dict(
        normalised=parity != (method in SEVERAL) and method != "snm", v0=v0,
        rho=RHO if method == "cos" else 0, negative=negative, n_min=caps[0], p_max=caps[1],
        memory=parity and negative == "snm", several=SEVERAL.get(method),
    )  # fmt: skip

    def through(steps, **other):
        for m in layers:
            m.steps, m.run = steps, {**run, **other}
        with torch.no_grad():
            y = net(x.expand(steps, *x.shape).flatten(0, 1))
        return y.unflatten(0, (steps, -1)), [m.found[1] for m in layers]

    if method.startswith("srp"):
        through(TAU, negative=None, p_max=float("inf"))
        for m in layers:
            m.mask = m.found[0] >= 0 if mask == "paper" else m.found[0] > 1e-3
    return through(T)


@pytest.fixture(scope="module")
def networks():
    """A VGG with a threshold per channel and a ResNet whose last three layers have one, with statistics and uneven thresholds, in fp64."""
    torch.manual_seed(5)
    made = {
        "vgg": snnfast.models.vgg11(width=0.0625, in_channels=2, theta=1.0),
        "resnet": snnfast.models.resnet20(width=0.5, in_channels=2, theta=1.0, num_classes=5),
        "bottleneck": snnfast.models.resnet50(width=0.0625, in_channels=2, theta=1.0, num_classes=5, stem="imagenet"),
    }
    found = {}
    for name, net in made.items():
        for _ in range(3):
            net.train()(torch.randn(16, 2, 32, 32))
        net = snnfast.to_channelwise(net.eval(), None if name == "vgg" else 3).double()
        with torch.no_grad():
            for m in net.modules():
                if isinstance(m, nn.Quantised):
                    m.lam += 0.3 * torch.randn(m.lam.shape)
        found[name] = net
    return found, torch.randn(3, 2, 32, 32, dtype=torch.float64)


CASES = [(arch, m, dict(parity=p)) for arch in ("vgg", "resnet") for m in METHODS for p in (False, True)]
CASES += [
    ("vgg", "if", dict(v0=0.3)),
    ("resnet", "if", dict(v0=0.0)),
    ("vgg", "stbif", dict(caps=(-2, 3))),
    ("resnet", "snm", dict(caps=(-1, 4))),
    ("vgg", "srp", dict(mask="paper")),
    ("resnet", "srp+stbif", dict(v0=0.4, caps=(0, 3))),
    ("bottleneck", "srp", {}),
    ("vgg", "quanta", dict(caps=(-2, 7))),
    ("vgg", "power", dict(caps=(-3, 9))),
    ("bottleneck", "cos", dict(parity=True)),
]


@pytest.mark.parametrize(
    "arch, method, options", CASES, ids=lambda v: v if isinstance(v, str) else "-".join(f"{k}={x}" for k, x in v.items())
)
def test_network_equals_the_simulation(networks, arch, method, options):
    nets, x = networks
    expected, counts = simulate(nets[arch], x, method, **options)
    phases = {"tau": TAU} if method.startswith("srp") else {"rho": RHO} if method == "cos" else {}
    phases |= {"m": SEVERAL[method][0]} if method in SEVERAL else {}
    snn = snnfast.convert(nets[arch], method, **options, **phases)
    for chunk in (T, 3):
        found = [(y.clone(), states) for y, states in snn.run(x, T, chunk)]
        states = found[-1][1]
        # fp64: folded batch norms and another order of summation round the currents, which moves no potential across a threshold here.
        assert torch.allclose(torch.cat([y for y, _ in found]), expected, rtol=1e-9, atol=1e-9)
        for state, N, (_, neuron) in zip(states.values(), counts, snn.neurons(), strict=True):
            count = state.count if not neuron.options.get("memory") else (state.count / neuron.theta_for(state.count)).round()
            assert torch.equal(count.double(), N)
    assert sum(float(c.abs().sum()) for c in counts) > 500


def test_methods_differ(networks):
    """No method is another one under a different name: on uneven currents every pair gives other logits."""
    nets, x = networks
    found = {(m, p): snnfast.convert(nets["vgg"], m, parity=p).logits(x, 16, at=[16]) for m in METHODS for p in (False,)}
    found["if", "v0"] = snnfast.convert(nets["vgg"], v0=0.0).logits(x, 16, at=[16])
    found["srp", "paper"] = snnfast.convert(nets["vgg"], "srp", mask="paper").logits(x, 16, at=[16])
    keys = list(found)
    for i, a in enumerate(keys):
        for b in keys[i + 1 :]:
            assert not torch.equal(found[a], found[b]), (a, b)


def test_start_voltage_by_layer(networks):
    nets, x = networks
    snn = snnfast.convert(nets["vgg"], v0={"layer1.2": 0.2, "layer2.2": torch.full((1, 8, 1, 1), 0.9, dtype=torch.float64)})
    values = {name: neuron.options.get("v0", "tensor") for name, neuron in snn.neurons()}
    assert values["layer1.2"] == 0.2 and values["layer2.2"] == "tensor" and values["layer3.2"] == 0.5
    assert not torch.equal(snn(x, T=4), snnfast.convert(nets["vgg"])(x, T=4))


def test_parity_divides_as_the_programs_do(networks):
    """On CUDA by a product with the reciprocal, where thresholds are single numbers; on a CPU a number divides as a tensor does."""
    nets, x = networks
    net = copy.deepcopy(nets["resnet"])
    for method in METHODS:
        snn = snnfast.convert(net, method, parity=True)
        numbers = [n.number for _, n in snn.neurons() if n.theta.numel() == 1]
        assert all(n is None for n in numbers) != ("cos" in method or "srp" in method)
        assert all(n.number is None for _, n in snn.neurons() if n.theta.numel() > 1)
    assert all(n.number is None for _, n in snnfast.convert(net, "cos").neurons())


def test_facts_and_own_start_of_snm(networks):
    nets, _ = networks
    snn = snnfast.convert(nets["vgg"], "snm", parity=True, v0={"layer1.2": 0.25})
    assert [n.options["v0"] for _, n in snn.neurons()][:2] == [0.25, 0.0]
    assert snn.method.facts()["v0"] == {"layer1.2": 0.25} and snnfast.convert(nets["vgg"]).method.facts()["v0"] == 0.5


def test_max_shift(networks):
    """A neuron that fired at every calibrated step starts at about 1001.5, unless the shift is capped."""
    x = torch.tensor([[5.0, 0.3]]).expand(6, 2)
    assert snnfast.cos_start(x[:4], 1.0)[0] > 1000
    assert snnfast.cos_start(x[:4], 1.0, max_shift=3.0).tolist() == [3.5, 0.5]
    nets, images = networks
    for m in (None, 2.0):
        *_, (_, states) = snnfast.convert(nets["vgg"], "cos", rho=2, max_shift=m).run(images * 4, T=2)
        assert (max(float(s.v.max()) for s in states.values()) > 500) == (m is None)


BAD = [
    (dict(method="cos", rho=0), "rho must be >= 1, got 0"),
    (dict(method="srp", tau=-1), "tau must be >= 1, got -1"),
    (dict(method="srp", rho=4), "rho is an option of other methods, not of 'srp'"),
    (dict(tau=4), "tau is an option of other methods, not of 'if'"),
    (dict(method="srp", mask="mine"), "mask must be one of 'authors', 'paper'"),
    (dict(method="cos", v0=0.3), "v0 is an option of other methods"),
    (dict(method="cos", max_shift=0.5), "max_shift must be >= 1"),
    (dict(method="srp", caps=(0, 4)), "caps is an option of other methods"),
    (dict(method="stbif", caps=(1, 4)), "caps must satisfy"),
    (dict(v0={"layer9": 0.5}), "v0 names layer9, which is no activation of net"),
    (dict(v0=float("nan")), "v0 must be finite"),
]


@pytest.mark.parametrize("given, message", BAD, ids=[m[:30] for _, m in BAD])
def test_bad_options(tiny, given, message):
    with pytest.raises(ValueError, match=message):
        snnfast.convert(tiny[0], **given)


def test_T_below_rho(tiny):
    snn = snnfast.convert(tiny[0], "cos", rho=8)
    with pytest.raises(ValueError, match="T must be >= rho = 8, the inputs that COS calibrates on; got T = 4"):
        snn(tiny[1], T=4)
    with pytest.raises(ValueError, match="T must be >= rho = 8"):
        snnfast.evaluate(snn, [(tiny[1], torch.zeros(6, dtype=torch.long))], T=7)


def test_a_method_is_an_object(networks):
    """A name and its options are a shorthand for the object, in what they compute and in what they tell."""
    nets, x = networks
    net = nets["vgg"]
    for name, options, chosen in (
        ("srp", dict(tau=3, mask="paper"), SRP(tau=3, mask="paper")),
        ("srp+snm", dict(caps=(-2, 4)), SRP(negative="snm", caps=(-2, 4))),
        ("cos", dict(rho=2, max_shift=1.5), COS(rho=2, max_shift=1.5)),
        ("snm", dict(parity=True), SNM(parity=True)),
    ):
        by_name, by_object = snnfast.convert(net, name, **options), snnfast.convert(net, chosen)
        assert by_name.method == by_object.method and by_name.method.name == name
        assert by_name.facts() == by_object.facts()
        assert torch.equal(by_name.logits(x, 6), by_object.logits(x, 6))
    assert snnfast.convert(net, STBIF(), mode="differential").facts() == snnfast.convert(net, "stbif", mode="differential").facts()
    with pytest.raises(ValueError, match="method 'stbif' or 'quanta', got 'srp'"):
        snnfast.convert(net, SRP(), mode="differential")
    with pytest.raises(ValueError, match=r"tau: give the fields of a method to it, SRP\(tau=...\)"):
        snnfast.convert(net, SRP(), tau=3)
    with pytest.raises(ValueError, match="rho is an option of other methods, not of 'srp'"):
        snnfast.convert(net, "srp", rho=3)
    with pytest.raises(TypeError, match="convert got unexpected options: taw"):
        snnfast.convert(net, "srp", taw=3)


def test_the_recipe_for_a_method(networks, monkeypatch):
    """A method of one's own is one class: its neuron, what a run does before, and what each layer starts from. The name works everywhere."""
    monkeypatch.setitem(methods.REGISTRY, "twice", None)  # and taken out at the end

    @methods.register("twice")
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Twice(Method):
        """Runs once and starts from the potentials at the end."""

        steps: int = 5
        citation = "@misc{nobody, title = {Twice}}"

        @property
        def rehearsal(self):
            return self.steps

        def before(self, run, chunk):
            for node, v, theta in run.rehearsed(self.steps, chunk, {}):
                run.options[node] = {"v0": v / theta}

        def own_facts(self):
            return {"steps": self.steps}

    nets, x = networks
    net = nets["vgg"]
    snn = snnfast.convert(net, "twice", steps=3)
    assert snn.facts() == {"method": "twice", "parity": False, "steps": 3, "v0": 0.5}
    plain = snnfast.convert(net)
    *_, (_, states) = plain.run(x, 3)
    first = states[next(iter(states))].v.clone()
    node, layer = next(iter(snn.plan().firing)), snn.neurons()[0][1]
    expected = layer.fire(plain_current(plain, x), T=2, v0=first / layer.theta_for(first))[1].v
    *_, (_, states) = snn.run(x, 2, chunk=1)
    assert torch.allclose(states[node.name].v, expected, rtol=0, atol=1e-6)  # v0 theta, with theta divided out and multiplied in again
    report = snnfast.evaluate(snn, [(x, torch.zeros(len(x), dtype=torch.long))], T=2)
    assert report.method["method"] == "twice" and "Twice" in report.bibtex()


def plain_current(snn, x):
    """The current of the first neuron layer, which is the same at every step."""
    found = []
    for _ in snn.chunks(x, 1, observe=lambda node, current, spikes: found.append(current[0].clone())):
        pass
    return found[0]


def test_a_method_that_is_not_registered(networks):
    """It runs as the others do, under the name of its class."""

    class Mine(SRP):
        pass

    nets, x = networks
    ours, theirs = snnfast.convert(nets["vgg"], Mine(tau=2)), snnfast.convert(nets["vgg"], "srp", tau=2)
    assert ours.facts() == theirs.facts() | {"method": "Mine"} and torch.equal(ours.logits(x, 4), theirs.logits(x, 4))
