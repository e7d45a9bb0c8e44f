"""The arguments of the commands. Each help fits on a screen."""

import argparse
import functools

from snnfast import models
from snnfast.checkpoints import convolutional
from snnfast.cli import fields
from snnfast.cli.demo import ARCHS
from snnfast.conversion import inputs
from snnfast.conversion.functions import MODES
from snnfast.conversion.method import REGISTRY, Method
from snnfast.conversion.methods import METHODS
from snnfast.data import NAMES as DATA
from snnfast.data import PREPROCESSING
from snnfast.models import direct
from snnfast.models.activation import ALL_NAMES as ACTIVATIONS
from snnfast.models.resnet import STEMS
from snnfast.models.swin import WIRINGS
from snnfast.models.tokens import NORMS
from snnfast.models.vit import SIGNS
from snnfast.runtime.network import STEPS
from snnfast.runtime.number_formats import DTYPES
from snnfast.runtime.sparse_products import KINDS
from snnfast.training import direct_recipes, recipes
from snnfast.training.optimisers import OPTIMISERS
from snnfast.version import __version__

_Help = functools.partial(argparse.HelpFormatter, max_help_position=28, width=110)


def networks():
    """The names that --arch takes, those registered since the start too."""
    return (*models.BY_NAME, *direct.BY_NAME)


def parser(commands):
    """commands: function by name."""
    p = argparse.ArgumentParser(
        prog="snnfast", formatter_class=_Help, description="Spiking networks from trained ones, and their accuracy at any T."
    )
    p.add_argument("--version", action="version", version=__version__)
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    p.epilog = "exit codes: 0 done, 2 an error told in one line, 1 an unexpected one, 130 or 143 stopped (Ctrl-C, SIGTERM)"
    found = p.add_subparsers(required=True, metavar="COMMAND")
    for name, text, usage, add in (
        ("demo", "train, convert and evaluate a small network on digits", "", _demo),
        ("train", "train a network in one or two stages, then evaluate it as a spiking one", "--arch NAME --out FOLDER ", _train),
        ("eval", "evaluate a checkpoint as a spiking network, at every T in one run", "CHECKPOINT ", _eval),
        ("convert", "convert a checkpoint by the simplest method that keeps its answers, and write it", "CHECKPOINT ", _convert),
        ("compare", "compare evaluations: curves, mean and deviation over seeds, paired tests", "RUN RUN ... ", _compare),
        ("trace", "store input, potential and spikes of chosen neurons, and draw them", "CHECKPOINT ", _trace),
        ("diagnose", "find which layer loses the accuracy, and why", "CHECKPOINT ", _diagnose),
        ("web", "train, evaluate, convert, diagnose and compare in a browser", "", _web),
        ("extract", "take the weights out of a file that holds objects too, without running anything", "FILE NEW ", _extract),
        ("info", "what was built, and which kernels serve which device", "", lambda p: None),
    ):
        usage = f"snnfast {name} {usage}[options]"
        c = found.add_parser(name, help=text, usage=usage, description=text[0].upper() + text[1:] + ".", formatter_class=_Help)
        next(a for a in c._actions if a.dest == "help").help = argparse.SUPPRESS  # who reads this knows it
        add(c)
        c.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        c.set_defaults(run=commands[name])
    return p


def _device(p):
    p.add_argument("--device", default="cpu", metavar="D", help="cpu, cuda, cuda:1 ... (default cpu)")


def _data(p, default):
    p.add_argument("--data", choices=DATA, default=default, metavar="NAME",
                   help=", ".join(DATA) + (f" (default {default})" if default else " (default: the checkpoint's)"))  # fmt: skip
    p.add_argument("--data-dir", metavar="FOLDER", help="folder of its files; digits needs none")
    p.add_argument("--download", action="store_true", help="let torchvision fetch CIFAR, and tonic event data")
    p.add_argument("--preprocessing", choices=tuple(PREPROCESSING), metavar="NAME",
                   help=", ".join(PREPROCESSING) + f" (default: the {'data' if default else 'checkpoint'}'s)")  # fmt: skip
    p.add_argument("--workers", type=int, default=0, metavar="N", help="processes that load images (0)")
    _device(p)


def _demo(p):
    _device(p)
    p.add_argument("--T", type=int, help="time steps of the evaluation (default 1024; 64 of a transformer or with several methods)")
    p.add_argument(
        "--methods", metavar="NAMES", help=f"'all', or names separated by commas: {', '.join(METHODS)} (default if; of a transformer stbif)"
    )
    p.add_argument("--arch", choices=tuple(ARCHS), default="vgg", help="the network (default vgg)")
    p.add_argument("--out", metavar="FOLDER", help="folder for the results (default runs/digits, runs/digits-vit, runs/digits-swin)")
    p.add_argument("--seed", type=int, default=0, metavar="N")


def _train(p):
    what = p.add_mutually_exclusive_group(required=True)
    told = ", ".join(models.BY_NAME) + "; trained as spiking ones: " + ", ".join(direct.BY_NAME)
    what.add_argument("--arch", choices=networks(), metavar="NAME", help=told)
    what.add_argument("--model", metavar="M:F", help="package.module:function that returns a network of your own, with ReLUs")
    p.add_argument("--weights", metavar="FILE", help="weights to start from: of --model, or a checkpoint of --arch")
    p.add_argument("--out", required=True, metavar="FOLDER", help="folder for checkpoints, log and report")
    p.add_argument("--recipe", choices=(*recipes.NAMES, direct_recipes.NAME), metavar="NAME",
                   help=f"published settings: {', '.join(recipes.NAMES)} (default thesis); {direct_recipes.NAME}, if spiking")  # fmt: skip
    p.add_argument("--resume", action="store_true", help="go on after the last finished epoch in --out")
    _data(p, "digits")
    p.add_argument("--epochs", type=int, nargs="+", metavar="N", help="of each stage")
    p.add_argument("--lr", type=float, nargs="+", metavar="X",
                   help=f"first rate of each stage.  --optimiser {', '.join(OPTIMISERS)}.  --weight-decay X")  # fmt: skip
    p.add_argument("--optimiser", "--optimizer", choices=OPTIMISERS, help=argparse.SUPPRESS)  # in the line above
    p.add_argument("--weight-decay", type=float, help=argparse.SUPPRESS)
    p.add_argument("--stages", type=int, choices=(1, 2), help="1: stop after the layer-wise stage")
    p.add_argument("--activation", choices=ACTIVATIONS, metavar="NAME", help=f"of stage one: {', '.join(ACTIVATIONS)}")
    p.add_argument("--channel-num", type=int, metavar="N", help="stage two gives only the last N layers a threshold per channel")
    p.add_argument("--levels", type=int, metavar="L", help="quantisation levels")
    p.add_argument("--theta", type=float, metavar="X", help="first threshold")
    p.add_argument("--batch-size", type=int, metavar="B")
    p.add_argument("--memory", metavar="SIZE", help="what the process may take, such as 8GiB or 'auto': what does not fit is refused")
    p.add_argument("--chunk", type=int, metavar="t", help="steps of a spiking network in memory at a time (default: all)")
    p.add_argument("--width", type=float, metavar="X", help="factor on all channel counts (default 1)")
    p.add_argument("--stem", choices=STEMS, help="of a ResNet (default cifar)")
    p.add_argument("--dropout", type=float, metavar="X", help="of a VGG (default 0)")
    p.add_argument("--amp", choices=("fp32", "bf16", "fp16"), default="fp32", help="mixed precision")
    p.add_argument("--seed", type=int, default=0, metavar="N")
    p.add_argument("--masking", type=float, metavar="X", help="share of spikes that is masked at random, in [0, 1)")
    p.add_argument("--method", choices=METHODS, metavar="NAME", help="of the evaluation at the end")
    p.add_argument("--mode", choices=MODES, help="its mode")
    p.add_argument("--T", type=int, help="its time steps (64; a spiking network's own, in training too); frames")
    p.add_argument("--smoothing", type=float, metavar="X", help="of labels.  --mixup X, --cutmix X: alpha of mixed images (0)")
    p.add_argument("--mixup", type=float, help=argparse.SUPPRESS)  # in the line above
    p.add_argument("--cutmix", type=float, help=argparse.SUPPRESS)
    p.add_argument("--tet", type=float, metavar="X", help="the loss of every time step (TET), with this lambda; of spiking networks")
    p.add_argument("--teacher", metavar="FILE", help="or M:F, to learn from too.  --distil X: its share (0.5), --temperature X, --hard")
    p.add_argument("--distil", type=float, help=argparse.SUPPRESS)  # in the line above
    p.add_argument("--temperature", type=float, help=argparse.SUPPRESS)
    p.add_argument("--hard", action="store_true", default=None, help=argparse.SUPPRESS)
    own = p.add_argument_group("of a transformer")
    own.add_argument("--patch-size", type=int, metavar="N", help="in pixels")
    own.add_argument("--dim", type=int, metavar="N", help="features")
    own.add_argument("--depth", type=int, nargs="+", metavar="N", help="blocks (of a Swin: of each stage)")
    own.add_argument("--heads", type=int, nargs="+", metavar="N", help="attention heads (of a Swin: of each stage)")
    own.add_argument("--window", type=int, metavar="N", help="tokens a side of a Swin's window")
    own.add_argument("--norm", choices=NORMS, help="layer norm or batch norm (default ln)")
    own.add_argument("--wiring", choices=WIRINGS, help="of a Swin: mst for the Masked Spiking Transformer")
    own.add_argument("--drop-path", type=float, metavar="X", help="stochastic depth of the last block")


def _checkpoint(p):
    """A checkpoint, its data, its conversion."""
    p.description += " CHECKPOINT: of snnfast, or of a --family."
    p.add_argument("checkpoint", nargs="?", help=argparse.SUPPRESS)
    _data(p, None)
    p.add_argument("--method", choices=METHODS, metavar="NAME", help=", ".join(METHODS) + " (if)")
    p.add_argument(
        "--mode",
        choices=MODES,
        metavar="NAME",
        help="per_step or differential, of stbif and quanta (default with a softmax or the like)",
    )
    p.add_argument("--T", type=int, default=STEPS, help=f"time steps (default {STEPS})")


def conversion_flags():
    """{option of `convert`: keywords of its flag}: the fields of the inputs and of every registered method."""
    of_inputs, found = {(kind, field): option for option, (kind, field) in inputs.OPTIONS.items()}, {}
    for kind in inputs.KINDS.values():
        found |= {of_inputs[kind.name, field]: how | dict(help=f"{kind.__name__}: {how['help']}") for field, how in fields.flags_of(kind)}
    found |= dict(fields.flags_of(Method))
    for cls, own in REGISTRY.values():
        for field, how in fields.flags_of(cls):
            if field not in own and field not in found:
                of = dict.fromkeys(other.__name__ for other, _ in REGISTRY.values() if field in other.__dataclass_fields__)
                found[field] = how | dict(help=f"{', '.join(of)}: {how['help']}")
    return found


def _conversion(p):
    own = p.add_argument_group("of the method")
    own.add_argument("--inputs", choices=tuple(inputs.KINDS), metavar="NAME", help=", ".join(inputs.KINDS) + ": how the image comes in")
    for name, how in conversion_flags().items():
        own.add_argument("--" + name.replace("_", "-"), **how)
    net = p.add_argument_group("of a network of your own, whose weights CHECKPOINT holds")
    net.add_argument("--model", metavar="M:F", help="package.module:function that returns it, such as torchvision.models:resnet18")
    net.add_argument("--calibrate", metavar="FOLDER", help="pictures that set the thresholds of ReLUs (at most 512), or 'train'")
    net.add_argument("--percentile", type=float, metavar="X", help="of what they give, the threshold (99.9)")
    net.add_argument("--per-channel", action="store_true", help="a threshold for each channel")
    net.add_argument("--neuron-levels", type=int, metavar="N", help="differential: levels of each neuron (32)")
    net.add_argument("--read", metavar="NAME", help="of several outputs the one that is read")
    file = p.add_argument_group("what other programs' files do not say")
    file.add_argument("--arch", choices=networks(), metavar="NAME", help="of the network; of a spiking one --heads N, --connect NAME too")
    file.add_argument("--heads", type=int, help=argparse.SUPPRESS)  # in the line above
    file.add_argument("--connect", help=argparse.SUPPRESS)
    file.add_argument("--levels", type=int, metavar="L", help="quantisation levels it was trained with")
    file.add_argument("--num-classes", type=int, help=argparse.SUPPRESS)  # in the line of --image-size
    file.add_argument("--family", choices=convolutional.FAMILIES, default="auto", metavar="NAME", help=", ".join(convolutional.FAMILIES))
    file.add_argument("--threshold", choices=convolutional.THRESHOLDS, metavar="NAME", help="of a CS-QCFS file: softplus(up) or up itself")
    file.add_argument("--signs", choices=SIGNS, metavar="NAME", help="which levels of a SpikeZIP file have a sign: " + ", ".join(SIGNS))
    file.add_argument("--key", metavar="NAME", help="entry of the file with the weights, such as state_dict_ema")
    file.add_argument("--image-size", type=int, metavar="N, --width X, --num-classes N")
    file.add_argument("--width", type=float, help=argparse.SUPPRESS)  # in the line above, so that the help fits on a screen


def _own_steps(p):
    p.set_defaults(T=None)
    told = f"time steps, of event data frames (default {STEPS}, or a spiking network's own)"
    next(a for a in p._actions if a.dest == "T").help = told


def _eval(p):
    _checkpoint(p)
    _own_steps(p)
    p.usage, p.description = f"{p.usage}\n{p.description}", None  # a line less, so that it fits on a screen
    p.add_argument("--at", nargs="+", metavar="t", help="steps to read, or 'all' (default 1, 2, 4, ... T)")
    p.add_argument("--out", metavar="FOLDER", help="for the results (default runs/eval/CHECKPOINT-DATA-METHOD-T)")
    p.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    p.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    p.add_argument("--memory", metavar="SIZE", help="what the process may take, such as 8GiB, or 'auto'")
    p.add_argument("--batch-size", type=int, metavar="B", help="images at a time (default: chosen)")
    p.add_argument("--chunk", type=int, metavar="t", help="steps at a time (default: chosen)")
    p.add_argument("--dtype", choices=DTYPES, default="fp32", metavar="NAME", help=f"of matrix products: {', '.join(DTYPES)}")
    p.add_argument(
        "--products", choices=KINDS, metavar="NAME", help="sparse (skip zeros; the default on a CPU), exact (integers) or dense (torch's)"
    )
    p.add_argument("--deterministic", action="store_true", help="results that do not depend on batch, chunk, threads; slower")
    p.add_argument("--cuda-graphs", action="store_true", help="capture the loop over time on a GPU")
    p.add_argument("--images", type=int, metavar="N", help="only the first N images")
    p.add_argument("--statistics", action="store_true", help="unevenness, firing rates, SOPs, energy, seconds per layer")
    p.add_argument("--start-stop", action="store_true", help="read delayed outputs too: a matrix of first and last steps")
    p.add_argument("--save-predictions", action="store_true", help="class and margin per image and step")
    p.add_argument("--log-json", metavar="FILE", help="append what is done, every ten seconds, as lines of JSON")
    _conversion(p)


def _compare(p):
    p.add_argument("runs", nargs="+", metavar="RUN", help="folder of an evaluation, or NAME=FOLDER,FOLDER... of one method's seeds")
    p.add_argument("--out", default="runs/compare", metavar="FOLDER", help="for compare.{csv,tex,pdf,png} (default runs/compare)")
    p.add_argument("--overwrite", action="store_true", help="replace what is in --out")


def _convert(p):
    _checkpoint(p)
    next(a for a in p._actions if a.dest == "method").help = ", ".join(METHODS) + " (default: chosen)"
    p.add_argument("--energy", type=float, metavar="X", help="the most it may take of the network's energy, to choose within")
    p.add_argument("--images", type=int, default=64, metavar="N", help="by which it is chosen, at most 256 (default 64)")
    p.add_argument("--out", metavar="FILE", help="the converted network (default runs/convert/CHECKPOINT-T64.pt)")
    p.add_argument("--overwrite", action="store_true", help="replace --out")
    _conversion(p)


def _diagnose(p):
    _checkpoint(p)
    p.add_argument("--images", type=int, default=64, metavar="N", help="the first N images of the test set (default 64)")
    p.add_argument("--out", default="runs/diagnose", metavar="FOLDER", help="for diagnosis.csv and diagnosis.png (default runs/diagnose)")
    p.add_argument("--overwrite", action="store_true", help="replace what is in --out")
    _conversion(p)


def _web(p):
    p.add_argument(
        "--workspace", default="snnfast-web", metavar="FOLDER", help="folder of its records, runs and files (default snnfast-web)"
    )
    p.add_argument("--host", default="127.0.0.1", metavar="NAME", help="where it is seen (default 127.0.0.1: this machine alone)")
    p.add_argument("--port", type=int, metavar="N", help="default: the first that is free from 7860 on")
    p.add_argument("--devices", nargs="+", metavar="D", help="that runs may take, a queue each (default: the CPU and every GPU)")
    p.add_argument("--data-dir", metavar="FOLDER", help="folder of the data sets; without one there are the digits alone")
    p.add_argument("--passwords", metavar="FILE", help="who may come; needed where other machines see it")
    p.add_argument("--add-user", metavar="NAME", help="add somebody to --passwords, and end; the password is asked for, or read from stdin")


def _extract(p):
    p.add_argument("file", help="a checkpoint that safe loading refuses")
    p.add_argument("new", help="the file to write, which it takes")


def _trace(p):
    _checkpoint(p)
    _own_steps(p)
    p.add_argument("--layers", nargs="+", metavar="NAME", help="neuron layers (default: all)")
    p.add_argument("--images", type=int, nargs="+", default=[0], metavar="i", help="numbers of images of the test set (default 0)")
    p.add_argument("--neurons", type=int, default=32, metavar="N", help="of each layer, spread over it; 0: all (default 32)")
    p.add_argument("--out", default="runs/trace", metavar="FOLDER", help="for trace.npz and pictures (default runs/trace)")
    p.add_argument("--overwrite", action="store_true", help="replace what is in --out")
    _conversion(p)
