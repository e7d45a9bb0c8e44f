"""A hundred wrong calls of what takes networks, images and files: one line, which names the argument, what was given and what is allowed."""

import os
import tempfile

import pytest
import torch
from torch import nn

import snnfast
from snnfast import convert, evaluate
from snnfast.conversion import Percentile
from snnfast.nn import QCFS as Q

net = nn.Sequential(nn.Conv2d(3, 4, 3), Q(4, 1.0), nn.Flatten(), nn.Linear(144, 5))
relu = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
X, Y = torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)
L = [(X, Y)]
snn, ext = convert(net), convert(relu, calibrate=X)
FOLDER = tempfile.TemporaryDirectory()  # of this run alone
FILE = os.path.join(FOLDER.name, "never-written.pt")


def spoilt():
    """A network with NaN in its weights."""
    found = nn.Sequential(nn.Linear(3, 4), Q(4, 1.0), nn.Linear(4, 2))
    nn.init.constant_(found[0].weight, float("nan"))
    return found


WRONG = [
    (TypeError, "net must be a torch.nn.Module, got str", lambda: convert("vgg16")),
    (TypeError, "net must be a torch.nn.Module, got OrderedDict", lambda: convert(net.state_dict())),
    (TypeError, "net must be a torch.nn.Module, got type", lambda: convert(nn.Linear)),
    (ValueError, "method must be one of 'if', 'stbif', 'snm', 'srp', 'srp+stbif', 'srp+snm', 'cos'", lambda: convert(net, "iff")),
    (ValueError, "method must be one of 'if', 'stbif', 'snm', 'srp', 'srp+stbif', 'srp+snm', 'cos'", lambda: convert(net, 3)),
    (ValueError, "mode must be one of 'per_step', 'differential'; got 'diff'", lambda: convert(net, mode="diff")),
    (ValueError, "mode must be one of 'per_step', 'differential'; got 3", lambda: convert(net, mode=3)),
    (ValueError, "inputs must be one of 'constant', 'poisson', 'analog', 'rate'; got 'poison'", lambda: convert(net, inputs="poison")),
    (ValueError, "inputs must be one of 'constant', 'poisson', 'analog', 'rate'; got 3", lambda: convert(net, inputs=3)),
    (TypeError, "calibrate must be images [B, ...] or an iterable of batches, got int", lambda: convert(relu, calibrate=3)),
    (TypeError, "calibrate must be a torch.Tensor, got str", lambda: convert(relu, calibrate="images")),
    (ValueError, "calibrate gave no images", lambda: convert(relu, calibrate=[])),
    (ValueError, "calibrate gave no images", lambda: convert(relu, calibrate=X[:0])),
    (ValueError, "net does not run on an image of calibrate= ([1, 8, 8], float32, on cpu", lambda: convert(relu, calibrate=X[0])),
    (
        ValueError,
        "net does not run on an image of calibrate= ([1, 1, 8, 8], float32, on cpu",
        lambda: convert(relu, calibrate=torch.rand(4, 1, 8, 8)),
    ),
    (ValueError, "net does not run on an image of calibrate= ([1, 3, 8, 8], float64, on cpu)", lambda: convert(relu, calibrate=X.double())),
    (
        TypeError,
        "calibrate has dtype uint8; allowed: float16, bfloat16, float32, float64",
        lambda: convert(relu, calibrate=(X * 255).to(torch.uint8)),
    ),
    (
        ValueError,
        "the activations of 1 (ReLU) are not finite on the calibration data",
        lambda: convert(relu, calibrate=torch.full_like(X, float("nan"))),
    ),
    (TypeError, "calibrate has dtype int64; allowed: float16, bfloat16, float32, float64", lambda: convert(relu, calibrate=(X, Y))),
    (TypeError, "calibrate must be a torch.Tensor, got str", lambda: convert(relu, calibrate=["a", "b"])),
    (TypeError, "calibrate must be a torch.Tensor, got NoneType", lambda: convert(relu, calibrate=[None])),
    (
        ValueError,
        "calibrate must be images of one shape and dtype; one of a batch is [3, 9, 9], fl",
        lambda: convert(relu, calibrate=[X, torch.rand(4, 3, 9, 9)]),
    ),
    (ValueError, "percentile must be in (0, 100], got 0", lambda: convert(relu, calibrate=X, percentile=0)),
    (ValueError, "percentile must be in (0, 100], got 101", lambda: convert(relu, calibrate=X, percentile=101)),
    (TypeError, "percentile must be a number, got str", lambda: convert(relu, calibrate=X, percentile="99")),
    (ValueError, "percentile, per_channel and levels are of calibrate=, images that set the thresh", lambda: convert(net, percentile=99)),
    (
        ValueError,
        "per_channel must be one of None, False, True, 'neuron'; got 'channels'",
        lambda: convert(relu, calibrate=X, per_channel="channels"),
    ),
    (ValueError, "levels must be >= 1, got 0", lambda: convert(relu, calibrate=X, mode="differential", levels=0)),
    (TypeError, "levels must be an int, got float", lambda: convert(relu, calibrate=X, mode="differential", levels=4.5)),
    (ValueError, "maxpool must be one of 'difference', 'gated', 'average'; got 'max'", lambda: convert(net, maxpool="max")),
    (ValueError, "output must be one of 'values', 'spikes'; got 'spike'", lambda: convert(net, output="spike")),
    (ValueError, "output='spikes' needs calibrate=, images that set the threshold of the neuron be", lambda: convert(net, output="spikes")),
    (TypeError, "sample must be a torch.Tensor, got list", lambda: convert(net, sample=[1, 2])),
    (TypeError, "sample must be a torch.Tensor, got ndarray", lambda: convert(net, sample=X.numpy())),
    (ValueError, "sample must be images [1 or more, ...], got shape (0, 3, 8, 8)", lambda: convert(net, sample=X[:0])),
    (ValueError, "net does not run on an image of sample= ([1, 8, 8], float32, on cpu", lambda: convert(net, sample=X[0])),
    (
        ValueError,
        "net does not run on an image of sample= ([1, 1, 8, 8], float32, on cpu",
        lambda: convert(net, sample=torch.rand(4, 1, 8, 8)),
    ),
    (
        TypeError,
        "sample has dtype uint8; allowed: float16, bfloat16, float32, float64",
        lambda: convert(net, sample=(X * 255).to(torch.uint8)),
    ),
    (TypeError, "read must be the name of an output, a str such as 'out' or '0', got int", lambda: convert(net, sample=X, read=0)),
    (ValueError, "read names one of several outputs, and net gives a single tensor, got 'out'", lambda: convert(net, sample=X, read="out")),
    (TypeError, "neuron must be what snnfast.neuron returned, got str", lambda: convert(net, neuron="lif")),
    (TypeError, "v0 must be a number, got str", lambda: convert(net, v0="half")),
    (ValueError, "v0 must be finite, got nan", lambda: convert(net, v0=float("nan"))),
    (ValueError, "v0 names x, which is no activation of net; its activations: 1", lambda: convert(net, v0={"x": 0.3})),
    (ValueError, "tau is an option of other methods, not of 'if'", lambda: convert(net, tau=4)),
    (ValueError, "tau must be >= 1, got 0", lambda: convert(net, "srp", tau=0)),
    (TypeError, "tau must be an int, got float", lambda: convert(net, "srp", tau=2.5)),
    (ValueError, "rho must be >= 1, got -1", lambda: convert(net, "cos", rho=-1)),
    (ValueError, "mask must be one of 'authors', 'paper'; got 'none'", lambda: convert(net, "srp", mask="none")),
    (ValueError, "seed must be >= 0, got -1", lambda: convert(net, inputs="poisson", seed=-1)),
    (ValueError, "amplitude must be > 0 and finite, got 0", lambda: convert(net, inputs="poisson", amplitude=0)),
    (ValueError, "seed is of inputs='poisson'", lambda: convert(net, seed=3)),
    (TypeError, "convert got unexpected options: timesteps", lambda: convert(net, timesteps=4)),
    (ValueError, "input_steps must be >= 1, got 0", lambda: convert(net, inputs="rate", input_steps=0)),
    (TypeError, "strict must be True or False, got str", lambda: convert(net, strict="yes")),
    (ValueError, "net has no quantised activation; for its ReLUs give calibrate=, images that set ", lambda: convert(relu)),
    (ValueError, "net has no quantised activation (snnfast.nn.QCFS and its kin) and no ReLU to put", lambda: convert(nn.Linear(3, 4))),
    (ValueError, "0.weight of net has 12 of 12 numbers that are not finite (NaN or infinity)", lambda: convert(spoilt())),
    (TypeError, "net is converted already: give the network that it was converted from", lambda: convert(snn)),
    (ValueError, "caps must be (n_min, p_max), got 3", lambda: convert(net, "stbif", caps=3)),
    (TypeError, "x must be a torch.Tensor, got list", lambda: snn.logits([1], 4)),
    (ValueError, "x must be a batch of images [B, 3, H, W], with B >= 1, got shape (3, 8, 8); for ", lambda: snn.logits(X[0], 4)),
    (
        ValueError,
        "x must be a batch of images [B, 3, H, W], with B >= 1, got shape (4, 1, 8, 8)",
        lambda: snn.logits(torch.rand(4, 1, 8, 8), 4),
    ),
    (
        ValueError,
        "x must be a batch of images [B, 3, 8, 8], as net was captured with, with B >= 1,",
        lambda: ext.logits(torch.rand(4, 3, 9, 9), 4),
    ),
    (
        ValueError,
        "x of shape (4, 3, 9, 9) does not pass through the network: x has 196 channels, b",
        lambda: snn.logits(torch.rand(4, 3, 9, 9), 4),
    ),
    (ValueError, "x must be a batch of images [B, 3, H, W], with B >= 1, got shape (0, 3, 8, 8)", lambda: snn.logits(X[:0], 4)),
    (TypeError, "x has dtype float64, but the network's weights float32: convert one of them", lambda: snn.logits(X.double(), 4)),
    (TypeError, "x has dtype int64; allowed: float16, bfloat16, float32, float64", lambda: snn.logits((X * 255).long(), 4)),
    (ValueError, "T must be >= 1, got 0", lambda: snn.logits(X, 0)),
    (TypeError, "T must be an int, got float", lambda: snn.logits(X, 4.0)),
    (TypeError, "T must be an int, got str", lambda: snn.logits(X, "4")),
    (ValueError, "at must be increasing steps between 1 and T = 4, got [5]", lambda: snn.logits(X, 4, at=[5])),
    (ValueError, "at must be increasing steps between 1 and T = 4, got [2, 1]", lambda: snn.logits(X, 4, at=[2, 1])),
    (TypeError, "at must be a list of steps, got int", lambda: snn.logits(X, 4, at=2)),
    (ValueError, "at must be increasing steps between 1 and T = 4, got []", lambda: snn.logits(X, 4, at=[])),
    (ValueError, "chunk must be >= 1, got 0", lambda: snn.logits(X, 4, chunk=0)),
    (
        ValueError,
        "x, a weight or a threshold requires a gradient, which does not go through chunks of a run: call it under torch.no_grad(), ",
        lambda: list(snn.chunks(X.clone().requires_grad_(), 4)),
    ),
    (ValueError, "x is on meta, but the network's weights are on cpu: move one of them", lambda: snn.logits(X.to("meta"), 4)),
    (ValueError, "T must be >= 1, got -1", lambda: snn(X, T=-1)),
    (TypeError, "snn must be what snnfast.convert returned, got Sequential", lambda: evaluate(net, L)),
    (TypeError, "snn must be what snnfast.convert returned, got list", lambda: evaluate(L, snn)),
    (TypeError, "loader must be a data set or an iterable of (images, labels), got int", lambda: evaluate(snn, 3)),
    (TypeError, "loader must give (images, labels), got Tensor: labels are needed", lambda: evaluate(snn, X)),
    (ValueError, "loader gave no images", lambda: evaluate(snn, [])),
    (TypeError, "loader must give (images, labels), got Tensor: labels are needed", lambda: evaluate(snn, [X])),
    (TypeError, "labels must be whole numbers, got dtype float32", lambda: evaluate(snn, [(X, Y.float())], T=2)),
    (
        ValueError,
        "labels must be a tensor [B] beside images [B, ...] of shape (4, 3, 8, 8), got sh",
        lambda: evaluate(snn, [(X, Y[:2])], T=2),
    ),
    (ValueError, "the label of image 0 is 5, but the network has 5 classes", lambda: evaluate(snn, [(X, Y + 5)], T=2)),
    (
        ValueError,
        "labels must be a tensor [B] beside images [B, ...] of shape (4, 3, 8, 8), got sh",
        lambda: evaluate(snn, [(X, torch.eye(5)[:4])], T=2),
    ),
    (
        ValueError,
        "images must be a batch of images [B, 3, H, W], with B >= 1, got shape (1, 8, 8) ",
        lambda: evaluate(snn, [(torch.rand(4, 1, 8, 8), Y)], T=2),
    ),
    (
        TypeError,
        "images have dtype float64, but the network's weights float32: convert one of the",
        lambda: evaluate(snn, [(X.double(), Y)], T=2),
    ),
    (ValueError, "image 0 has values that are not finite", lambda: evaluate(snn, [(X * float("nan"), Y)], T=2)),
    (ValueError, "T must be >= 1, got 0", lambda: evaluate(snn, L, T=0)),
    (ValueError, "at must be increasing steps between 1 and T = 4, got [8]", lambda: evaluate(snn, L, T=4, at=[8])),
    (
        ValueError,
        "memory must be 'auto', a number of bytes or a text such as '8GiB' or '500MB', go",
        lambda: evaluate(snn, L, T=4, memory="lots"),
    ),
    (
        ValueError,
        "memory must be 'auto', a number of bytes or a text such as '8GiB' or '500MB', go",
        lambda: evaluate(snn, L, T=4, memory=-1),
    ),
    (
        TypeError,
        "ann must be the network that snn was converted from, a torch.nn.Module, got str",
        lambda: evaluate(snn, L, T=4, ann="net"),
    ),
    (
        ValueError,
        "ann must give logits [4, 5], as snn does, got shape (4, 7)",
        lambda: evaluate(snn, L, T=4, ann=nn.Sequential(nn.Flatten(), nn.Linear(192, 7))),
    ),
    (ValueError, "ann does not run on images [4, 3, 8, 8]", lambda: evaluate(snn, L, T=4, ann=nn.Linear(3, 5))),
    (ValueError, "batch must be >= 1, got 0", lambda: evaluate(snn, torch.utils.data.TensorDataset(X, Y), T=4, batch=0)),
    (TypeError, "chunk must be an int, got str", lambda: evaluate(snn, L, T=4, chunk="8")),
    (ValueError, "device gpu", lambda: evaluate(snn, L, T=4, device="gpu")),
    (ValueError, "device cuda: Torch not compiled with CUDA enabled", lambda: evaluate(snn, L, T=4, device="cuda")),
    (ValueError, "dtype must be one of 'fp32', 'tf32', 'bf16', 'fp16', 'author'; got 'int8'", lambda: evaluate(snn, L, T=4, dtype="int8")),
    (
        ValueError,
        "dtype must be one of 'fp32', 'tf32', 'bf16', 'fp16', 'author'; got torch.float16",
        lambda: evaluate(snn, L, T=4, dtype=torch.float16),
    ),
    (ValueError, "products must be one of 'sparse', 'exact', 'dense'; got 'fast'", lambda: evaluate(snn, L, T=4, products="fast")),
    (TypeError, "deterministic must be True or False, got str", lambda: evaluate(snn, L, T=4, deterministic="no")),
    (ValueError, "graphs are of CUDA devices, and the device is cpu", lambda: evaluate(snn, L, T=4, graphs=True)),
    (
        TypeError,
        "statistics must be True, False or a snnfast.evaluation.statistics.Statistics, go",
        lambda: evaluate(snn, L, T=4, statistics="all"),
    ),
    (ValueError, "resume and overwrite are of a folder of finished batches: give progress=", lambda: evaluate(snn, L, T=4, resume=True)),
    (ValueError, "workers must be >= 0, got -1", lambda: evaluate(snn, torch.utils.data.TensorDataset(X, Y), T=4, workers=-1)),
    (TypeError, "on_chunk must be a function or None, got int", lambda: evaluate(snn, L, T=4, on_chunk=3)),
    (
        TypeError,
        "net must be a torch.nn.Module, got dict",
        lambda: snnfast.save_checkpoint(FILE, {"w": X}),
    ),
    (
        TypeError,
        "fact when is a Tensor; safe loading takes numbers, strings, booleans, lists and ",
        lambda: snnfast.save_checkpoint(FILE, snn, when=X),
    ),
    (FileNotFoundError, "path /nowhere/x.pt: there is no folder /nowhere", lambda: snnfast.save_checkpoint("/nowhere/x.pt", snn)),
    (TypeError, "path must be the name of a file, got int", lambda: snnfast.load_checkpoint(3)),
    (TypeError, "net must be a torch.nn.Module, got str", lambda: snnfast.load_weights("net", "/tmp/x")),
    (TypeError, "net must be a torch.nn.Module, got int", lambda: snnfast.to_channelwise(3)),
    (TypeError, "sample must be a torch.Tensor, got int", lambda: snnfast.to_channelwise(net, sample=3)),
    (ValueError, "net does not run on sample= [2, 9]", lambda: snnfast.to_channelwise(net, sample=torch.rand(2, 9))),
    (ValueError, "channel_num must be >= 0, got -1", lambda: snnfast.to_channelwise(net, -1, X)),
    (TypeError, "model must be a torch.nn.Module, got int", lambda: snnfast.accelerate(3)),
    (ValueError, "data must be one of 'digits', 'cifar10', 'cifar100', 'tiny-imagenet', 'imagefold", lambda: snnfast.data.load("mnist")),
    (ValueError, "data folder /nowhere is not there", lambda: snnfast.data.load("cifar10", "/nowhere")),
    (ValueError, "levels must be >= 1, got 0", lambda: Q(0)),
    (ValueError, "theta must be > 0 and finite, got -1.0", lambda: Q(4, -1.0)),
    (ValueError, "grad must be one of 'qcfs', 'srp', 'paper'; got 'ste'", lambda: Q(4, 1.0, "ste")),
    (TypeError, "channels must be an int, got str", lambda: snnfast.nn.CQCFS("8")),
    (ValueError, "theta must be > 0 and finite, got 0.0 (1 of 1 thresholds)", lambda: snnfast.nn.IF(theta=0.0)),
    (ValueError, "width must be > 0 and finite, got 0", lambda: snnfast.models.vgg11(width=0)),
    (
        ValueError,
        "image_size must be a multiple of 32, because five poolings halve it; got 33",
        lambda: snnfast.models.vgg11(image_size=33),
    ),
    (
        ValueError,
        "activation must be one of 'qcfs', 's-qcfs', 'e-qcfs', 'c-qcfs', 'cs-qcfs', 'ce-q",
        lambda: snnfast.models.vgg11(activation="relu"),
    ),
    (ValueError, "q must be in (0, 100], got -3", lambda: convert(relu, calibrate=Percentile(X, q=-3))),
    (TypeError, "calibrate must be images [B, ...] or an iterable of batches, got type", lambda: convert(relu, calibrate=Percentile)),
    (TypeError, "rungs must be a function of a layer, got int", lambda: snnfast.nn.register_quantised(nn.ReLU, 3)),
]


@pytest.mark.parametrize("kind, message, call", WRONG, ids=[f"{i}-{m[:50]}" for i, (_, m, _) in enumerate(WRONG)])
def test_it_is_told_in_one_line(kind, message, call):
    images, weights = X.clone(), [t.clone() for t in (*net.state_dict().values(), *relu.state_dict().values())]
    with pytest.raises(kind) as raised:
        call()
    told = str(raised.value)
    assert told.startswith(message) and "\n" not in told and len(told) < 400
    assert type(raised.value) is kind and not os.path.exists(FILE)
    assert torch.equal(X, images) and all(map(torch.equal, weights, (*net.state_dict().values(), *relu.state_dict().values())))


def test_there_are_a_hundred():
    assert len(WRONG) >= 100
