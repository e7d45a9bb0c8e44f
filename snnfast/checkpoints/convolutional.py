"""Other people's checkpoints: which network and activation a file of weights holds, and its keys in our names.

    family     threshold key, shape               theta                what the file does not say
    qcfs       .thresh (1,)                       raw                  levels
    srp        .up (1,)                           raw                  levels        (SRP, COS and older QCFS programs)
    cs-qcfs    .up (1,), (1, C), (1, C, 1, 1)     softplus(up) or up   levels; which of the two, unless a value <= 0 proves softplus

    mst, spikezip, of transformers: see `snnfast/checkpoints/transformers.py`

The older programs name the neuron behind a residual addition `relu`, the newer `act`; weights have the same names everywhere. How trainers wrap
weights is the same for all: see `snnfast/checkpoints/holders.py`.
"""

import torch

from snnfast import checks, models
from snnfast.checkpoints import budget, transformers
from snnfast.checkpoints.holders import held, unprefixed

FAMILIES = ("auto", "qcfs", "srp", "cs-qcfs", *transformers.FAMILIES)
THRESHOLDS = ("softplus", "raw")


def weights_in(file, path, key=None):
    """The state dict in what a file holds, without the prefixes of wrappers. key: under which it lies, where the file has several."""
    if isinstance(file, dict) and {"settings", "optimiser", "entries"} <= set(file):
        raise ValueError(f"{path} is the state of a training of snnfast: its networks are model.pt and best.pt beside it")
    state = unprefixed(held(file, path, key))
    check_tensors(transformers.without_constants(state), path)
    return state


def check_tensors(state, path):
    """Weights are dense, real and floating; counters are whole numbers; none is empty."""
    for key, t in state.items():
        if t.is_nested:
            raise ValueError(f"{path}: {key} is no weight: a nested tensor; expected dense floating-point numbers")
        dense = t.layout == torch.strided and not t.is_quantized and not t.is_complex() and not t.is_meta
        number = key.endswith("num_batches_tracked") or (t.is_floating_point() and t.numel())
        if not dense or not number:
            raise ValueError(
                f"{path}: {key} is no weight: {t.dtype}, {'meta' if t.is_meta else t.layout}, shape {tuple(t.shape)}; expected dense "
                "floating-point numbers"
            )
    budget.check_weights(state, path)


def renamed(state):
    """Keys in the names of the newer QCFS program."""
    return {key.replace("relu.up", "act.up").removesuffix(".up") + ".thresh" if key.endswith(".up") else key: t for key, t in state.items()}


def is_threshold(key):
    return key.endswith((".thresh", ".lam"))


def fitting(state):
    """The network of snnfast.models whose names fit best, and how many of them are in the file."""
    found = {}
    for arch, build in models.BY_NAME.items():
        narrow = {"width": 0.02} if models.CLASS_OF[arch].kind == "convolutional" else {"dim": 24}
        with torch.device("meta"):
            found[arch] = set(build(activation="qcfs", **narrow).state_dict())
    keys = {key.removesuffix(".lam") + ".thresh" if key.endswith(".lam") else key for key in state}
    best = max(found, key=lambda arch: 2 * len(found[arch] & keys) - len(found[arch]))
    return best, len(found[best] & keys) / len(found[best])


def read(file, path, arch, num_classes, levels, family, threshold, signs, options, key=None):
    """(config, state dict in our names) of a file of one of the families; errors name what is missing."""
    checks.choice("family", family, FAMILIES)
    if threshold is not None:
        checks.choice("threshold", threshold, THRESHOLDS)
        if family in ("qcfs", "srp"):
            raise ValueError(f"threshold={threshold!r} is of family 'cs-qcfs'; thresholds of {family!r} are raw")
    state = weights_in(file, path, key)
    found = transformers.family_of(state)
    if family in transformers.FAMILIES and found != family:
        raise ValueError(f"{path} has not the names of family {family!r}" + (f", but those of {found!r}" if found else ""))
    if found and family in ("auto", found):
        own = transformers.without_constants(state)
        masks = {key: t for key, t in state.items() if key not in own and key.endswith("attn_mask")}
        return transformers.read(found, own, masks, path, arch, num_classes, levels, threshold, signs, options)
    if signs is not None:
        raise ValueError("signs is of family 'spikezip'")
    older = any(key.endswith(".up") for key in state)
    state = renamed(state)
    thresholds = {key: t for key, t in state.items() if is_threshold(key)}
    if arch is None:
        arch, share = fitting(state)
        if share < 1:
            raise ValueError(f"{path} does not hold exactly the names of one network; give arch=, one of {', '.join(models.BY_NAME)}")
    checks.choice("arch", arch, tuple(models.BY_NAME))
    if not thresholds:
        raise ValueError(f"{path} has no thresholds (keys ending in .thresh or .up): it is no network with QCFS activations")
    if levels is None:
        raise ValueError(f"{path} does not store the quantisation levels it was trained with: give levels= (its authors use 4, 8 or 16)")
    by_channel = any(t.numel() > 1 for t in thresholds.values())
    if family == "auto":
        lowest = min(float(t.min()) for t in thresholds.values())
        named = any(key.endswith(".lam") for key in thresholds)
        channelwise = by_channel or named or threshold is not None or (older and lowest <= 0)
        if older and not channelwise:
            raise ValueError(
                f"{path} has thresholds .up > 0, one per layer, which are raw in the files of SRP, COS and older QCFS, and may "
                "be softplus(up) in those of CS-QCFS: give family='srp', or family='cs-qcfs' and threshold='softplus' or 'raw'"
            )
        family = "cs-qcfs" if channelwise else "qcfs"
    if by_channel and family != "cs-qcfs":
        raise ValueError(f"{path} has thresholds per channel, which are of family 'cs-qcfs', not {family!r}")
    softplus = family == "cs-qcfs" and _is_softplus(thresholds, path, threshold)
    config = dict(arch=arch, levels=levels, num_classes=_classes(state, path, num_classes), channel_num=None, theta=4.0, **options)
    config["activation"] = ("cs-qcfs" if softplus else "c-qcfs") if by_channel else "s-qcfs" if softplus else "qcfs"
    config = _sizes(config, state)
    return config, _thresholds_in_place(config, state, softplus, by_channel)


def _is_softplus(thresholds, path, threshold):
    """Whether theta = softplus(up): a value <= 0 proves it, else the caller has to say."""
    if any(key.endswith(".lam") for key in thresholds):
        return True  # our own name for what softplus is taken of
    proof = next((key for key, t in thresholds.items() if float(t.min()) <= 0), None)
    if proof and threshold == "raw":
        raise ValueError(f"{path} cannot hold raw thresholds: {proof} has a value <= 0. Give threshold='softplus'")
    if threshold is None and not proof:
        raise ValueError(f"{path} does not store whether its thresholds are softplus(up) or up itself: give threshold='softplus' or 'raw'")
    return threshold == "softplus" or proof is not None


def _classes(state, path, num_classes):
    last = [t for key, t in state.items() if key.endswith("weight") and t.dim() == 2]
    if not last:
        raise ValueError(f"{path} has no linear layer, whose rows would be the classes")
    if num_classes is not None and num_classes != last[-1].size(0):
        raise ValueError(f"{path} is of {last[-1].size(0)} classes, not of num_classes={num_classes}")
    return last[-1].size(0)


def _sizes(config, state):
    """config with what the shapes of the weights say, where the caller did not."""
    defaults = models.CLASS_OF[config["arch"]].read_off(state)
    return {**defaults, **config}


def _thresholds_in_place(config, state, softplus, by_channel):
    """The state dict with thresholds as our layers hold them: [1] or [C], `lam` where softplus. Sets config's channel_num."""
    found, wide = dict(state), []
    for key, t in state.items():
        if is_threshold(key):
            del found[key]
            found[f"{key.rpartition('.')[0]}.{'lam' if softplus else 'thresh'}"] = t.reshape(-1)
            wide.append(t.numel() > 1)
    if not by_channel:
        return found
    many = sum(wide)
    if wide[len(wide) - many :] == [True] * many:
        config["channel_num"] = None if many == len(wide) else many
        return found
    # Some layers in the middle have one threshold: each of their channels gets it, which is the same function.
    with torch.device("meta"):
        shapes = {key: t.shape for key, t in models.build(config).state_dict().items()}
    return {key: t.expand(shapes[key]).clone() if is_threshold(key) and key in shapes and t.numel() == 1 else t for key, t in found.items()}
