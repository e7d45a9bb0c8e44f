"""`--model package.module:function`: a network of one's own on the command line, its weights, and images that set its thresholds."""

import functools
import importlib
import inspect
import os
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Subset

from snnfast import checks
from snnfast import data as data_sets
from snnfast.checkpoints import weights
from snnfast.checkpoints.own import WEIGHTS
from snnfast.conversion.convert import convert
from snnfast.conversion.direct import is_direct
from snnfast.data.preprocessing import preprocessing_of
from snnfast.graph import guard
from snnfast.models import replaced
from snnfast.nn import is_quantised
from snnfast.runtime.network import SpikingNetwork
from snnfast.system.text import first_line, plain

MOST = dict(classes=100_000, channels=1024)  # that a file may say of its data
MOST_IMAGES = 512  # that set thresholds, spread over those there are
FLAGS = ("calibrate", "percentile", "per_channel", "neuron_levels", "read")
# Flags of checkpoints that say what network they hold.
NOT_OURS = ("arch", "levels", "family", "threshold", "signs", "width", "heads", "connect")


def network(args):
    """The network that the function returns, with the weights of the file."""
    given = [name for name in NOT_OURS if getattr(args, name) not in (None, "auto")]
    if given:
        more = "; --neuron-levels is the one of its neurons" if given[0] == "levels" else ""
        raise ValueError(f"--{given[0]} is for a checkpoint that holds a network of snnfast.models, and --model gives another{more}")
    if args.key is not None and args.checkpoint is None:
        raise ValueError("--key names an entry of a file of weights: give CHECKPOINT")
    file = None if args.checkpoint is None else weights.read(args.checkpoint)
    told = _told(file)
    given = {} if args.num_classes is None else {"num_classes": args.num_classes}
    if args.num_classes is None and "classes" in told:
        given = _classes(args.model, _few("classes", told["classes"], args))
    net = made(args.model, given | _channels(args.model, _few("channels", told.get("channels", 3), args)))
    if "data" in told and args.data in (None, told["data"]):  # of other data the file says nothing
        args.data, args.preprocessing = told["data"], args.preprocessing or told.get("preprocessing")
    if args.checkpoint is not None:
        weights.put_file(net, file, args.checkpoint, args.key)
    return net.float().eval()


def _told(file):
    """What a file of `snnfast train --model` says of its data; of other files nothing."""
    facts = file.get("facts") if isinstance(file, dict) and file.get("format") == WEIGHTS else None
    return facts if isinstance(facts, dict) else {}


def _few(name, value, args):
    """A number that a file says, of which a network is made: a wrong one shall not take the machine's memory."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST[name]:
        raise ValueError(
            f"{args.checkpoint} says that its data have {plain(repr(value), 60)} {name}; 1 to {MOST[name]} are read from a file"
        )
    return value


def _classes(model, classes):
    """The number of classes as an argument of the function, where it takes one."""
    given = inspect.signature(function_of(model)).parameters
    takes = "num_classes" in given or inspect.Parameter.VAR_KEYWORD in {p.kind for p in given.values()}
    return {"num_classes": classes} if takes else {}


def _channels(model, channels):
    """The channels of an image as an argument of timm's function, where they are not three."""
    of_timm = model.startswith("timm:") and isinstance(function_of(model), functools.partial)
    return {"in_chans": channels} if of_timm and channels != 3 else {}


def function_of(model):
    """The function that `package.module:function` names; with "timm:NAME" what makes timm's model of that name."""
    module, _, function = model.partition(":")
    if not module or not function or module.startswith("."):
        raise ValueError(f"--model takes package.module:function, got {model!r}")
    if os.getcwd() not in sys.path:  # as `python -m` has it
        sys.path.insert(0, os.getcwd())
    data_sets.declare_operators()  # before a module imports torchvision
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not module.startswith(error.name):
            raise ValueError(f"--model: {module} needs {error.name}, which is not installed") from error
        raise ValueError(f"--model: there is no module {error.name}, neither installed nor in {os.getcwd()}") from error
    except (Exception, SystemExit) as error:  # of any kind: it is another's program
        raise ValueError(f"--model: {module} fails when it is imported: {type(error).__name__}: {first_line(error)}") from error
    make = getattr(found, function, None)
    if (
        module == "timm" and make is None and found.is_model(function)
    ):  # of its names, those that stand before a dot are functions of timm.models
        return functools.partial(found.create_model, function)
    if not callable(make):
        raise ValueError(f"--model: {module} has no function {function}")
    return make


def made(model, given):
    """The network that the function returns for these arguments."""
    make = function_of(model)
    try:
        inspect.signature(make).bind(**given)
    except TypeError as error:
        how = " and ".join(f"{name}={value}" for name, value in given.items())
        raise ValueError(f"--model: {model} is called {f'with {how}' if given else 'without arguments'}: {error}") from error
    try:
        net = make(**given)
    except (Exception, SystemExit) as error:  # of any kind: it is another's program
        raise ValueError(f"--model: {model} fails: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(net, torch.nn.Module):
        raise ValueError(f"--model: {model} must return a torch.nn.Module, got {type(net).__name__}")
    return net


def for_training(args, settings, data):
    """The network that `snnfast train --model` starts with: with as many classes as the data, weights of a file, and quantised activations in place
    of its ReLUs. It is tried on an image, and converted, before anything runs."""
    torch.manual_seed(settings.seed)
    net = made(args.model, _classes(args.model, data.classes) | _channels(args.model, data.channels)).float().eval()
    if args.weights is not None:
        weights.load_weights(net, args.weights)
    x = data.test[0][0][None]
    guard.check_runs(net, x, "--data")
    if is_direct(net) != settings.is_spiking():
        other = "a network that is trained as a spiking one: give --recipe authors"
        other = other if is_direct(net) else "no network that is trained as a spiking one: --recipe authors is of those"
        raise ValueError(f"--model: {args.model} returns {other}")
    relus, quantised = (any(map(kind, net.modules())) for kind in (replaced.is_relu, is_quantised))
    if not settings.is_spiking() and (relus or not quantised):
        net = replaced.to_quantised(net, settings.activation, settings.levels, settings.theta, sample=x)
    with torch.no_grad():
        y = net(x)
    if not isinstance(y, torch.Tensor) or y.shape != (1, data.classes):
        got = list(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
        raise ValueError(
            f"--model: {args.model} gives {got} for an image; training takes logits [1, {data.classes}], the classes of {args.data}"
        )
    return net


def is_spiking(net):
    """Whether it is a spiking network already: trained as one, or converted."""
    return is_direct(net) or isinstance(net, SpikingNetwork)


def check_converts(args, net, why):
    """Refuses a network that was trained as a spiking one."""
    if is_direct(net):
        raise ValueError(f"{args.model or args.checkpoint} is a network that was trained as a spiking one: {why}; eval runs it as it is")


def check_stays(args, net, options):
    """Refuses what is of a conversion, for a network that is a spiking one already. options: of `convert`, that were given."""
    asked = dict(method=args.method, calibrate=args.calibrate, read=args.read, **thresholds_of(args), **options)
    wrong = [name for name, value in asked.items() if value is not None]
    if is_spiking(net) and wrong:
        told = {"levels": "neuron-levels"}.get(wrong[0], wrong[0].replace("_", "-"))
        how = "was trained as a spiking one" if is_direct(net) else "is converted already"
        raise ValueError(f"{args.model or args.checkpoint} is a network that {how}, whose neurons stay: --{told} is for others")


def data_of(args):
    """(name, its `Data`) for a network of one's own, which says nothing of its images."""
    if args.data is None:
        raise ValueError(f"--model says nothing of its images: give --data, one of {', '.join(data_sets.NAMES)}")
    preprocessing = args.preprocessing
    if args.image_size is not None:
        if args.data != "imagefolder":
            raise ValueError(f"--image-size is for --data imagefolder; images of {args.data} have one size")
        crop = checks.integer("--image-size", args.image_size)
        preprocessing = preprocessing_of(args.preprocessing, "imagenet") | dict(crop=crop, resize=round(crop * 256 / 224))
    train = args.calibrate == "train"
    frames = args.T if args.data in data_sets.EVENTS else None
    return args.data, data_sets.load(
        args.data, args.data_dir, download=args.download, preprocessing=preprocessing, train=train, frames=frames
    )


def images(args, data):
    """A loader of the images that set thresholds, or None."""
    if args.calibrate is None:
        return None
    if args.calibrate == "train":
        return of_training(data)
    if not Path(args.calibrate).is_dir():
        raise ValueError(f"--calibrate takes 'train' or a folder of pictures, and {args.calibrate} is none")
    if not hasattr(data.test, "transform"):
        raise ValueError(f"--calibrate takes 'train' for {args.data}, which are no picture files")
    from snnfast.data import folders  # which imports torchvision

    found = folders.Pictures(Path(args.calibrate), data.test.transform)
    if not len(found):
        raise ValueError(f"--calibrate {args.calibrate} holds no pictures")
    return _spread(found)


def of_training(data):
    """A loader of training images, as those of the test set come."""
    if hasattr(data.train, "transform"):  # not moved and cut as training does
        data.train.transform = data.test.transform
    return _spread(data.train)


def _spread(found):
    step = -(-len(found) // MOST_IMAGES)
    return DataLoader(Subset(found, range(0, len(found), step)), 16)


def thresholds_of(args):
    """Options of `convert` for thresholds that were given."""
    given = {"percentile": args.percentile, "per_channel": args.per_channel or None, "levels": args.neuron_levels}
    return {k: v for k, v in given.items() if v is not None}


def converted(args, net, data, options):
    """What `convert` makes of it. Without calibration images it is captured for an image of the test set."""
    given = thresholds_of(args)
    if is_direct(net):
        check_stays(args, net, options)
        return convert(net, sample=data.test[0][0][None])
    loader = images(args, data)
    if loader is None and not any(is_quantised(m) for m in net.modules()):
        raise ValueError(
            "net has no quantised activations: --calibrate gives images, 'train' or a folder of pictures, that set its thresholds"
        )
    x = data.test[0][0][None]
    return convert(net, args.method, calibrate=loader, sample=x, read=args.read, **given, **options)
