"""Operations and energy as the authors count them: their programs' numbers, to the last digit; and the count of ours, against counting by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import snnfast
from snnfast.evaluation.conventions import NAMES, Operations, fan_out
from snnfast.models.direct import DirectNetwork, Spikes, each_step, over_time
from snnfast.models.spikingresformer_net import SpikingResformer

DATA = np.load(Path(__file__).resolve().parents[1] / "golden" / "sop.npz")
META = json.loads(bytes(DATA["meta"]))


def recorded(case, net):
    state = {k.removeprefix(f"{case}/sd/"): torch.from_numpy(np.asarray(DATA[k])) for k in DATA.files if k.startswith(f"{case}/sd/")}
    net.load_state_dict(state)
    net.T = META[case]["T"]
    x = torch.from_numpy(np.asarray(DATA[f"{case}/x"])).double()
    return net.double(), [(batch, None) for batch in x]


@pytest.mark.parametrize("case", ["spikingformer", "spikformer"])
def test_spikingformers_program(case):
    m = META[case]
    make = getattr(snnfast.models, case)
    net, batches = recorded(case, make(m["depth"], m["dim"], m["heads"], num_classes=7))
    found = snnfast.operations(net, batches, "spikingformer")
    assert found.images == m["images"] * m["batches"]
    for name, (acs, macs) in found.layers.items():
        if name in m["layers"]:
            assert [acs, macs] == pytest.approx(m["layers"][name][1:3], rel=1e-12), name
    assert {name for name in m["layers"] if "conv" in name or name == "head"} == {
        name for name in found.layers if not name.endswith(".products")
    }
    assert found.energy_mJ == pytest.approx(m["energy_mJ"], rel=1e-12)
    assert f"{found.MACs / 1e9:.9f} G MACs" in m["line"] or f"{found.MACs / 1e9:.12g} G MACs" in m["line"]


def test_spikingresformers_program():
    m = META["spikingresformer"]
    dims = [DATA[f"spikingresformer/sd/layers.{i}.{0 if i == 0 else 1}.Wproj.weight"].shape[0] for i in range(3)]
    classes = len(DATA["spikingresformer/sd/classifier.weight"])
    net = SpikingResformer("x", tuple(dims), False, 64, 4, classes, 3, 16)
    net.layers = torch.nn.Sequential(*(stage[:3] for stage in net.layers))  # which was recorded with one block in each stage
    net, batches = recorded("spikingresformer", net)
    found = snnfast.operations(net, batches, "resformer")
    assert found.MACs == 0 and found.ACs == m["sops_per_image"]
    assert found.energy_mJ == pytest.approx(m["energy_mJ"], rel=1e-12)
    per_layer = {}
    for name, sums in m["layers"].items():
        name = name.replace("matmul1", "products").replace("matmul2", "products")
        per_layer[name] = per_layer.get(name, 0) + sum(sums) / found.images
    assert per_layer == {name: acs for name, (acs, _) in found.layers.items()}


def test_the_printed_energy():
    """13.66 mJ, of the sums in the log of Spikingformer's authors."""
    assert Operations("spikingformer", 1, {"all": (12.513659577e9, 0.520993768e9)}).energy_mJ == pytest.approx(13.658865, abs=5e-7)


class Tiny(DirectNetwork):
    """A stem, a layer of spikes, and one of counts."""

    def __init__(self):
        super().__init__("tiny", 3, 2, 1)
        self.stem, self.fire, self.conv = torch.nn.Conv2d(1, 2, 1), Spikes(), torch.nn.Conv2d(2, 3, 3, padding=1, stride=2)
        self.again, self.fc = Spikes(), torch.nn.Linear(12, 2)

    def features(self, x, T):
        s = self.fire(each_step(self.stem, over_time(x, T)))
        return self.again(each_step(self.conv, s + s)).flatten(2)


def test_each_operation_is_counted_once():
    torch.manual_seed(0)
    net, x = Tiny().eval(), torch.randn(2, 1, 4, 4) * 3
    with torch.no_grad():
        s = net.fire(each_step(net.stem, over_time(x, 3)))
        features = net.features(x, 3)
    by_hand = 0
    for *_, i, j in (s != 0).nonzero().tolist():
        places = (
            sum(0 <= o * 2 + k - 1 == i for o in range(2) for k in range(3)),
            sum(0 <= o * 2 + k - 1 == j for o in range(2) for k in range(3)),
        )
        by_hand += 3 * places[0] * places[1]
    found = snnfast.operations(net, [(x, None)])
    assert found.layers["conv"] == (0, by_hand / 2)  # counts of 2 multiply
    assert found.layers["stem"] == (0, 32)  # once, not at every step
    of_head = features.mean(0)
    assert found.layers["fc"][1] + found.layers["fc"][0] == float((of_head != 0).sum() * 2 / 2)  # the mean over the steps, once
    assert not net.fire._forward_hooks and not net.conv._forward_hooks


def test_the_products_of_attention_are_counted_as_pairs():
    torch.manual_seed(0)
    net = snnfast.models.spikformer_cifar(1, 16, 2, T=2)
    state = {key: torch.rand_like(t) if t.is_floating_point() else t for key, t in net.state_dict().items()}
    net.load_state_dict(state)
    net, x, kept = net.eval(), torch.randn(1, 3, 8, 8), {}
    attn = net.block[0].attn
    hooks = [getattr(attn, f"{p}_lif").register_forward_hook(lambda m, i, s, p=p: kept.__setitem__(p, s.bool())) for p in "qkv"]
    found = snnfast.operations(net, [(x, None)])
    for hook in hooks:
        hook.remove()
    acs = macs = 0
    q, k, v = (kept[p].unflatten(2, (2, -1)) for p in "qkv")
    for t in range(2):
        for h in range(2):
            scores = q[t, 0, h].double().T @ k[t, 0, h].double()
            acs += int(scores.sum())
            for n in range(scores.size(0)):
                for token in range(scores.size(1)):
                    many = int(v[t, 0, h, :, token].sum())
                    acs, macs = acs + many * (scores[n, token] == 1), macs + many * (scores[n, token] > 1)
    assert macs > 0 and found.layers["block.0.attn.products"] == (float(acs), float(macs))


@pytest.mark.parametrize("name", ["sew_resnet18", "sdt_cifar", "sdt_v2", "spikingresformer_cifar", "plif_cifar10", "ms_resnet18"])
@pytest.mark.parametrize("convention", NAMES)
def test_every_family_in_every_convention(name, convention):
    torch.manual_seed(0)
    sizes = {"sdt_cifar": (1, 32, 4), "sdt_v2": ((16, 32, 32, 32), (1, 1), 4)}
    net = getattr(snnfast.models, name)(*sizes.get(name, ()), T=2)
    found = snnfast.operations(net.train(), [(torch.randn(1, 3, 32, 32), None)], convention)
    assert (
        net.training
        and found.images == 1
        and found.ACs >= 0
        and (found.MACs > 0) == (convention != "resformer")
        and convention in str(found)
    )


def test_counts_do_not_depend_on_batches_and_modes_stay():
    torch.manual_seed(0)
    net = snnfast.models.sdt_v2((16, 32, 32, 32), (1, 1), 4, T=2).train()
    net.downsample1_1.encode_bn.eval()
    modes = [m.training for m in net.modules()]
    x = torch.cat([(torch.rand(1, 3, 32, 32) < 0.5).float(), torch.randn(1, 3, 32, 32)])
    for convention in NAMES:
        whole, parts = (snnfast.operations(net, loader, convention) for loader in ([(x, None)], [(x[:1], None), (x[1:], None)]))
        assert min(acs for acs, _ in whole.layers.values()) >= 0
        if convention in ("own", "resformer"):
            assert whole.ACs == pytest.approx(parts.ACs, rel=1e-9) and whole.MACs == pytest.approx(parts.MACs, rel=1e-9)
    assert [m.training for m in net.modules()] == modes


def test_sdts_formula_counts_every_step():
    """A stem that runs once, and a last layer that sees the mean, count T times; a rate of 1 is one of spikes."""
    torch.manual_seed(0)
    net, x = snnfast.models.sew_resnet18(num_classes=10, T=3), torch.randn(1, 3, 32, 32)
    found = snnfast.operations(net, [(x, None)], "sdt")
    assert found.layers["conv1"] == (0.0, 3 * 64 * 16 * 16 * 3 * 49)
    assert found.layers["fc"][0] == pytest.approx(3 * 5120 * share_of_features(net, x)) and found.layers["fc"][1] == 0


def share_of_features(net, x):
    with torch.no_grad():
        return float((net.eval().features(net.constant_part(x), net.T).mean(0) != 0).double().mean())


def test_fans():
    layer = torch.nn.Conv1d(4, 6, 3, groups=2, padding=1)
    assert fan_out(layer, torch.zeros(1, 4, 5)).tolist() == [[6, 9, 9, 9, 6]] * 4
    assert float(fan_out(torch.nn.Linear(3, 7), torch.zeros(1, 3))) == 7


def test_wrong_calls():
    net = snnfast.models.sdt_cifar(1, 32, 4)
    with pytest.raises(TypeError, match="net must be a network that is trained directly, a DirectNetwork, got VGG"):
        snnfast.operations(snnfast.models.vgg11(width=0.1), [])
    with pytest.raises(ValueError, match="convention must be one of 'own', 'spikingformer', 'resformer', 'sdt'; got 'x'"):
        snnfast.operations(net, [], "x")
    for loader in ([torch.zeros(1, 3, 32, 32)], 3):
        with pytest.raises(TypeError, match="loader must"):
            snnfast.operations(net, loader)
    with pytest.raises(ValueError, match="loader gave no images"):
        snnfast.operations(net, [])
