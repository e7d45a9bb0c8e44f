"""The case table: one row per way to call the op `iaf_fwd`; every backend test sweeps it.

Values are chosen away from those at which formulas coincide (v0 != 0.5, gamma != 1, v_reset != 0, caps that bind, theta != 1).
"""

import itertools
import math
import random

import torch

from snnfast.engines.form import SPIKES
from snnfast.equations.neurons.iaf import Rule
from snnfast.ops import iaf as op
from snnfast.ops import norm_neuron, plif, quanta

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}
# T and N: whole and ragged units of 32, whole and ragged groups of steps, more than one block.
SIZES = [(1, 5), (3, 32), (7, 37), (18, 300), (9, 2500), (131, 70)]
KNOBS = dict(
    dtype=list(DTYPES),
    size=SIZES,
    negative=["none", "stbif", "snm"],
    unit=["volts", "normalised"],
    reset=["soft", "hard"],
    strict=[False, True],
    constant=[False, True],
    theta=["one", "channel", "head", "feature", "neuron"],
    masked=[False, True],
    carried=[False, True],
    surrogate=["zif", "triangle", "rectangle", "box", "atan", "sigmoid"],
    detach=[False, True],
    memory=[False, True],
    offset=[0.0, 0.375],
    leak=[None, "input", "product", "quotient"],
)


# Of the neuron with a learnt leak: no negative spikes, always a leak.
PLIF_KNOBS = KNOBS | dict(negative=["none"], unit=["volts"], memory=[False], offset=[0.0], leak=["input", "product", "quotient"])
# Of batch norm and the neuron behind it: any leak, or none.
NORM_KNOBS = KNOBS | dict(negative=["none"], unit=["volts"], memory=[False], offset=[0.0], learnt=[False, True], asked=[2, 3, 4])
# Of the neuron with several quanta a step: its ladders for strict, hard and so on.
QUANTA_KNOBS = {k: v for k, v in KNOBS.items() if k not in ("reset", "strict", "memory", "offset", "leak")}
QUANTA_KNOBS |= dict(negative=["none", "stbif"], ladder=[("uniform", 1), ("uniform", 3), ("uniform", 32), ("power", 1), ("power", 8)])


def sample(count, seed, sizes=SIZES, knobs=KNOBS):
    """`count` rows drawn at random, then enough more that every pair of knob values stands in some row."""
    rng = random.Random(seed)
    knobs = {**knobs, "size": sizes}
    rows = [{k: rng.choice(v) for k, v in knobs.items()} for _ in range(count)]
    missing = set()
    for a, b in itertools.combinations(knobs, 2):
        missing |= {(a, x, b, y) for x in knobs[a] for y in knobs[b]}
    missing -= {(a, r[a], b, r[b]) for r in rows for a, b in itertools.combinations(knobs, 2)}
    while missing:
        a, x, b, y = min(missing, key=str)
        row = {k: rng.choice(v) for k, v in knobs.items()} | {a: x, b: y}
        rows.append(row)
        missing -= {(a, row[a], b, row[b]) for a, b in itertools.combinations(knobs, 2)}
    return rows


def name(row):
    T, N = row["size"]
    words = [f"T{T}", f"N{N}", row["dtype"], row["theta"]]
    words += [str(row[k]) for k in ("negative", "unit", "reset", "surrogate") if row.get(k, "soft") not in ("none", "volts", "soft", "zif")]
    words += [f"offset{row['offset']}"] if row.get("offset") else []
    words += [f"leak-{row['leak']}"] if row.get("leak") else []
    words += ["{}{}".format(*row["ladder"])] if "ladder" in row else []
    words += [f"learnt{row['learnt']}-{row['asked']}"] if "asked" in row else []
    words += [k for k in ("strict", "constant", "masked", "carried", "detach", "memory") if row.get(k)]
    return "-".join(words)


class Case:
    """The tensors and arguments of one row."""

    OPS, tau = op.OPS, 2.7  # the neuron's ops, and the time constant of a leak

    def __init__(self, row, device="cpu"):
        (T, N), dtype = row["size"], DTYPES[row["dtype"]]
        acc = torch.float64 if dtype == torch.float64 else torch.float32
        g = torch.Generator().manual_seed(T * 7919 + N)
        rand = lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float64)  # noqa: E731
        randn = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
        # A third of the inputs are multiples of 1/8: ties with thresholds that are such multiples.
        x = randn(1 if row["constant"] else T, N) * 0.8 + 0.3
        x = torch.where(rand(*x.shape) < 0.33, (x * 8).round() / 8, x)
        channels = next(c for c in (5, 4, 3, 2, 1) if N % c == 0)
        inner = next(n for n in (6, 4, 2, 1) if N // channels % n == 0)
        # C thresholds, each for `inner` neurons that lie side by side; where C * inner < N the pattern repeats, as over images and windows.
        shapes = {
            "one": (1, 1),
            "channel": (channels, max(1, N // channels)),
            "head": (channels, inner),
            "feature": (channels, 1),
            "neuron": (N, 1),
        }
        C, self.inner = shapes[row["theta"]]
        theta = self.parameters(((rand(C) * 8).round() / 8 + 0.375).to(acc))
        self.T, self.spikes_args = T, None
        v = randn(N).to(acc) if row["carried"] else None
        count = torch.randint(-2, 4, (N,), generator=g, dtype=torch.int32) if row["carried"] else None
        signed = row["negative"] != "none"
        self.memory = row.get("memory", False) and signed
        if self.memory and count is not None:
            count = (count * 0.375).to(acc)
        mask = rand(N) < 0.7 if row["masked"] else None
        self.neuron = [t if t is None else t.to(device) for t in (x.to(dtype), theta, v, count, mask)]
        self.rule = self.rule_of(row, (-2.0, 3.0) if signed else (0.0, float("inf")))
        self.numbers = self.OPS.eq.numbers.pack(self.rule)
        self.ds = randn(T, N).to(dtype).to(device)
        self.dv = randn(N).to(acc).to(device) if row["carried"] else None

    def rule_of(self, row, caps):
        return Rule(
            row["unit"] == "normalised" and not row["leak"], row["strict"], row["reset"] == "hard", 0.125, row["negative"], *caps,
            row["surrogate"], 1.3, row["detach"], self.memory, row["offset"], self.tau if row["leak"] else 0.0,
            row["leak"] == "input", row["leak"] == "product",
        )  # fmt: skip

    def parameters(self, theta):
        return theta

    def fwd(self, spikes, every=0):
        return (*self.neuron, self.T, self.inner, 0.3, SPIKES.index(spikes), every, self.numbers)

    def out(self, spikes, out, state):
        return (*self.neuron, out, *state, self.T, self.inner, 0.3, SPIKES.index(spikes), self.numbers)

    def bwd(self, kept):
        return (self.ds, self.dv, *self.neuron, kept, self.T, self.inner, 0.3, self.numbers)


class PlifCase(Case):
    """The same of a neuron with a learnt leak: rho stands beside theta, a value of its own for each."""

    OPS, tau = plif.OPS, 0.0

    def parameters(self, theta):
        rho = torch.rand(theta.shape, generator=torch.Generator().manual_seed(theta.numel()), dtype=torch.float64) * 0.8 + 0.1
        return torch.stack((theta, rho.to(theta)))


class NormCase(Case):
    """The same of batch norm and the neuron behind it: beside theta and rho, scale and shift."""

    OPS = norm_neuron.OPS

    def rule_of(self, row, caps):
        rule = super().rule_of(row, caps)
        return norm_neuron.equation.Rule(*rule._replace(tau=0.0 if row["learnt"] else rule.tau), row["learnt"], row["asked"])

    def parameters(self, theta):
        g = torch.Generator().manual_seed(theta.numel())
        rho, scale, shift = (torch.rand(3, *theta.shape, generator=g, dtype=torch.float64) * 0.8 + 0.1).to(theta)
        return torch.stack((theta, rho, scale + 0.4, shift - 0.5))


class QuantaCase(Case):
    """The same of a neuron that sends several quanta in a step; theta is a quarter, so that it does."""

    OPS = quanta.OPS

    def rule_of(self, row, caps):
        ladder, m = row["ladder"]
        return quanta.Rule(m, ladder, row["unit"] == "normalised", row["negative"], *caps, row["surrogate"], 1.3, row["detach"])

    def parameters(self, theta):
        return theta / 4


def same(a, b):
    """Equal in shape, dtype and every value, NaN with NaN."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def assert_same(got, expected, what):
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert same(a, b), f"{what}, result {i}: {int((a != b).sum())} of {a.numel()} differ"


COS = [
    (dtype, size, theta, unit, constant)
    for dtype in DTYPES
    for size, theta, unit, constant in (
        ((1, 5), "one", "volts", False),
        ((4, 37), "channel", "normalised", False),
        ((9, 2500), "neuron", "volts", False),
        ((18, 300), "channel", "volts", True),
        ((8, 1024), "one", "normalised", True),
        ((21, 4096), "neuron", "normalised", False),
    )
]


def cos_args(row, device="cpu"):
    """The arguments of the op `cos_fwd` for one row: half of the neurons have uneven currents, so that every case of the shift occurs."""
    dtype, (T, N), theta, unit, constant = row
    knobs = dict(
        carried=False,
        masked=False,
        negative="none",
        strict=False,
        reset="soft",
        surrogate="zif",
        detach=False,
        memory=False,
        offset=0.0,
        leak=None,
    )
    case = Case(dict(dtype=dtype, size=(T, N), theta=theta, unit=unit, constant=constant, **knobs), device)
    x, th = case.neuron[:2]
    return (
        x * (1 + 2 * (torch.arange(N, device=device) % 2)).to(x),
        th,
        T,
        case.inner,
        0.3 if T == 4 else 0.5,
        [float(unit == "normalised"), 1.75 if T == 9 else float("inf")],
    )


# Convolutions: (dtype, [R, H, W, C], (KY, KX, O), rule, share of x that is not zero, bias). Whole and ragged panels of output channels in every
# instruction set, one and several lists per place, blocks of some rows and of whole images, few blocks that are shared out by their outputs.
CONV = [  # dtype, x, (KY, KX, O), rule, density, bias, groups
    (dtype, *row, 1)[:7]
    for dtype in ("fp32", "fp64")
    for row in (
        ((1, 1, 1, 1), (1, 1, 1), (1, 1, 0, 0, 1, 1), 1.0, True),
        ((3, 5, 6, 7), (3, 3, 10), (1, 1, 1, 1, 1, 1), 0.3, True),
        ((2, 7, 5, 3), (2, 3, 70), (2, 1, 1, 2, 1, 2), 0.5, False),
        ((4, 3, 3, 33), (3, 1, 17), (1, 2, 2, 1, 2, 1), 0.2, True),
        ((2, 4, 4, 20), (3, 3, 64), (3, 3, 0, 1, 1, 1), 0.0, True),
        ((1, 2, 2, 9), (5, 5, 40), (1, 1, 4, 4, 1, 1), 1.0, False),
        ((3, 33, 40, 16), (3, 3, 130), (1, 1, 1, 1, 1, 1), 0.1, True),
        ((2, 7, 6, 16), (3, 3, 130), (1, 1, 1, 1, 1, 1), 0.1, True),
        ((90, 2, 2, 64), (3, 3, 96), (1, 1, 1, 1, 1, 1), 0.2, False),
        ((2, 9, 9, 300), (1, 1, 65), (2, 2, 0, 0, 1, 1), 0.15, True),
        ((150, 1, 1, 700), (1, 1, 200), (1, 1, 0, 0, 1, 1), 0.1, True),
        ((5, 4, 4, 270), (3, 3, 33), (1, 1, 1, 1, 1, 1), 0.1, True),
        ((1, 1, 300, 5), (1, 3, 12), (1, 1, 0, 1, 1, 1), 0.4, True),
        # in groups
        ((3, 5, 6, 7), (3, 3, 7), (1, 1, 1, 1, 1, 1), 0.3, True, 7),
        ((2, 7, 5, 70), (3, 2, 140), (2, 1, 1, 2, 1, 2), 0.5, False, 70),
        ((2, 9, 9, 130), (3, 3, 130), (2, 2, 1, 1, 1, 1), 0.2, True, 130),
        ((1, 5, 6, 12), (5, 5, 18), (1, 1, 4, 2, 2, 1), 0.3, True, 3),
        ((2, 5, 5, 40), (3, 3, 64), (1, 1, 1, 1, 1, 1), 0.2, False, 2),
        ((2, 5, 4, 24), (3, 3, 96), (1, 1, 1, 1, 1, 1), 0.3, True, 2),
        ((2, 4, 4, 128), (3, 3, 38), (1, 1, 1, 1, 1, 1), 0.2, True, 2),
        ((3, 3, 3, 150), (1, 1, 50), (1, 1, 0, 0, 1, 1), 0.3, True, 50),
    )
]


def conv_args(row):
    """The arguments of the op `conv_fwd`."""
    dtype, shape, (KY, KX, O), rule, density, bias, groups = row
    g = torch.Generator().manual_seed(sum(shape) + O)
    x = torch.randn(shape, generator=g, dtype=torch.float64) * (torch.rand(shape, generator=g) < density)
    w = torch.randn(KY, KX, shape[3] // groups, O, generator=g, dtype=torch.float64)
    b = torch.randn(O, generator=g, dtype=torch.float64) if bias else None
    return *(t if t is None else t.to(DTYPES[dtype]) for t in (x, w, b)), *rule


def conv_work(row):
    """What an interpreter has to do: weights of an output, for each place."""
    _, shape, (KY, KX, _), *_, groups = row
    return math.prod(shape) * KY * KX // groups
