"""Memory: what a budget is, what a run takes, and what happens where it runs out."""

import dataclasses

import command
import pytest
import torch

import snnfast
from snnfast.evaluation import memory_plan
from snnfast.evaluation.evaluation import Evaluation
from snnfast.runtime.execution import Execution
from snnfast.system import memory


@pytest.mark.parametrize("text, size", [("8GiB", 8 << 30), ("1.5 MB", 1_500_000), ("700m" + "ib", 700 << 20), (12345, 12345), ("12", 12)])
def test_sizes(text, size):
    assert memory.parse(text) == size


@pytest.mark.parametrize("text, error, message", [
    ("lots", ValueError, "memory must be 'auto', a number of bytes or a text such as '8GiB' or '500MB', got 'lots'"),
    ("8 apples", ValueError, "got '8 apples'"), ("-1GiB", ValueError, "got '-1GiB'"), (0, ValueError, "memory must be > 0, got 0"),
    (True, TypeError, "got bool"), ([1], TypeError, "got list"),
])  # fmt: skip
def test_no_sizes(text, error, message):
    with pytest.raises(error, match=message):
        memory.parse(text)


def test_told():
    assert [memory.told(n) for n in (5, 2048, 3 << 20, 700 << 20, 12 << 30)] == ["5 B", "2.00 KiB", "3.00 MiB", "700 MiB", "12 GiB"]


def test_free_and_used_memory():
    assert 0 < memory.used("cpu") <= memory.peak("cpu") and memory.free("cpu") > 0
    assert memory.used("cpu") < memory.budget("auto", "cpu") <= memory.used("cpu") + memory.free("cpu")


def dry(snn, shape, products="sparse"):
    return memory_plan.Dry(snn, shape, Execution(snn.gm, products=products), "cpu")


def scratch():
    return memory_plan.SCRATCH * torch.get_num_threads()


def test_a_dry_run_by_hand():
    """Two linear layers, a neuron between them: every byte counted."""
    net = torch.nn.Sequential(torch.nn.Linear(10, 20), snnfast.nn.QCFS(4, 1.0), torch.nn.Linear(20, 5))
    found = dry(snnfast.convert(net), (10,))
    assert found.chunk(3, 7) == (21 * 80 + 21 * 20, scratch())  # s [21, 20] and y [21, 5] in the memory that layers share
    assert found.one_pass([n for n in found.nodes if n not in found.plan.spiking], 3, found.kept) == 120 + 240 + scratch()
    found = dry(snnfast.convert(net), (10,), "dense")
    assert found.classes == 5 and found.image == 40 and list(found.neurons.values()) == [20]
    assert found.states(3) == 3 * 20 * 8
    spikes, others = found.chunk(3, 7)
    assert spikes == 21 * 80  # s [21, 20]
    assert others == 21 * 20 + (400 + 21 * (80 + 20))  # y [21, 5]; copies of weights [5, 20], input and output
    # Images, first layer, its working memory: x [3, 10], y [3, 20], copies of them and of the weights [20, 10].
    assert found.one_pass([n for n in found.nodes if n not in found.plan.spiking], 3, found.kept) == 120 + 240 + (800 + 3 * (40 + 80))


class Reused(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.f, self.g = torch.nn.Conv2d(1, 4, 3), snnfast.nn.QCFS(4, 1.0), snnfast.nn.QCFS(4, 1.0)
        self.a, self.c = torch.nn.Linear(4 * 36, 6), torch.nn.Linear(4 * 36 + 6, 2)

    def forward(self, x):
        flat = self.f(self.conv(x)).flatten(1)
        return self.c(torch.cat([self.g(self.a(flat)), flat], 1))


def test_views_take_no_memory_and_keep_their_owner():
    found = dry(snnfast.convert(Reused()), (1, 8, 8), "dense")
    flat = next(n for n in found.nodes if n.target == "flatten")
    assert found.size[flat] == 0 and found.owner[flat].target == "f"
    assert found.chunk(1, 1)[0] == 4 * (4 * 36 + 6)  # the first layer's spikes live, through their view, until the second has fired
    # Sparse products lie in channels_last memory, of which `flatten` is a copy: then the spikes die, and products take their memory.
    assert dry(snnfast.convert(Reused()), (1, 8, 8)).chunk(1, 1)[0] == 4 * (4 * 36 + 6)


def test_a_plan_stays_within_its_budget(tiny):
    snn = snnfast.convert(tiny[0])
    found = dry(snn, (1, 32, 32))
    free = memory_plan.plan(found, 64)
    assert free.budget is None and free.chunk == 8 and free.batch > 8
    base = free.parts["in use"] + free.parts["reserve"]
    sizes = []
    for extra in (3 << 20, 1 << 20, 300 << 10):
        plan = memory_plan.plan(found, 64, budget=base + extra + (1 << 20) + scratch())
        assert plan.bytes <= plan.budget and sum(plan.parts.values()) == plan.bytes
        sizes.append(plan.batch * plan.chunk)
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    assert memory_plan.plan(found, 5).chunk == 5 and memory_plan.plan(found, 64, images=3).batch == 3
    assert (memory_plan.plan(found, 64, batch=7, chunk=2).batch, memory_plan.plan(found, 64, batch=7, chunk=2).chunk) == (7, 2)
    with pytest.raises(ValueError, match="memory 1.00 MiB is too small: 1 image and 1 step at a time need about .* are in use before"):
        memory_plan.plan(found, 64, budget=1 << 20)


def test_a_loaders_batches_are_cut_to_the_budget(tiny):
    net, x = tiny
    snn, labels = snnfast.convert(net), torch.arange(6)
    plans = []
    whole = snnfast.evaluate(snn, [(x, labels)], T=8, ann=net, deterministic=True, on_plan=plans.append)
    budget = memory.used("cpu") + memory_plan.IDLE["cpu"] + (8 << 20)
    tight = Evaluation(snn, [(x, labels)], 8, memory=budget, ann=net, deterministic=True, on_plan=plans.append)
    tight.plan = dataclasses.replace(tight.plan, batch=4, chunk=1)
    tight.run()
    assert plans[0].batch == 6 and [len(r["index"]) for r, _, _ in tight.finished] == [4, 2]
    assert tight.report().accuracy == whole.accuracy and tight.report().loss == whole.loss


@pytest.fixture(scope="module")
def idle():
    """What a process holds that has only imported the package: a torch with CUDA holds three times what one without does."""
    code, out, error = command.run("import snnfast.cli.main; from snnfast.system import memory; print(memory.used('cpu'))", script=("-c",))
    assert code == 0, error
    return int(out)


@pytest.mark.parametrize("extra", [475, 345])
def test_the_peak_stays_below_the_budget(checkpoint, tmp_path, idle, extra):
    """The real command; the most that the system ever saw it hold since the run began."""
    budget = f"{(idle >> 20) + extra}MiB"
    code, out, error = command.run(
        "eval", checkpoint, "--memory", budget, "--T", 32, "--images", 200, "--statistics", "--out", tmp_path / "e"
    )
    assert code == 0, error
    found = command.report(tmp_path / "e")["memory"]
    assert found["budget"] == memory.parse(budget) and found["estimate"] <= found["budget"]
    assert found["peak"] <= found["budget"], out


WIDE = """
import sys, resource, torch, snnfast
from snnfast.system import memory
torch.manual_seed(0)
net = snnfast.models.BY_NAME[sys.argv[1]](width=0.5).eval()
snn = snnfast.convert(net)
data = torch.utils.data.TensorDataset(torch.randn(48, 3, 32, 32), torch.zeros(48, dtype=torch.long))
budget = memory.used("cpu") + int(sys.argv[2]) * 2**20
report = snnfast.evaluate(snn, data, T=16, memory=budget, ann=net, statistics=True)
print(report.memory["batch"], report.memory["chunk"], report.memory["peak"], budget, report.memory["estimate"])
"""


@pytest.mark.parametrize(
    "arch, extra",
    [pytest.param("vgg16", 160, marks=pytest.mark.thorough), pytest.param("vgg16", 260, marks=pytest.mark.thorough), ("resnet18", 260)],
)
def test_larger_networks_stay_below_it_too(arch, extra):
    code, out, error = command.run(WIDE, arch, extra, script=("-c",))
    assert code == 0, error
    batch, chunk, peak, budget, estimate = map(int, out.split())
    assert peak <= budget and estimate <= budget and batch * chunk > 1


TRANSFORMER = """
import sys, torch, snnfast
torch.manual_seed(0)
net = snnfast.models.vit_tiny(image_size=32, patch_size=4, levels=16, depth=6, theta=1.0).eval()
x = torch.randn(int(sys.argv[2]), 3, 32, 32)
report = snnfast.evaluate(snnfast.convert(net), [(x, torch.zeros(len(x), dtype=torch.long))], T=14, ann=net, dtype=sys.argv[1])
print(report.memory["peak"], report.memory["estimate"])
"""


@pytest.mark.parametrize("dtype, batch", [("fp32", 16), pytest.param("fp32", 64, marks=pytest.mark.thorough), ("bf16", 16)])
def test_transformers_too(dtype, batch):
    code, out, error = command.run(TRANSFORMER, dtype, batch, script=("-c",))
    assert code == 0, error
    peak, estimate = map(int, out.split())
    assert peak <= estimate


@pytest.mark.thorough
def test_where_memory_runs_out_chunk_and_batch_are_halved(checkpoint, tmp_path):
    arguments = ["eval", checkpoint, "--T", 8, "--images", 18, "--statistics", "--deterministic", "--batch-size", 16, "--chunk", 8]
    code, plenty, _ = command.run(1 << 40, *arguments, "--out", tmp_path / "plenty", script=("tests/starved.py",))
    assert code == 0 and "refused 0" in plenty
    expected = command.result(tmp_path / "plenty")
    for limit, notes in (
        (2_500_000, ["16 images and 8 steps at a time: repeated with 4 steps"]),
        (840_000, ["repeated with 1 steps", "in two parts"]),
    ):
        out = tmp_path / str(limit)
        code, told, error = command.run(limit, *arguments, "--out", out, script=("tests/starved.py",))
        assert code == 0 and all(note in told for note in notes) and "refused 0" not in told, told + error
        assert command.result(out) == expected
    code, told, error = command.run(20_000, *arguments, "--out", tmp_path / "none", script=("tests/starved.py",))
    assert code == 2 and "out of memory with one image and 1 step at a time, which need about" in error and error.count("\n") == 1


class Card:
    """torch.cuda of a machine with cards of 10 GiB, whose limits are set and asked for, by number as torch wants it."""

    def __init__(self, monkeypatch):
        self.shares, self.seen = {0: 1.0, 1: 0.9}, []
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 << 30, 10 << 30))
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: self.shares[device])
        monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", self.set)

    def set(self, share, device):
        self.shares[device] = round(share, 3)
        self.seen.append((round(share, 3), device))


@pytest.mark.parametrize(
    "budget, device, share, index", [(5 << 30, "cuda:1", 0.5, 1), (20 << 30, "cuda:1", 0.9, 1), (5 << 30, "cuda", 0.5, 0)]
)
def test_torch_keeps_to_the_budget_on_a_gpu(monkeypatch, budget, device, share, index):
    card = Card(monkeypatch)
    before = card.shares[index]
    with pytest.raises(KeyError), memory.within(budget, device):
        assert card.shares[index] == share
        raise KeyError
    assert card.seen == [(share, index), (before, index)]


def test_of_several_budgets_the_smallest_holds(monkeypatch):
    """Evaluations in two threads, of which the first ends first."""
    card = Card(monkeypatch)
    one, two = memory.within(1 << 30, "cuda:0"), memory.within(2 << 30, "cuda")
    one.__enter__(), two.__enter__()
    assert card.shares[0] == 0.1
    one.__exit__(None, None, None)
    assert card.shares[0] == 0.2
    two.__exit__(None, None, None)
    assert card.shares[0] == 1.0 and not memory._limits


@pytest.mark.parametrize("budget, device", [(None, "cuda"), (1 << 30, "cpu")])
def test_without_a_budget_or_a_gpu_nothing_is_limited(monkeypatch, budget, device):
    card = Card(monkeypatch)
    with memory.within(budget, device):
        assert not card.seen
    assert not card.seen


def test_a_padded_pooling_stays_within_the_budget():
    """Its border is not copied: windows are added as far as they lie inside."""
    code = """
import torch, snnfast
from torch import nn
torch.manual_seed(0)
Q = lambda: snnfast.nn.QCFS(4, 0.3)
net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), Q(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(64, 8, 1), Q(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                    nn.Linear(8, 10)).eval()
data = torch.utils.data.TensorDataset(torch.rand(32, 3, 64, 64), torch.randint(0, 10, (32,)))
found = snnfast.evaluate(snnfast.convert(net), data, T=16, batch=32, chunk=16, memory="4GiB", products="exact").memory
print(found["estimate"], found["peak"])
"""
    status, told, error = command.run(script=("-c", code))
    assert status == 0, error
    estimate, peak = map(int, told.split())
    assert peak <= estimate
