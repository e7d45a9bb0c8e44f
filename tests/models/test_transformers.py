"""ViT and Swin: timm's names and numbers, the placement of activations, bad sizes, two stages, files."""

import importlib.util

import pytest
import torch
from transformers import NETS, images, network

import snnfast
from snnfast import models, nn


def without_activations(net):
    """The network that the activations were put into: GELU in the MLP, nothing elsewhere."""
    for name, m in list(net.named_modules()):
        if nn.is_quantised(m):
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, torch.nn.GELU() if name.endswith("mlp.act") else torch.nn.Identity())
    return net.eval()


TIMM = [
    ("vit_tiny_patch16_224", models.vit_tiny, dict(), dict()),
    ("vit_tiny_patch16_224", models.vit_tiny, dict(pool="mean"), dict(global_pool="avg")),
    ("vit_small_patch8_224", models.vit_small, dict(pool="mean", class_token=False, image_size=64, patch_size=8),
     dict(global_pool="avg", class_token=False, img_size=64)),
    ("swin_tiny_patch4_window7_224", models.swin_tiny, dict(), dict()),
]  # fmt: skip


@pytest.mark.parametrize("name, build, own, theirs", TIMM, ids=[f"{n}-{'-'.join(o)}" for n, _, o, _ in TIMM])
def test_weights_of_timm_load_and_give_its_logits(name, build, own, theirs):
    if not importlib.util.find_spec("timm"):
        pytest.skip("timm is not installed")
    import timm

    reference = timm.create_model(name, num_classes=7, **theirs).eval()
    for p in reference.parameters():
        p.data += 0.02 * torch.randn(p.shape)
    net = without_activations(build(num_classes=7, **own))
    net.load_state_dict(reference.state_dict())
    size = own.get("image_size", 224)
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        assert torch.allclose(net(x), reference(x), rtol=1e-4, atol=1e-4)  # timm scales q before or within a fused attention


SIZES = {"vit_tiny": (192, 12, 3), "vit_small": (384, 12, 6), "vit_base": (768, 12, 12)}


@pytest.mark.parametrize("arch", SIZES)
@pytest.mark.parametrize("patch", [4, 8, 16])
def test_sizes(arch, patch):
    dim, depth, heads = SIZES[arch]
    with torch.device("meta"):
        net = models.BY_NAME[arch](image_size=48, patch_size=patch, activation="hn-qcfs")
        assert net(torch.empty(2, 3, 48, 48)).shape == (2, 10)
    assert net.pos_embed.shape == (1, 1 + (48 // patch) ** 2, dim) and len(net.blocks) == depth
    block = net.blocks[0]
    assert [getattr(block.attn, f"{n}_act").thresh.numel() for n in ("q", "k", "v", "attn", "av", "proj")] == [heads] * 5 + [1]
    assert block.mlp.act.thresh.numel() == 4 * dim and block.mlp.fc2_act.thresh.numel() == dim


def test_counts_of_entries_are_those_of_the_papers_files():
    with torch.device("meta"):
        spikezip = models.vit_small(num_classes=1000, activation="lsq", placement="spikezip").state_dict()
        mst = models.swin_tiny(num_classes=1000, activation="qcfs", wiring="mst", norm="bn", mlp_norm=True).state_dict()
        cifar = models.swin_tiny(num_classes=10, activation="qcfs", wiring="mst", norm="bn").state_dict()
    assert len(spikezip) == 274 and sum(k.endswith(".s") for k in spikezip) == 122
    # MST's files also hold 12 tables of distances and 5 masks of shifted windows, which are constants.
    assert len(mst) == 518 - 17 and sum(k.endswith(".thresh") for k in mst) == 124 and len(cifar) == 398 - 17


def test_thresholds_of_heads_and_features():
    """HN-QCFS: each head and each feature is quantised as a QCFS with its own threshold does."""
    x = torch.randn(2, 3, 4, 5) * 2
    head, feature = nn.HQCFS(3, 8), nn.NQCFS(5, 8)
    soft = nn.HSQCFS(3, 8), nn.NSQCFS(5, 8), nn.HEQCFS(3, 8), nn.NEQCFS(5, 8)
    with torch.no_grad():
        head.thresh += torch.tensor([-1.0, 0.0, 1.0])
        feature.thresh += torch.arange(5) * 0.3
        for layer in soft:
            layer.lam += 0.2 * torch.randn(layer.lam.shape)
    for h in range(3):
        assert torch.equal(head(x)[:, h], snnfast.qcfs(x[:, h], float(head.thresh[h].detach()), 8))
    for j in range(5):
        assert torch.equal(feature(x)[..., j], snnfast.qcfs(x[..., j], float(feature.thresh[j].detach()), 8))
    for layer in soft:
        places = (-1, 1, 1) if layer.axis == -3 else (-1,)
        assert torch.allclose(layer(x), snnfast.qcfs(x, layer.threshold().view(places), 8))
    for layer in (head, feature, *soft):  # also with windows before the heads
        assert torch.equal(layer(x[None].expand(2, -1, -1, -1, -1))[1], layer(x))
        layer(x).sum().backward()
        assert all(p.grad.abs().min() > 0 for p in layer.parameters())
    with pytest.raises(ValueError, match=r"3 thresholds per head need \[..., 3, tokens, D\]"):
        head(torch.randn(2, 4, 4, 5))
    with pytest.raises(ValueError, match=r"5 thresholds per feature need \[..., 5\]"):
        feature(torch.randn(2, 3))


@pytest.mark.parametrize("signed", [False, True])
def test_lsq(signed):
    layer = nn.LSQ(8, signed, theta=1.4)
    low, high = (-4, 3) if signed else (0, 7)
    s = 1.4 / high
    x = torch.linspace(-2, 3, 1001)
    expected = s * torch.floor(x.double() / s + 0.5).clamp(low, high)
    off = (x / s + 0.5 - (x / s + 0.5).round()).abs() < 1e-4
    assert torch.allclose(layer.eval()(x).double()[~off], expected[~off], atol=1e-6) and float(layer.s) == pytest.approx(s)
    # The gradient of their program: inside (level - z) g, outside the last level times g, with g = 1/sqrt(p_max N); straight through for x.
    x = x.requires_grad_()
    layer.train()(x).sum().backward()
    z = (x / s).detach().double()
    inside = (z + 0.5 >= low) & (z + 0.5 < high + 1)
    step = torch.where(inside, torch.floor(z + 0.5) - z, torch.floor(z + 0.5).clamp(low, high))
    assert float(layer.s.grad) == pytest.approx(float(step.sum()) * (high * 1001) ** -0.5, abs=0.05)
    assert torch.equal(x.grad[~off] != 0, inside[~off])


@pytest.mark.parametrize("name", NETS)
def test_a_network_is_built_again_from_its_configuration(name, tmp_path):
    net = network(name)
    x = images(net)
    snnfast.save_checkpoint(tmp_path / "net.pt", net)
    again = snnfast.load_checkpoint(tmp_path / "net.pt")
    assert again.config == net.config and torch.equal(again(x), net(x))
    assert not any(b.is_meta for b in again.buffers())
    assert torch.equal(snnfast.convert(again)(x, T=40), snnfast.convert(net)(x, T=40))


@pytest.mark.parametrize("kind, fine", [("qcfs", "hn-qcfs"), ("s-qcfs", "hns-qcfs"), ("e-qcfs", "hne-qcfs")])
@pytest.mark.parametrize("name", ["vit", "swin", "mst"])
def test_stage_two_starts_at_the_same_function(name, kind, fine):
    net = network(name, activation=kind)
    new = snnfast.to_channelwise(net)
    x = images(net)
    softplus = kind == "s-qcfs"  # torch's of many numbers and of one may differ in the last bit
    same = lambda other: torch.allclose(other(x), net(x), atol=1e-6) if softplus else torch.equal(other(x), net(x))
    assert new.config["activation"] == fine and same(new)
    many = [m.threshold().numel() for m in new.modules() if nn.is_quantised(m)]
    assert max(many) > 8 and min(many) == 1
    last = snnfast.to_channelwise(net, 2)
    assert [m.threshold().numel() > 1 for m in last.modules() if nn.is_quantised(m)] == [False] * (len(many) - 2) + [True] * 2
    assert same(last)


def test_stochastic_depth_leaves_out_branches_in_training_alone():
    net = network("vit", drop_path=0.5)
    x = images(net)
    assert torch.equal(net.eval()(x), net(x)) and not torch.equal(net.train()(x), net(x))
    assert [b.drop_path.share for b in net.blocks] == [0, 0.5]
    assert [b.drop_path.share for s in network("swin", drop_path=0.4).layers for b in s.blocks] == pytest.approx([0, 0.2, 0.4])
    drop = net.blocks[1].drop_path
    y = drop(torch.ones(4000, 3, 2))
    assert set(y.unique().tolist()) == {0.0, 2.0} and abs(float(y.mean()) - 1) < 0.1 and (y == y[:, :1, :1]).all()


BAD = [
    (models.vit_tiny, dict(heads=5), "heads must divide the features: 192 features do not go into 5 heads"),
    (models.vit_tiny, dict(image_size=30), "image_size must be a multiple of patch_size, 16; got 30"),
    (models.vit_tiny, dict(norm="in"), "norm must be one of 'ln', 'bn'"),
    (models.vit_tiny, dict(pool="max"), "pool must be one of 'token', 'mean'"),
    (models.vit_tiny, dict(class_token=False), "pool='token' reads the class token"),
    (models.vit_tiny, dict(placement="spikezip"), "it needs activation 'lsq', got 's-qcfs'"),
    (models.vit_tiny, dict(activation="cs-qcfs"), "activation must be one of"),
    (models.vgg11, dict(activation="hn-qcfs"), "activation must be one of"),
    (models.vit_tiny, dict(drop_path=1.0), r"drop_path must be in \[0, 1\), got 1.0"),
    (models.vit_tiny, dict(depth=0), "depth must be >= 1, got 0"),
    (models.vit_tiny, dict(masking=1.0), r"masking must be in \[0, 1\), got 1.0"),
    (models.vgg11, dict(masking=-0.1), r"masking must be in \[0, 1\), got -0.1"),
    (models.swin_tiny, dict(image_size=225), "image_size must be a multiple of patch_size, 4; got 225"),
    (models.swin_tiny, dict(image_size=64), "the image's 16 tokens a side must be a multiple of the window, 7; got 16"),
    (models.swin_tiny, dict(image_size=28), "image_size must be a multiple of tokens that merge, 2; got 7"),
    (models.swin_tiny, dict(heads=(3, 6, 12)), "depths and heads need a number for each stage"),
    (models.swin_tiny, dict(heads=(5, 6, 12, 24)), "96 features do not go into 5 heads"),
    (models.swin_tiny, dict(wiring="mist"), "wiring must be one of 'swin', 'mst'"),
    (models.swin_tiny, dict(masking=1.5), r"masking must be in \[0, 1\), got 1.5"),
    (models.swin_tiny, dict(depths=2), "depths must be a tuple with a number for each stage, got int"),
    (models.swin_tiny, dict(heads=2), "heads must be a tuple with a number for each stage, got int"),
    (models.swin_tiny, dict(mlp_norm=1), "mlp_norm must be True or False, got int"),
    (models.vit_tiny, dict(signs="all"), "signs='all' is of activation 'lsq'"),
    (models.vit_tiny, dict(class_token="no"), "class_token must be True or False, got str"),
    (snnfast.nn.LSQ, dict(signed="no"), "signed must be True or False, got str"),
]


@pytest.mark.parametrize("build, options, message", BAD, ids=[m for *_, m in BAD])
def test_bad_sizes(build, options, message):
    with pytest.raises((ValueError, TypeError), match=message), torch.device("meta"):
        build(**options)
