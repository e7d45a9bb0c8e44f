"""Networks trained directly, against recordings of the authors' programs: blocks, whole networks, sizes."""

import json
import re
from pathlib import Path

import golden_weights
import numpy as np
import pytest
import torch

import snnfast
from snnfast.models import ms_resnet, sew_resnet, spikformer_net, spiking_attention, spikingformer_net
from snnfast.models.direct import BY_NAME, DirectNetwork, LearntSpikes, SharedDropout, Spikes

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def recorded(name):
    data = np.load(GOLDEN / f"{name}.npz")
    return data, json.loads(bytes(data["meta"]))


def tensor(array, dtype):
    t = torch.from_numpy(np.asarray(array))
    return t.to(dtype) if t.is_floating_point() or t.dtype == torch.int8 else t


def transformer_part(name, case, state, heads):
    """A block or a tokenizer of a transformer."""
    module, small = spikformer_net if name == "spikformer" else spikingformer_net, "cifar" in case
    if "block" in case:
        hidden, dim = next(t for key, t in state.items() if re.search(r"mlp.*1_(conv|linear)\.weight", key)).shape[:2]
        return module.Block(dim, heads, hidden, *([small] if name == "spikformer" else []))
    dim = next(t for key, t in state.items() if re.search(r"(rpe|4)_conv\.weight", key)).size(0)
    if name == "spikformer":
        return module.Tokens(3, dim, (2, 3) if small else (0, 1, 2, 3))
    names = tuple(f"block{i}" for i in range(5)) if small else ("proj", "proj1", "proj2", "proj3", "proj4")
    return module.Tokens(3, dim, names, (3, 4) if small else (1, 2, 3, 4))


def as_tokens(x, name, case, ours):
    """The authors' tokens, [T, B, N, C] in Spikformer for CIFAR, else maps [T, B, C, H, W]; ours are [T, B, C, N]."""
    if name not in ("spikformer", "spikingformer") or not ours:
        return x
    return x.mT if x.dim() == 4 and name == "spikformer" else x.flatten(3)


def block_of(name, case, state, heads):
    """The block that a case is of, of this many channels."""
    if name in ("spikformer", "spikingformer"):
        return transformer_part(name, case, state, heads)
    if case.startswith("basic18") or case.startswith("basic104"):
        c_out, c_in = state["residual_function.1.weight"].shape[:2]
        return ms_resnet.Block(c_in, c_out, 2 if "down" in case else 1, "104" in case)
    if case == "sew_plif_block":
        return sew_resnet.EventBlock(len(state["conv.0.0.module.0.weight"]), "ADD")
    c_out, c_in = state["conv1.module.0.weight"].shape[:2]
    connect = None if case.startswith("vanilla") else next(c for c in ("IAND", "AND", "ADD") if c in case)
    return sew_resnet.Block(c_in, c_out, 2 if "down" in case else 1, connect, "bottleneck" in case)


def same_spikes(found, recorded):
    """In whichever order an authors' layer lays tokens and channels."""
    if found.shape == recorded.shape:
        return torch.equal(found, recorded)
    return any(torch.equal(found, like) for like in laid(recorded) if like.shape == found.shape)


def laid(s):
    """[T, B, C, N] of what may be [T, B, N, C], [T, B, h, N, d] or [T, B, C, H, W]."""
    yield from (s.flatten(3), s.mT)
    if s.dim() == 5:
        yield s.mT.flatten(2, 3)


BLOCKS = [(name, case) for name in ("sew", "ms", "spikformer", "spikingformer") for case in recorded(name)[1]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("name", "case"), BLOCKS)
def test_a_block_is_the_authors(name, case, dtype):
    data, meta = recorded(name)
    part = lambda kind: {k.removeprefix(f"{case}/{kind}/"): data[k] for k in data.files if k.startswith(f"{case}/{kind}/")}
    state = {k: tensor(v, dtype) for k, v in part("sd").items()}
    block = block_of(name, case, state, meta[case].get("heads")).to(dtype)
    block.load_state_dict(state)
    block.train(meta[case]["bn"] == "train")
    spikes = {}
    for layer in part("spk"):
        block.get_submodule(layer).register_forward_hook(lambda m, x, s, layer=layer: spikes.__setitem__(layer, s.detach()))
    x = tensor(data[f"{case}/x"], dtype).requires_grad_()
    y = block(as_tokens(x, name, case, "block" in case))
    like = lambda t: as_tokens(t, name, case, True)  # noqa: E731
    if f"{case}/g" in data.files:  # tokenizers have no recorded gradients
        (y * like(tensor(data[f"{case}/g"], dtype))).sum().backward()
    assert meta[case]["fp32_flips"] == 0
    for layer, s in part("spk").items():
        assert same_spikes(spikes[layer], tensor(s, dtype)), layer
    near = dict(rtol=0, atol=1e-12) if dtype == torch.float64 else dict(rtol=1e-5, atol=1e-5)  # sums of convolutions and batch norms
    assert torch.allclose(y, like(tensor(data[f"{case}/y{'64' if dtype == torch.float64 else '32'}"], dtype)), **near)
    # Gradients were stored in fp32; in fp32 they are sums over all steps, images and places.
    near = dict(rtol=1e-6, atol=1e-6) if dtype == torch.float64 else dict(rtol=1e-3, atol=1e-3)
    for key, g in part("grad").items():
        found = x.grad if key == "x" else block.get_parameter(key).grad
        found = torch.zeros_like(tensor(g, dtype)) if found is None else found  # of norms that do nothing
        assert torch.allclose(found, tensor(g, dtype), **near), key
    for key, t in part("after").items():
        assert torch.allclose(block.get_buffer(key), tensor(t, dtype), rtol=1e-6, atol=1e-6), key


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", recorded("direct")[1])
def test_a_whole_network_is_the_authors(case, dtype):
    data, meta = recorded("direct")
    m = meta[case]
    net = getattr(snnfast.models, re.sub(r"_\d+_\d+$", "", case).replace("van_", "spiking_"))()  # of its defaults' depth and width
    shapes = {name: tuple(t.shape) for name, t in net.state_dict().items()}
    assert sum(p.numel() for p in net.parameters()) == m["params"] and len(shapes) == m["entries"]
    net.T = m["T"]
    state = golden_weights.state(shapes, m["gain"], m["scale"], m["shift"], m["salt"])
    net.load_state_dict({name: torch.from_numpy(np.asarray(t)) for name, t in state.items()})
    counts = {}
    for name in m["neurons"]:
        net.get_submodule(name).register_forward_hook(lambda m, x, s, name=name: counts.__setitem__(name, int(s.sum(dtype=torch.float64))))
    with torch.no_grad():
        y = net.to(dtype).eval()(torch.from_numpy(golden_weights.image(m["img"], m["salt"])).to(dtype))
    assert m["fp32_count_diff"] == 0 and [counts[name] for name in m["neurons"]] == data[f"{case}/counts64"].tolist()
    assert {name for name, layer in net.named_modules() if isinstance(layer, (Spikes, LearntSpikes))} == set(m["neurons"])
    near = 1e-12 if dtype == torch.float64 else 3e-5  # the last layer's sums, and batch norms'
    assert torch.allclose(y, torch.from_numpy(data[f"{case}/y64"]).to(dtype), rtol=0, atol=near)


PUBLISHED = {  # parameters, entries of a checkpoint
    "sew_resnet18": (11_689_512, 122), "sew_resnet34": (21_797_672, 218), "sew_resnet50": (25_557_032, 320), "sew_resnet101": (44_549_160, 626),
    "sew_resnet152": (60_192_808, 932), "spiking_resnet18": (11_689_512, 122), "spiking_resnet34": (21_797_672, 218),
    "spiking_resnet50": (25_557_032, 320), "spiking_resnet101": (44_549_160, 626), "spiking_resnet152": (60_192_808, 932),
    "ms_resnet18": (11_693_736, 128), "ms_resnet34": (21_801_896, 224), "ms_resnet104": (77_350_504, 649),
    "sew_cifar10dvs": (1_192_218, 114), "sew_dvs_gesture": (130_426, 107), "plif_cifar10": (36_718_344, 46), "plif_mnist": (13_198_980, 18),
    # depth, dim, heads
    "spikformer 8 384 8": (16_828_312, 376), "spikformer 8 512 8": (29_705_768, 376), "spikformer 8 768 8": (66_363_208, 376),
    "spikformer_cifar 4 256 8": (4_159_274, 216), "spikformer_cifar 4 384 12": (9_330_874, 216), "spikingformer 8 384 8": (16_828_312, 376),
    "spikingformer 8 512 8": (29_705_768, 376), "spikingformer 8 768 8": (66_363_208, 376), "spikingformer_cifar 4 256 8": (4_156_202, 204),
    "spikingformer_cifar 2 384 8": (5_765_818, None), "spikingformer_cifar 4 384 12": (9_326_266, 204),
}  # fmt: skip


def test_sizes_of_the_published_networks():
    assert {name.split(" ")[0] for name in PUBLISHED} == set(BY_NAME)
    for name, (parameters, entries) in PUBLISHED.items():
        arch, *size = name.split(" ")
        with torch.device("meta"):
            net = BY_NAME[arch](*map(int, size))
        assert sum(p.numel() for p in net.parameters()) == parameters and entries in (None, len(net.state_dict())), name
        assert isinstance(net, DirectNetwork) and net.config["arch"] == arch


@pytest.mark.parametrize(("name", "gain"), [("sew_resnet18", 0.15), ("spiking_resnet18", 0.015), ("ms_resnet18", 0.5)])
def test_epochs_of_digits_improve_it(name, gain):
    """gain: half of what the loss falls by, or less. The vanilla network hardly learns, as its authors say."""
    from snnfast.data import load

    data = load("digits")
    x, y = (torch.stack([torch.as_tensor(data.train[i][k]) for i in range(96)]) for k in (0, 1))
    torch.manual_seed(0)
    net = getattr(snnfast.models, name)(num_classes=10, in_channels=1, T=2)
    losses = snnfast.training.fit(net, [(x[i : i + 32], y[i : i + 32]) for i in range(0, 96, 32)], 5, 0.02)
    assert losses[-1] < losses[0] - gain
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in net.parameters())


@pytest.mark.parametrize("name", ["spikformer", "spikformer_cifar", "spikingformer", "spikingformer_cifar"])
def test_three_epochs_of_digits_improve_a_transformer(name):
    from snnfast.data import load

    data = load("digits")
    x, y = (torch.stack([torch.as_tensor(data.train[i][k]) for i in range(96)]) for k in (0, 1))
    torch.manual_seed(0)
    net = getattr(snnfast.models, name)(1, 32, 4, T=2, num_classes=10, in_channels=1)
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 96, 32)]
    losses = snnfast.training.fit(net, batches, 3, 0.01, optimiser="adamw")
    assert losses[-1] < losses[0] - 0.04
    assert all(p.grad is not None for n, p in net.named_parameters() if ".norm" not in n)


def test_attention_is_the_definition_and_exact_in_half_precision():
    draw = torch.Generator().manual_seed(0)
    for d, N in ((4, 16), (16, 4)):
        q, k, v = ((torch.rand(2, 3, 2 * d, N, generator=draw) < 0.6).double() for _ in range(3))
        heads = [x.unflatten(2, (2, d)).mT for x in (q, k, v)]  # [T, B, h, N, d]
        expected = (heads[0] @ heads[1].mT @ heads[2] / 8).mT.flatten(2, 3)
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                y = spiking_attention.attention(q.to(dtype), k.to(dtype), v.to(dtype), 2)
            assert torch.equal(y.double(), expected)


def test_three_epochs_of_made_events_improve_it():
    """Two classes of frames: events in the left half, or in the right."""
    draw = torch.Generator().manual_seed(0)
    x = (torch.rand(12, 2, 2, 128, 128, generator=draw) < 0.2).float()
    x[::2, ..., 64:], x[1::2, ..., :64] = 0, 0
    y = torch.arange(12) % 2
    torch.manual_seed(0)
    net = snnfast.models.sew_dvs_gesture(num_classes=2)
    losses = snnfast.training.fit(net, [(x[i : i + 6], y[i : i + 6]) for i in (0, 6)], 3, 0.05)
    assert losses[-1] < losses[0] - 0.02
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in net.parameters())


def test_votes_are_trained():
    """PLIF's loss: the squared difference of the rates to one-hot."""
    torch.manual_seed(0)
    net = snnfast.models.plif_mnist(T=4).train()
    x, y = torch.rand(8, 1, 28, 28), torch.nn.functional.one_hot(torch.arange(8), 10).float()
    descent, losses = torch.optim.Adam(net.parameters(), 1e-3), []
    for _ in range(3):
        votes = net(x)
        assert float(votes.detach().min()) >= 0 and float(votes.detach().max()) <= 4
        loss = ((votes / 4 - y) ** 2).mean()
        descent.zero_grad()
        loss.backward()
        descent.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] and all(p.grad is not None for p in net.parameters())


def test_one_mask_for_all_steps():
    x = torch.ones(5, 3, 40)
    y = SharedDropout(0.5).train()(x)
    assert torch.equal(y[0], y[4]) and set(y.unique().tolist()) == {0.0, 2.0} and not torch.equal(y[0, 0], y[0, 1])
    assert SharedDropout(0.5).eval()(x) is x


@pytest.mark.parametrize("connect", ["ADD", "AND", "IAND"])
def test_blocks_that_are_the_identity_at_first(connect):
    block = sew_resnet.SEWResNet("x", 18, connect, 2, 10, 3, True).layer1[0].eval()
    x = (torch.rand(2, 3, 64, 4, 4) < 0.3).float()
    assert torch.equal(block(x), x)


def test_a_checkpoint_as_its_program_leaves_it(tmp_path):
    """SEW's: under "model", beside an argparse.Namespace, which alone is no program; under DDP's prefix."""
    import argparse

    net = snnfast.models.sew_resnet18(num_classes=10, T=2).eval()
    held = {"module." + name: t for name, t in net.state_dict().items()}
    torch.save({"model": held, "epoch": 3, "args": argparse.Namespace(lr=0.1, T=4)}, tmp_path / "sew.pth")
    again = snnfast.load_weights(snnfast.models.sew_resnet18(num_classes=10, T=2).eval(), tmp_path / "sew.pth")
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(x), net(x))
    with pytest.raises(ValueError, match="fc.weight has shape"):
        snnfast.load_weights(snnfast.models.sew_resnet18(num_classes=7), tmp_path / "sew.pth")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: snnfast.models.sew_resnet18("OR"), "connect must be one of"),
        (lambda: snnfast.models.sew_resnet18(T=0), "T must be >= 1, got 0"),
        (lambda: snnfast.models.ms_resnet18(num_classes=0), "num_classes must be >= 1"),
        (lambda: Spikes(0.3), "theta must be a power of two"),
        (lambda: snnfast.models.spikformer(1, 30, 4), "dim must be a multiple of heads and of 8, got dim 30 and heads 4"),
        (lambda: snnfast.models.spikingformer(0), "depth must be >= 1"),
        (lambda: LearntSpikes(1.0), "init_tau must be > 1 time step, got 1.0"),
        (lambda: snnfast.models.plif_mnist(T=1)(torch.zeros(1, 1, 32, 32)), "x must be images that leave 6272 features, got 8192"),
        (lambda: snnfast.models.sew_dvs_gesture()(torch.zeros(1, 2, 128, 128)), r"x must be frames \[B, T, 2, H, W\], got shape"),
        (lambda: snnfast.models.sew_dvs_gesture()(torch.zeros(1, 1, 2, 256, 256)), "x must be frames of 128 to 255 pixels a side"),
        (
            lambda: snnfast.models.ms_resnet18(num_classes=2)(torch.zeros(3, 8, 8)),
            r"x must be images \[B, 3, H, W\], got shape \(3, 8, 8\)",
        ),
        (lambda: snnfast.models.ms_resnet18(num_classes=2)(torch.zeros(1, 1, 8, 8)), r"x must be images \[B, 3, H, W\]"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
