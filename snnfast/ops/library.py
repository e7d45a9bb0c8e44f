"""The op library `snnfast::`: schemas are declared in Python, the reference is every op's default kernel."""

import contextlib
from collections.abc import Callable

import torch
from torch.autograd import forward_ad

from snnfast.engines import backends

_library = torch.library.Library("snnfast", "DEF")  # keeps the registrations alive


_names: list[str] = []
_references: dict[str, Callable] = {}  # by name


def names():
    """The ops declared so far."""
    return list(_names)


def define(schema, reference):
    """Declares `snnfast::<schema>` with `reference` as its kernel wherever no backend overrides it; returns the op."""
    name = schema.split("(")[0]
    _names.append(name)
    _references[name] = reference
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))

    def kernel(*args):
        backends.warn_reference(name, next(a for a in args if isinstance(a, torch.Tensor)).device)
        return reference(*args)

    _library.impl(name, kernel, "CompositeExplicitAutograd")
    return getattr(torch.ops.snnfast, name).default


def fake(name, function):
    torch.library.register_fake(f"snnfast::{name}", function, lib=_library)


# Whether torch.func's transforms are at work, which do not take functions of autograd in this form. Nor do graphs of torch.jit and torch.compile.
_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_modes_before = getattr(torch._ops, "_len_torch_dispatch_stack_pre_dispatch", lambda: 1)
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def is_plain():
    """Whether a call is only run: nothing traces, compiles or transforms it."""
    watched = torch.compiler.is_compiling() or torch.jit.is_tracing() or _transformed() or _modes() or _modes_before()
    return not watched and forward_ad._current_level < 0


def is_transformed():
    """Whether one of torch.func's transforms is at work."""
    return _transformed() and not torch.compiler.is_compiling()


def is_differentiated():
    """Whether torch.func's grad or jvp is at work: what is computed there is wrapped, even of plain values."""
    if not is_transformed():
        return False
    kinds = torch._C._functorch.TransformType
    return any(level.key() in (kinds.Grad, kinds.Jvp) for level in torch._C._functorch.get_interpreter_stack() or ())


_leaving = [0]  # how many calls of `torchs_own` run at present: a plain number, which a compiler reads where it knows no context variables


@contextlib.contextmanager
def torchs_own():
    """In this context, what torch.export captures without gradients has torch's operators alone: it runs without snnfast."""
    _leaving[0] += 1
    try:
        yield
    finally:
        _leaving[0] -= 1


def _leaves():
    """Whether what runs is captured for a runtime that knows torch's operators alone."""
    return torch.compiler.is_exporting() and ((_leaving[0] and not torch.is_grad_enabled()) or torch.onnx.is_in_onnx_export())


def are_plain(*tensors):
    """Whether these are torch's own tensors, or None: a subclass may stand for several."""
    return all(t is None or type(t) in _PLAIN for t in tensors)


def _is_recorded(args):
    return torch.is_grad_enabled() and any(isinstance(a, torch.Tensor) and a.requires_grad for a in args)


def autograd(name, backward, setup):
    """Registers the op's gradient. Returns the op with it by shorter ways: the registered one goes through Python and reads the schema's arguments
    one by one in every call, with a gradient or without, which for a neuron's takes longer than a small neuron."""
    torch.library.register_autograd(f"snnfast::{name}", backward, setup_context=setup, lib=_library)
    op = getattr(torch.ops.snnfast, name).default

    def kernel(*args):
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    def forward(ctx, *args):
        output = kernel(*args)
        setup(ctx, args, output)
        return output

    short = type(f"{name}_short", (torch.autograd.Function,), dict(forward=staticmethod(forward), backward=staticmethod(backward)))

    # The form that torch.func's transforms take: each calls it once more, with what is inside its own values.
    composed = type(
        f"{name}_composed",
        (torch.autograd.Function,),
        dict(
            forward=staticmethod(lambda *args: call(*args)),
            setup_context=staticmethod(setup),
            backward=staticmethod(backward),
            jvp=staticmethod(lambda ctx, *tangents: _refuse_tangent(name)),
            vmap=staticmethod(lambda info, in_dims, *args: _one_by_one(call, info.batch_size, in_dims, args)),
        ),
    )

    reference = _references[name]

    def call(*args):
        if forward_ad._current_level >= 0 and _has_tangent(args):  # in forward mode torch takes a custom op for a constant, without a word
            _refuse_tangent(name)
        if not is_plain():
            if _leaves():
                return reference(*args)
            return composed.apply(*args) if is_transformed() else op(*args)
        return short.apply(*args) if _is_recorded(args) else kernel(*args)

    return call


def _one_by_one(call, many, in_dims, args):
    """(what `call` gives for each of `many` slices of the arguments, stacked; the dimension they are stacked along)."""
    found = [
        call(*(a.select(d, i) if isinstance(a, torch.Tensor) and d is not None else a for a, d in zip(args, in_dims))) for i in range(many)
    ]
    if isinstance(found[0], torch.Tensor):
        return torch.stack(found), 0
    return tuple(map(torch.stack, zip(*found))), (0,) * len(found[0])


def check_no_derivative(what, *tensors):
    """Refuses what a derivative of torch.func or of dual numbers goes through, where it would be zero without a word."""
    given = [t for t in tensors if isinstance(t, torch.Tensor)]
    if _transformed() and any(map(torch._C._functorch.is_gradtrackingtensor, given)):
        raise RuntimeError(f"{what} has no derivative (torch.func.grad, jvp and their kin): take its value outside")
    if _has_tangent(given):
        raise RuntimeError(f"{what} has no derivative in forward mode (dual numbers): take its value outside")


def check_untransformed(what, *tensors):
    """Refuses values that torch.func's transforms or dual numbers of forward mode wrap, where nothing would carry them on: `what` cannot be
    differentiated or batched by them."""
    given = [t for t in tensors if isinstance(t, torch.Tensor)]
    if _transformed() and any(map(torch._C._functorch.is_functorch_wrapped_tensor, given)):
        raise RuntimeError(f"{what} does not go through torch.func (grad, jvp, vmap and their kin): for gradients take backward()")
    if _has_tangent(given):
        raise RuntimeError(f"{what} has no derivative in forward mode (dual numbers): take backward()")


def _has_tangent(args):
    """Whether one is a dual number of forward mode."""
    return forward_ad._current_level >= 0 and any(
        isinstance(a, torch.Tensor) and forward_ad.unpack_dual(a).tangent is not None for a in args
    )


def _refuse_tangent(name):
    raise RuntimeError(f"snnfast::{name} has no derivative in forward mode (torch.func.jvp, jacfwd): take backward()")


def once_differentiable(name):
    """The op's gradient has no gradient of its own: asking for one is an error, not zeros. Returns the op as `autograd` does."""

    def backward(ctx, *grads):
        raise RuntimeError(f"snnfast::{name} has no derivative: the ops are differentiable once")

    return autograd(name, backward, lambda ctx, inputs, output: None)


def override(name, key, function):
    """Registers `function` as the kernel of `snnfast::name` for a dispatch key."""
    _library.impl(name, function, key)
