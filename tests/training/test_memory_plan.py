"""How much memory a training takes: the estimate holds the peak of a real process, and a batch that does not fit is refused before it begins."""

import contextlib
import json

import command
import pytest
import torch

import snnfast
from snnfast.cli.main import main
from snnfast.system import memory
from snnfast.training import loop, memory_plan

STEPS = """
import json, sys, torch, snnfast
from torch.nn import functional as F
from snnfast.system import memory
from snnfast.training import memory_plan
from snnfast.training.optimisers import optimiser_of, parameter_groups
torch.set_num_threads(1)
arch, size, B, optimiser, options = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], json.loads(sys.argv[5])
net = getattr(snnfast.models, arch)(num_classes=10, **options).train()
descent = optimiser_of(optimiser, parameter_groups(net, 1e-4), 0.01)
chunk = 4 if arch == "csnn_cifar10" else None
plan = memory_plan.plan(net, torch.randn(1, 3, size, size), B, optimiser, chunk=chunk)
if chunk is not None:
    net.forward = lambda x: snnfast.backward_through_time(net, x, chunk=chunk, batch_norm="chunk").mean(0)
memory.restart_peak("cpu")
for _ in range(3):
    loss = F.cross_entropy(net(torch.randn(B, 3, size, size)), torch.zeros(B, dtype=torch.long))
    descent.zero_grad()
    loss.backward()
    descent.step()
print(json.dumps([plan.bytes, memory.peak("cpu"), plan.parts["in use"]]))
"""


@pytest.mark.parametrize(
    ("arch", "size", "B", "optimiser", "options"),
    [
        ("vgg11", 64, 32, "sgd", dict(width=0.5, image_size=64)),
        ("resnet20", 32, 200, "sgd", {}),
        pytest.param("resnet18", 64, 32, "sgd", dict(width=0.5), marks=pytest.mark.thorough),
        ("vit_tiny", 32, 32, "adamw", dict(image_size=32, patch_size=4, dim=96, depth=4)),
        pytest.param("csnn_cifar10", 32, 16, "sgd", dict(channels=(32, 32, 32), hidden=32, T=64), marks=pytest.mark.thorough),
    ],
)
def test_the_estimate_holds_the_peak(arch, size, B, optimiser, options):
    code, told, error = command.run(arch, size, B, optimiser, json.dumps(options), script=("-c", STEPS))
    assert code == 0, error
    estimate, peak, before = json.loads(told)
    assert peak <= estimate, (estimate, peak)
    assert estimate - before < 2.5 * (peak - before) + (96 << 20), (estimate, peak, before)  # and is no guess


def test_a_plan_changes_nothing_and_grows_with_the_batch():
    net = snnfast.models.resnet20(width=0.25).train()
    state, random = {name: t.clone() for name, t in net.state_dict().items()}, torch.get_rng_state()
    plans = [memory_plan.plan(net, torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), B) for B in (10, 20, 40)]
    assert torch.equal(torch.get_rng_state(), random) and net.training
    assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())
    sizes = [plan.bytes - plan.parts["in use"] for plan in plans]
    assert sizes[2] - sizes[1] == pytest.approx(2 * (sizes[1] - sizes[0]), rel=1e-3)
    assert all(p.grad is None for p in net.parameters())


def test_what_is_kept_is_counted_by_hand():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(100, 50), torch.nn.ReLU(), torch.nn.Linear(50, 10))
    plan = memory_plan.plan(net, torch.zeros(1, 100), 8)
    # The image, the ReLU's result, which is the second layer's input too, and the loss's log softmax [B, 10]; labels are int64.
    assert plan.parts["kept"] == pytest.approx(memory_plan.GAPS["cpu"] * 8 * (4 * (100 + 50 + 10) + 8), rel=0.05)
    assert plan.parts["gradients"] == 4 * (100 * 50 + 50 + 50 * 10 + 10)
    assert plan.parts["optimiser"] == 2 * plan.parts["gradients"]  # momentum, and a copy that a step makes


def test_a_plan_keeps_nothing():
    """What a hook hands to autograd may not hold the node that keeps it: 4 MiB were left of every plan."""
    net, image = snnfast.models.vgg11(width=0.1), torch.zeros(1, 3, 32, 32)
    for _ in range(5):
        memory_plan.plan(net, image, 64)
    before = memory.used("cpu")
    for _ in range(20):
        memory_plan.plan(net, image, 64)
    assert memory.used("cpu") - before < 24 << 20  # it was 77


def test_the_largest_batch_that_fits():
    net = snnfast.models.vgg11(width=0.1)
    image = torch.zeros(1, 3, 32, 32)
    plan = memory_plan.plan(net, image, 128, budget=memory_plan.plan(net, image, 64).bytes + (4 << 20))
    twice, by_image = memory_plan.plan(net, image, 256).parts, ("kept", "beside", "images")  # "kept" has a part that no image adds to
    each, bytes_cut = sum(twice[name] - plan.parts[name] for name in by_image) / 128, len(plan.parts)
    assert 32 < plan.most < 128
    assert plan.bytes - (128 - plan.most) * each - bytes_cut <= plan.budget < plan.bytes - (127 - plan.most) * each + bytes_cut
    with pytest.raises(
        ValueError, match=rf"batches of 128 takes about .* may be taken; batches of {plan.most} fit: --batch-size {plan.most}$"
    ):
        plan.check()
    assert memory_plan.plan(net, image, plan.most, budget=plan.budget + (64 << 20)).check() is None  # what is in use moves
    with pytest.raises(ValueError, match="no batch fits"):
        memory_plan.plan(net, image, 128, budget=1 << 20).check()


def test_the_command_refuses_before_anything_is_written(tmp_path, capsys, monkeypatch):
    line = ["train", "--arch", "vgg11", "--width", "0.1", "--out", str(tmp_path / "run"), "--epochs", "1", "1", "--T", "2"]
    assert main([*line, "--memory", "300MiB"]) == 2
    told = capsys.readouterr()
    assert "training with batches of 64 takes about" in told.err and not (tmp_path / "run").exists()
    assert main([*line, "--memory", "nonsense"]) == 2
    assert "memory must be 'auto', a number of bytes" in capsys.readouterr().err
    within, spans = memory.within, []

    @contextlib.contextmanager
    def noted(budget, device):
        with within(budget, device):
            spans.append([budget, str(device), (tmp_path / "run" / "log.jsonl").exists()])
            yield
            spans[-1].append((tmp_path / "run" / "log.jsonl").exists())

    monkeypatch.setattr(loop, "within", noted)
    assert main([*line, "--memory", "auto"]) == 0
    ((budget, *span),) = spans
    assert budget > 1 << 30 and span == ["cpu", False, True]  # all epochs run where torch is held to the budget
    assert "plan: batches of 64, about" in capsys.readouterr().out


def test_half_precision_keeps_less():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), snnfast.nn.QCFS(4, 1.0), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5))
    full, half = (memory_plan.plan(net, torch.zeros(1, 3, 8, 8), 64, amp=amp).parts["kept"] for amp in (None, torch.bfloat16))
    assert half < full


def test_the_trial_before_the_first_chunk_is_counted():
    """It runs four steps in fp64, which hold what a chunk of eight holds in fp32."""
    net, image = snnfast.models.csnn_cifar10((8, 8, 8), hidden=16, T=32), torch.zeros(1, 3, 32, 32)
    short, long = (memory_plan.plan(net, image, 16, chunk=chunk).parts for chunk in (4, 8))
    assert short["beside"] == long["beside"] > 0 and short["kept"] > 0.8 * long["kept"]


def test_a_teacher_takes_memory_too():
    image = torch.randn(1, 1, 16, 16)
    net, teacher = (
        torch.nn.Sequential(torch.nn.Conv2d(1, c, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(c * 196, 10)) for c in (2, 8)
    )
    with_one, alone = memory_plan.plan(net, image, 64, teacher=teacher), memory_plan.plan(net, image, 64)
    assert alone.parts["teacher"] == 0 and with_one.parts["teacher"] >= 64 * 2 * 8 * 14 * 14 * 4  # a value and the one that it is made of
    assert with_one.bytes >= alone.bytes + with_one.parts["teacher"] - (8 << 20)  # what is in use may differ between the two
