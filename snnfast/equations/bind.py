"""Binds the functions of an equation's module to an engine's primitives.

An equation calls `where`, `div`, `floor`, `exp`, `splat` without importing them. `bind` copies its functions with those names (and each other's
copies) as globals, so that one source serves torch and Triton.
"""

import types

from snnfast.equations.neurons import defaults
from snnfast.equations.rule import Numbers


def functions(module):
    """The functions that `module` itself defines, by name."""
    found = vars(module).items()
    return {n: f for n, f in found if isinstance(f, types.FunctionType) and f.__module__ == module.__name__}


def _shared(names):
    """The functions that an equation takes from another one of snnfast's, and those that these call. names: the globals of an equation."""
    ours = ("snnfast.equations.neurons.", "snnfast.equations.functions.")
    found = {n: f for n, f in names.items() if isinstance(f, types.FunctionType) and f.__module__.startswith(ours)}
    behind = {}
    for one_of_it in {f.__module__: f for f in found.values() if f.__globals__ is not names}.values():
        behind |= _shared(one_of_it.__globals__)
    return behind | found


def bind(module, wrap=lambda f: f, **names):
    """A namespace with `module`'s functions, bound to `names` and passed through `wrap`, its Rule, and the `Numbers` that pack it.

    A neuron (it has `step`) without `start` or `start_bwd` gets those of `snnfast.equations.neurons.defaults`.
    """
    own = {name: f for name, f in {**_shared(vars(module)), **functions(module)}.items() if name not in ("gates", "asked")}
    if "step" in own:
        own = {**functions(defaults), **own}
    scope = {**vars(module), **names}
    for name, function in own.items():
        copy = types.FunctionType(function.__code__, scope, name, function.__defaults__)
        copy.__module__, copy.__kwdefaults__ = function.__module__, function.__kwdefaults__
        scope[name] = wrap(copy)
    # Whether the backward needs the count: always, but for an equation that says when not.
    gates = getattr(module, "gates", lambda rule: True)
    # The names of its per-neuron numbers: theta, and what an equation that says so has beside it.
    parameters = getattr(module, "parameters", ("theta",))
    # How many of the last of them have a gradient: all, but for an equation that says otherwise.
    asked = getattr(module, "asked", lambda rule: len(parameters))
    return types.SimpleNamespace(
        **{n: scope[n] for n in own}, Rule=module.Rule, numbers=Numbers(module.Rule), gates=gates, parameters=parameters, asked=asked
    )


def signed(rule):
    """Whether a neuron with this rule emits negative spikes: its Rule has a field `negative` that names how."""
    return getattr(rule, "negative", "none") != "none"


def remembers(rule):
    """Whether the count is a float memory, the sum of s theta: its Rule has a field `memory` that says so."""
    return getattr(rule, "memory", False)
