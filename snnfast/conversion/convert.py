"""ANN to SNN: fold the batch norms, put a neuron in place of every quantised activation."""

import dataclasses
import warnings
from collections.abc import Iterable
from typing import Any, Literal

import torch

from snnfast import checks, nn
from snnfast.conversion import choice, direct, functions, max_pooling, relu_thresholds
from snnfast.conversion.calibration import Images
from snnfast.conversion.direct import is_direct
from snnfast.conversion.inputs import OPTIONS, Constant, Inputs, default_of, inputs_of, of_mode
from snnfast.conversion.method import REGISTRY, Method, method_of
from snnfast.conversion.method import options as options_of_methods
from snnfast.conversion.methods import OwnNeuron
from snnfast.conversion.neurons import put_neurons, put_neurons_by_images
from snnfast.conversion.relu_thresholds import Percentile, percentile_of
from snnfast.graph import commutes, guard, pointwise
from snnfast.graph.aten import name_of
from snnfast.graph.flow import Plan, has_functions
from snnfast.graph.prepare import doubt, prepared
from snnfast.graph.rewrite import put_in_place, take_readout
from snnfast.graph.vocabulary import called, module_of
from snnfast.nn.over_time import OverTime
from snnfast.ops.python_neuron import PythonNeuron
from snnfast.runtime import linear_part
from snnfast.runtime.network import SpikingNetwork, analog_note


def _end_in_a_relu(gm, batches):
    """Puts a ReLU behind the last layer, which becomes a neuron as the others do."""
    if batches is None:
        raise ValueError("output='spikes' needs calibrate=, images that set the threshold of the neuron behind the last layer")
    last = next(n for n in gm.graph.nodes if n.op == "output")
    with gm.graph.inserting_before(last):
        last.args = (gm.graph.call_function(torch.relu, (last.args[0],)),)


def _check_names(v0, levels):
    unknown = set(v0) - set(levels) if isinstance(v0, dict) else ()
    if unknown:
        raise ValueError(f"v0 names {', '.join(sorted(unknown))}, which is no activation of net; its activations: {', '.join(levels)}")


def _replace_max_pools(gm, form, changes):
    """Puts a spiking form in place of every max pooling that spikes reach."""
    plan = Plan(gm, changes)
    for node in list(gm.graph.nodes):
        if node not in plan.spiking:
            continue
        if node.meta.get("kind") == "pool":
            plan.spiking.update(max_pooling.replace_function(node, gm, form))
            continue
        if form == "difference" and max_pooling.is_elsewhere(node) and max_pooling.window_of(node, gm):
            plan.spiking.add(functions.over_time(gm, node, "maximum", [True]))
            continue
        pool = max_pooling.replaced(node, gm, form)
        if pool is not None:
            put_in_place(gm, node, f"{node.name}_over_time", pool)


def convert(
    net: torch.nn.Module,
    method: str | Method | None = None,
    *,
    mode: Literal["per_step", "differential"] | None = None,
    inputs: Literal["constant", "poisson", "analog", "rate"] | Inputs | None = None,
    calibrate: torch.Tensor | Iterable | Percentile | None = None,
    maxpool: Literal["difference", "gated", "average"] = "difference",
    output: Literal["values", "spikes"] = "values",
    sample: torch.Tensor | None = None,
    read: str | None = None,
    neuron: PythonNeuron | None = None,
    T: int | None = None,
    energy: float | None = None,
    strict: bool = False,
    **options: Any,
) -> SpikingNetwork:
    """A spiking network with the weights of `net`, which is not changed.

    Batch norms are folded and dropout is dropped. Every quantised activation becomes an integrate-and-fire neuron with the thresholds of the
    activation, every ReLU one with thresholds from data. The last linear layer has no neuron: its output is read, and a softmax behind this layer is
    applied to the mean output.

    Args:
        net: a network of `snnfast.models`, or any module that torch.export captures for images of `sample` or `calibrate`. (Without such images
            torch.fx records the network. torch.fx supports less, and the result is compared with `net` on a random image.) Its activations are
            layers of `snnfast.nn`, or, with `calibrate`, those of torch. A network that was trained as a spiking one, a
            `snnfast.models.DirectNetwork`, keeps its neurons, and takes no option but `sample`.
        method: one of `snnfast.conversion.methods`, such as `SRP(tau=8)`, or its name with its fields as `options`: "if", "stbif", "snm", "srp",
            "srp+stbif", "srp+snm", "cos", "quanta", "power" or "group". Default: "if", and "stbif" in mode "differential".
        mode: the form of functions that do not commute with rates (softmax, layer norm, GELU, products of spikes). "per_step": they are applied to
            each step's values, which is biased, and the mean output is the answer. "differential": they pass on the change of their value, all
            neurons are ST-BIF (or of "quanta") with the levels of their activations, image and biases come once, and the summed output is that of
            the quantised network as soon as no neuron fires any more. See `snnfast/conversion/functions.py`. Default: "differential" if such a
            function stands behind an activation, all activation functions are quantised ones or ReLUs, and the caller asks for no method but
            "stbif" or "quanta", for no inputs of mode "per_step", for no neuron of their own and for no random masks; else "per_step".
        inputs: how the image comes in, one of `Constant()`, `Poisson(amplitude, seed)` (mode "per_step"), `Analog()` and `Rate(steps)` (mode
            "differential") of `snnfast.conversion`, or its name with its fields as `options`: `amplitude`, `seed`, `input_steps`. Default: a
            current at every step; in mode "differential" all of the image at the first step.
        calibrate: images for the thresholds of ReLUs, and in mode "differential" of the other activation functions (GELU, SiLU, ...):
            `snnfast.conversion.Percentile(images, q, per, levels)`; or images, a tensor [B, ...] or an iterable of tensors or of (images, labels),
            on the device of `net`, with its fields as `options`: `percentile` (99.9), `per_channel` (False, True or "neuron"), `levels` (32).
        maxpool: the spiking form of max pooling, "difference", "gated" or "average"; see `snnfast/conversion/max_pooling.py`.
        output: "values", the last layer's output is read; or "spikes", the last layer gets a neuron too, with a threshold from `calibrate`, as
            SNM's authors do (Wang et al., IJCAI 2022): outputs below 0 then become 0.
        sample: images [1 or more, ...] for which torch.export captures the network; only the number of images may change later. On these images
            the captured network must give what `net` gives. Default: some of the calibration images.
        read: the tensor to read, if a network gives several, by its key or place: "out", "0", "boxes.1". Default: all, in the structure that `net`
            gives.
        neuron: a neuron of `snnfast.neuron` in place of integrate-and-fire, with method "if"; its Rule's fields are `options`.
        T: in place of a method, the number of steps that the network will run. The simplest method that keeps the network's answers on images of
            `calibrate` is chosen, see `snnfast.evaluation.choose`; `print(snn.choice)` says what was tried, what was taken and why.
        energy: with T, the largest share of the network's energy that the spiking network may take (E_SNN/E_ANN).
        strict: whether to refuse a network in which something stays analog: activations and other functions in front of the first neurons, such as
            an LSTM or LeakyReLUs, which are computed and do not spike. A warning, `snn.analog` and every report name them.
        options: fields of the arguments that are given by name. Fields of methods: `v0`, `parity`, and `tau`, `mask`, `rho`, `max_shift`, `m`,
            `caps` for the methods that have them. `v0` is the start voltage in units of theta (in quanta, if neurons send quanta), a number or a
            dictionary of numbers or tensors by layer name; 0.5 is optimal for QCFS.

    Raises:
        ValueError: a threshold is not > 0, a weight is not finite, or a layer has no spiking form; the message names the layer.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), snnfast.nn.QCFS(levels=8, theta=1.0), torch.nn.Linear(8, 2))
    >>> snn = snnfast.convert(net, "srp", tau=2)
    >>> snn.logits(torch.randn(3, 4), T=16, at=[1, 16]).shape
    torch.Size([2, 3, 2])
    """
    if is_direct(net):
        own = dict(options, method=method, mode=mode, inputs=inputs, calibrate=calibrate, read=read, neuron=neuron, T=T, energy=energy)
        own |= dict(maxpool=None if maxpool == "difference" else maxpool, output=None if output == "values" else output)
        given = next((name for name, value in own.items() if value is not None), None)
        if given is not None:
            raise ValueError(f"net was trained as a spiking network, whose neurons stay: {given}= is for networks that are converted")
        return direct.spiking(net, sample)
    if T is not None or energy is not None:
        options |= {
            name: value
            for name, value in dict(mode=mode, inputs=inputs, sample=sample, read=read, neuron=neuron).items()
            if value is not None
        }
        return choice.chosen(net, method, T, energy, calibrate, maxpool=maxpool, output=output, strict=strict, **options)
    options, rule, of_inputs, of_thresholds = _shared_out(options, neuron)
    checks.choice("maxpool", maxpool, max_pooling.FORMS)
    checks.choice("output", output, ("values", "spikes"))
    if read is not None and not isinstance(read, str):
        raise TypeError(f"read must be the name of an output, a str such as 'out' or '0', got {type(read).__name__}")
    if not isinstance(net, torch.nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    if isinstance(net, SpikingNetwork):
        raise TypeError("net is converted already: give the network that it was converted from")
    checks.yes_or_no("strict", strict)
    checks.weights(net)
    inputs, calibrate = inputs_of(inputs, **of_inputs), percentile_of(calibrate, **of_thresholds)
    asked = _mode_asked(mode, inputs, method)
    step_by_step = (
        mode == "per_step"
    )  # Poisson input asks for the mode, and not for a function of random spikes in place of one of their mean
    how = method_of(method or ("stbif" if asked == "differential" else "if"), **options)
    if neuron is not None:
        how = _own_neuron(how, neuron, rule)
    batches = None if calibrate is None else Images(calibrate.images)
    samples = _samples(sample, batches)
    if samples:
        guard.check_runs(net, samples[0], "calibrate" if sample is None else "sample")
    gm = prepared(net, samples, read)
    doubted = None if samples else doubt(gm, net)  # raised at the end: errors that come before name the layer
    readout = take_readout(gm)
    if samples and batches is not None:
        pointwise.write_relus(gm)
        if asked == "differential":
            others = relu_thresholds.relu_nodes(gm) or relu_thresholds.function_nodes(gm) or any(map(nn.is_quantised, gm.modules()))
            pointwise.mark(gm, alone=not others)
    follows = method is None or "differential" in how.modes
    if asked is None and follows and neuron is None and inputs is None and _needs_differences(gm, batches):
        step_by_step = guard.has_masks(gm)
        asked = "per_step" if step_by_step else "differential"
        how = how if asked == "per_step" or method is not None else method_of("stbif", **options)
    if asked == "differential":
        _check_differential(how, gm, neuron, batches, output, maxpool)
    clock = dataclasses.replace((inputs or default_of(asked or "per_step")).clock(gm, batches), readout=readout)
    if output == "spikes":
        _end_in_a_relu(gm, batches)
    # ReLUs first: their thresholds are measured on the network while its quantised activations are still in place.
    levels = {}
    if batches is not None:
        levels = put_neurons_by_images(gm, how, batches, calibrate, clock.differential)
    levels = put_neurons(gm, how, clock.differential) | levels
    _check_names(how.neuron()["v0"], levels)
    if not levels:
        raise ValueError(_nothing_to_fire(gm))
    _replace_max_pools(gm, maxpool, clock.changes)
    if clock.differential:
        functions.put(gm, Plan(gm))
    _check_rates(gm, clock, step_by_step)
    if doubted is not None:
        raise doubted
    gm.delete_all_unused_submodules()
    gm.recompile()
    snn = SpikingNetwork(gm.requires_grad_(False).eval(), levels, how, clock)
    if snn.analog:
        told = f"what stays analog, as no neuron stands in front of it: {analog_note(snn.analog)}"
        if strict:
            raise ValueError(f"{told}; strict=False converts the rest")
        warnings.warn(told, stacklevel=2)
    return snn


def _needs_differences(gm, batches):
    """Whether only mode "differential" converges to the network, and leaves the caller nothing to decide: a softmax, a norm or a gate is behind an
    activation. False if other activation functions than ReLUs would get neurons with levels behind them: this is the caller's choice."""
    if batches is None:
        return has_functions(gm)
    return has_functions(gm, relu_thresholds.relu_nodes(gm)) and not relu_thresholds.function_nodes(gm)


def _nothing_to_fire(gm):
    """The message for a network that has not a single neuron."""
    text = "net has no quantised activation (snnfast.nn.QCFS and its kin) and no ReLU to put neurons in place of"
    if relu_thresholds.relu_nodes(gm):
        return "net has no quantised activation; for its ReLUs give calibrate=, images that set their thresholds"
    functions = [n for n in gm.graph.nodes if n.meta.get("kind") == "function" and name_of(n.target) is not None]
    functions = relu_thresholds.function_nodes(gm) or functions
    if functions:
        return (
            f"{text}; {called(functions[0], gm)} has no spiking form that commutes with rates: say mode='differential' with calibrate= images, "
            "in which activation functions become neurons with levels="
        )
    known = (*commutes.MODULES, torch.nn.MaxPool1d, torch.nn.MaxPool2d, torch.nn.MaxPool3d, torch.nn.Softmax, torch.nn.LogSoftmax)
    others = [n for n in gm.graph.nodes if n.op == "call_module" and not isinstance(gm.get_submodule(n.target), known)]
    return text + ("" if not others else f"; {', '.join(called(n, gm) for n in others[:5])} cannot fire")


def _mode_asked(mode, inputs, method):
    """The mode that mode or inputs ask for, or None."""
    if mode is not None:
        checks.choice("mode", mode, functions.MODES)
    of = mode if inputs is None else inputs.mode
    if mode not in (None, of):
        raise ValueError(f"inputs={inputs.name!r} is of mode {of!r}; mode {mode!r} takes {' or '.join(map(repr, of_mode(mode)))}")
    if of == "differential" and method is not None and "differential" not in _modes_of(method):
        given = getattr(method, "name", method)
        raise ValueError(f"mode 'differential' runs with neurons that follow a falling sum too: method 'stbif' or 'quanta', got {given!r}")
    return None if mode is None and isinstance(inputs, Constant) else of


def _modes_of(method):
    """The modes that a method, or one of this name, runs in."""
    if not isinstance(method, Method):
        cls, own = REGISTRY[checks.choice("method", method, tuple(REGISTRY))]
        method = cls(**own)
    return method.modes


def _samples(sample, batches):
    """Images [1, ...] on which the captured network is compared with the one that was given."""
    if sample is not None:
        checks.tensor("sample", sample)
        if sample.dim() < 2 or not sample.size(0):
            raise ValueError(f"sample must be images [1 or more, ...], got shape {tuple(sample.shape)}")
        batches = Images(sample)
    return [] if batches is None else batches.samples(SAMPLES)


def _check_differential(how, gm, neuron, batches, output, maxpool):
    """Refuses options that a differential run cannot have."""
    if neuron is not None:
        raise ValueError("mode 'differential' runs with ST-BIF neurons; neuron= is of mode 'per_step'")
    keywords = how.neuron()
    if not isinstance(keywords["v0"], float) or keywords["v0"] != 0.5:
        raise ValueError("in mode 'differential' neurons start at 0.5, which rounds to the nearest level: v0 is of mode 'per_step'")
    if maxpool != "difference" and any(max_pooling.window_of(n, gm) for n in gm.graph.nodes):
        raise ValueError(f"maxpool={maxpool!r} is another function than the network's: mode 'differential' takes 'difference'")
    if guard.has_masks(gm):
        raise ValueError(
            "random masks take spikes that a sum never gets back, so mode 'differential' would not converge: use mode 'per_step'"
        )
    if "caps" in keywords:
        raise ValueError("in mode 'differential' the caps of a neuron are the levels of its activation: caps is of mode 'per_step'")
    if output == "spikes":
        raise ValueError("output='spikes', a neuron behind the last layer, is of mode 'per_step'")


def _own_neuron(how, neuron, options):
    if not isinstance(neuron, PythonNeuron):
        raise TypeError(f"neuron must be what snnfast.neuron returned, got {type(neuron).__name__}")
    neuron.rule(**options)
    if how.parity or how.name != "if":
        raise ValueError("method and parity are of integrate-and-fire; a neuron of one's own has its own rule and arithmetic")
    return OwnNeuron(v0=how.v0, of=neuron, rule=options)


SAMPLES = 5  # on which the captured network is compared
OF_THRESHOLDS = "percentile", "per_channel", "levels"


def _shared_out(options, neuron):
    """(fields of the method, of a neuron's own Rule, of the inputs, of the thresholds) among convert's options. The names of inputs
    and thresholds come first: a field of a Rule that has such a name cannot be given here."""
    own = () if not isinstance(neuron, PythonNeuron) else set(neuron.Rule._fields) - {*OPTIONS, *OF_THRESHOLDS}
    known = {*options_of_methods(), *OPTIONS, *OF_THRESHOLDS}
    rule = {k: v for k, v in options.items() if k in own or (neuron is not None and k not in known)}
    rest = {k: v for k, v in options.items() if k not in rule}
    unknown = [k for k in rest if k not in known]
    if unknown:
        raise TypeError(f"convert got unexpected options: {', '.join(unknown)}")
    of_inputs, of_thresholds = ({k: rest.pop(k) for k in tuple(rest) if k in names} for names in (OPTIONS, OF_THRESHOLDS))
    return rest, rule, of_inputs, of_thresholds


def _check_commutes(node, gm, plan, per_step, clock):
    try:
        commutes.check(node, gm, plan, per_step)
    except ValueError as error:
        if not clock.poisson or per_step:
            raise
        told = str(error).partition(": say mode=")[0]
        raise ValueError(
            f"{told}: with Poisson input it is computed on random spikes, which is biased; mode='per_step' asks for that"
        ) from None


def _check_rates(gm, clock, per_step):
    """Refuses, by name, nodes without a spiking form. per_step: whether functions that do not commute may be computed step by step."""
    plan = Plan(gm, clock.changes)
    for node in gm.graph.nodes:
        if node in plan.firing and not any(a in plan.spiking or a in plan.from_image for a in node.all_input_nodes):
            raise ValueError(f"{called(node, gm)} is an activation of a parameter, not of the image: there is nothing to spike")
        ours = node in plan.firing or isinstance(module_of(gm, node), OverTime)
        if node in plan.spiking and not ours and node.op not in ("output", "placeholder"):
            _check_commutes(node, gm, plan, per_step, clock)
            if clock.differential:
                linear_part.check(node, gm, plan)
        elif node.op == "call_method" and node.target.endswith("_"):
            raise ValueError(f"{node.target} (node {node.name}) works in place on a value that every chunk of time uses again")
