"""`accelerate`: fused neurons and activations in networks that were built with other people's code, in place."""

import copy
import sys

import torch

from snnfast import checks
from snnfast.interop import authors
from snnfast.models.direct import LearntSpikes, Spikes
from snnfast.nn.deferred import BytePool, WaitingNorm, leave
from snnfast.nn.neurons import IF

_NEURON_LIKE = ("neuron", "node", "lif", "spik", "mplayer", "qcfs", "scaler")


class Accelerated:
    """What `accelerate` did. replaced: (name, class, what it was known as, a note); left: (name, class, why)."""

    def __init__(self, changed, replaced, left, hook=None):
        self._changed, self.replaced, self.left, self._hook = changed, replaced, left, hook

    def undo(self) -> None:
        """Gives every module its own class back."""
        for module, cls in self._changed:
            module.__class__ = cls
        self._changed = []
        if self._hook is not None:
            self._hook.remove()

    def __str__(self):
        lines = [f"replaced {len(self.replaced)}, left {len(self.left)}"]
        lines += [f"  {name} ({cls}): {kind}" + (f"; {note}" if note else "") for name, cls, kind, note in self.replaced]
        lines += [f"  {name} ({cls}) is left: {why}" for name, cls, why in self.left]
        return "\n".join(lines)

    __repr__ = __str__


def accelerate(model: torch.nn.Module, fuse: bool = False) -> "Accelerated":
    """Replaces, in place, the neurons and activations in a model that was built with the QCFS, SRP or COS authors' code or with SpikingJelly.

    Outputs stay the same bit for bit in fp32 on a CPU; parameters, buffers and the keys of the state dict stay, and so do `set_T`, `set_L`,
    `reset` and `functional.reset_net`. A module keeps its object and gets a class over its own. Before that, a copy of it runs on a probe in both
    forms; one whose outputs differ in a bit is left as it is.

    Args:
        model: a torch.nn.Module. SpikingJelly's neurons must be in multi-step mode.
        fuse: whether max poolings keep a byte for each window (`snnfast.max_pool2d`), and a batch norm (torch.nn.BatchNorm1d, 2d, 3d, and
            SpikingJelly's) and the neuron that takes its output run in one pass, as `snnfast.norm_neuron`, wherever the model's own code leads
            one to the other (in training, of at least 2^17 currents); also in front of neurons of `snnfast.nn` and `snnfast.models`. Sums and
            normalised currents then round in another order, so that outputs are no longer the same bits.

    Returns:
        `Accelerated`: what was replaced and what was left, with the reason; `undo()` takes all of it back. A model can be copied and its state dict
        saved as before; to pickle the model itself, undo first.

    >>> snnfast.accelerate(torch.nn.Sequential(torch.nn.ReLU())).replaced  # nothing of these programs is in it
    []
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    checks.yes_or_no("fuse", fuse)
    changed, replaced, left, inside = [], [], [], set()
    spikingjelly = _spikingjelly()
    for name, module in model.named_modules():
        if id(module) in inside:
            continue
        if hasattr(module, "fused_over"):  # by an earlier call
            inside |= {id(m) for m in module.modules()}
            continue
        cls = type(module)
        candidates, why, note = _candidates(module, spikingjelly)
        fused, problem, reasons = None, why, []
        for candidate in candidates:
            fused = _over(cls, candidate)
            problem = _differs(module, fused)
            if problem is None:
                break
            reasons.append(problem)
        problem = problem and (reasons or [why])[0]  # of the likeliest form
        if fused is not None and problem is None:
            module.__class__ = fused
            changed.append((module, cls))
            replaced.append((name, cls.__name__, candidate.kind, note))
            inside |= {id(m) for m in module.modules()}
        elif problem is not None:
            left.append((name, cls.__name__, problem))
            inside |= {id(m) for m in module.modules()}
        elif cls.__name__.endswith("VoltageScaler"):
            left.append((name, cls.__name__, "one multiplication, which its neighbours' kernels do not take in"))
        elif any(word in cls.__name__.lower() for word in _NEURON_LIKE) and not cls.__module__.startswith("snnfast"):
            left.append(
                (name, cls.__name__, "not a module of the QCFS, SRP or COS programs, nor one of SpikingJelly's that has a fused form")
            )
    hook = None
    if fuse:
        _fuse(model, changed, replaced, left)
        hook = model.register_forward_hook(leave)
    return Accelerated(changed, replaced, left, hook)


def _fuse(model, changed, replaced, left):
    """Lets batch norms wait for the neuron behind them; max poolings of torch's class, and of SpikingJelly's, keep less."""
    takes = any(isinstance(m, (IF, Spikes, LearntSpikes)) or hasattr(m, "fused_over") for m in model.modules())
    for name, module in model.named_modules():
        cls = type(module)
        known = cls in _PLAIN or (cls.__module__.startswith("spikingjelly.") and cls.__name__ in {plain.__name__ for plain in _PLAIN})
        is_pool = isinstance(module, torch.nn.MaxPool2d)
        if not (is_pool or isinstance(module, torch.nn.modules.batchnorm._BatchNorm)) or hasattr(module, "fused_over"):
            continue
        if known and (BytePool.fits(module) if is_pool else takes):
            over = BytePool if is_pool else WaitingNorm
            module.__class__ = _over(cls, over)
            changed.append((module, cls))
            replaced.append((name, cls.__name__, over.kind, ""))
        elif is_pool:
            left.append(
                (name, cls.__name__, "it has dilation, ceil_mode, return_indices or more than 255 numbers to a window, or code of its own")
            )
        else:
            why = (
                "no neuron of the model takes it"
                if known
                else "its statistics, or its code, are not those of torch.nn.BatchNorm1d, 2d or 3d"
            )
            left.append((name, cls.__name__, why))


_PLAIN = torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.MaxPool2d


def _spikingjelly():
    """(exact class -> fused class, what leaves a node as it is, a note of it) of SpikingJelly's neurons, of each version that has been imported."""
    found = []
    if "spikingjelly.activation_based.neuron" in sys.modules or "spikingjelly.clock_driven.neuron" in sys.modules:
        from snnfast.interop import spikingjelly, spikingjelly_former

        found = [(of.known(), of.why_not, of.note) for of in (spikingjelly, spikingjelly_former)]
    return [entry for entry in found if entry[0]]


# What a class may say of itself and still do what the class above it does.
_THIN = {"__init__", "__module__", "__doc__", "__qualname__", "__annotations__", "__firstlineno__", "__static_attributes__", "extra_repr"}


def _thin(cls, known):
    """The known class that a class is, or that it only makes with other arguments; None of others."""
    for base in cls.__mro__:
        if base in known:
            return base
        if not set(vars(base)) <= _THIN:
            return None
    return None


def _candidates(module, spikingjelly):
    """(fused classes that may fit, why it is left although it is known, a note)."""
    for known, why_not, note in spikingjelly:
        ours = known.get(_thin(type(module), known))
        if ours:
            why = why_not(module)
            return ([], why, "") if why else ([ours], None, note(module))
        if isinstance(module, tuple(known)):
            return [], "a subclass of SpikingJelly's, whose own code is not known", ""
    if type(module).__module__.startswith(("snnfast", "torch.", "spikingjelly.")):
        return [], None, ""
    return [fused for fused in authors.KNOWN if fused.fits(module)], None, ""


def _over(cls, fused):
    """A class over `cls` whose forward is the fused one."""
    return type(f"Fused{cls.__name__}", (fused, cls), {"__module__": cls.__module__, "fused_over": cls})


def _differs(module, fused):
    """None if a copy of the module gives the same outputs in both forms; else what is different."""
    try:
        probes = fused.probes(module)
        for settings, calls in probes:
            one, other = _copy(module, settings), _copy(module, settings)
            other.__class__ = fused
            with torch.no_grad():
                for x in calls:
                    a, b = one(x.clone()), other(x.clone())
                    if a.shape != b.shape or not torch.equal(a, b):
                        return f"its outputs differ from those of the program it looks like ({fused.kind})"
            if fused.differentiable and _gradients_differ(_copy(module, settings), other, calls[0]):
                return f"its gradients differ from those of the program it looks like ({fused.kind})"
        return None if probes else "its settings leave nothing to compare on"
    except Exception as error:  # whatever their code raises on the probe
        return f"it could not be run on a probe: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _copy(module, settings):
    """A copy on the CPU with these attributes, in the module and in what it is made of, at its start."""
    made = copy.deepcopy(module).cpu().float()
    for m in made.modules():
        for name, value in settings.items():
            if hasattr(m, name):
                setattr(m, name, value)
    if hasattr(made, "reset"):
        made.reset()
    return made


def _gradients_differ(one, other, x):
    """Whether the gradients of x vanish at other places, or differ by more than rounding."""
    grads = []
    for m in (one, other):
        if hasattr(m, "reset"):
            m.reset()
        leaf = x.clone().requires_grad_()
        try:
            y = m(leaf)
            (grad,) = torch.autograd.grad(y.sum(), leaf)
        except RuntimeError:
            if m is one:
                return False  # theirs has no gradient to differ from
            raise
        grads.append(grad)
    a, b = grads
    # Their programs multiply by theta/L and L/theta, and T steps of an adjoint sum in another order.
    return not torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max())) or not torch.equal(a.abs() > 1e-5, b.abs() > 1e-5)
