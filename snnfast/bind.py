"""Binds the functions of an equation's module to an engine's primitives.

An equation calls `where`, `div`, `floor`, `exp` without importing them. `bind` copies its functions with those names (and each other's
copies) as globals, so that one source serves torch and Triton.
"""

import types


def functions(module):
    """The functions that `module` itself defines, by name."""
    found = vars(module).items()
    return {n: f for n, f in found if isinstance(f, types.FunctionType) and f.__module__ == module.__name__}


def bind(module, wrap=lambda f: f, **names):
    """A namespace with `module`'s functions, bound to `names` and passed through `wrap`."""
    scope = {**vars(module), **names}
    for name, function in functions(module).items():
        copy = types.FunctionType(function.__code__, scope, name, function.__defaults__)
        copy.__module__ = function.__module__
        scope[name] = wrap(copy)
    return types.SimpleNamespace(**{n: scope[n] for n in functions(module)}, Rule=module.Rule)
