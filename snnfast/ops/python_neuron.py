"""A neuron of your own: one equation file in Python becomes an op."""

import inspect
import sys
import types
import typing

from snnfast import checks
from snnfast.equations.bind import functions
from snnfast.equations.rule import kind_of
from snnfast.ops import library
from snnfast.ops.neuron import Neuron

_ARGUMENTS = {"step": 5, "step_bwd": 7, "start": 3, "start_bwd": 4, "gates": 1}
# Arguments of the ops, of snnfast.iaf, of nn.IF and of convert.
_TAKEN = (
    "x theta v count v0 T inner spikes every mask state out state_out v_end count_end kept ds dv "
    "L thresh tau gama channelwise carry neuron net method parity"
).split()
_declared: dict[str, "PythonNeuron"] = {}  # module name -> PythonNeuron: declaring twice gives the same ops


def neuron(equation: types.ModuleType) -> "PythonNeuron":
    """Makes the equation in the module `equation` a neuron that runs all T steps in one launch.

    The module defines, as `snnfast/equations/neurons/iaf.py` does, in bare operators and the names `where(c, a, b)`, `div(a, b)`, `floor(a)`,
    `exp(a)`, `power(a)` (2^j with 0.75 2^j <= a < 1.5 2^j), `splat(like, number)`, which need no import (a bare `/` on fp32 is not a true division on
    a GPU):

        class Rule(typing.NamedTuple)                 numbers of a launch: fields of type bool, int, float or Literal, each with a default; a field
                                                      `negative` other than "none" says that spikes may be -1
        step(v, n, x, theta, k)                       -> (v, n, s): potential and net spike count after the step, spike s; k is the Rule
        step_bwd(c, dy, v, n, x, theta, k)            -> (c, dx, dtheta): the adjoint; v, n before the step; without it there is no gradient
        start(v0, theta, k), start_bwd(c, v0, theta, k)   if not v0 * theta
        gates(k)                                      False says that step_bwd does not read n; if not given, n is kept for it
        parameters = ("theta", ...)                   per-neuron numbers beside theta: theta is then a tuple of them, here and in the call, and so is
                                                      the gradient that step_bwd gives it (snnfast/equations/neurons/plif.py)

    It runs in plain torch on the CPU and in Triton on CUDA; there is no C++ to write. Other functions of the module may be used in these.

    Args:
        equation: an imported module. Its name is the name of the ops, snnfast::<name>_fwd, _out, _bwd.

    Returns:
        A function (x, theta, v0=0.5, *, T, spikes, mask, state, out, state_out, <fields of Rule>) with the arguments and results of `snnfast.iaf`;
        `snnfast.nn.IF(theta=..., neuron=it)` and `snnfast.convert(net, neuron=it)` take it too.

    Raises:
        TypeError, ValueError: the module lacks something, or its name is taken.

    >>> half = types.ModuleType("half")  # in a program of yours: a file half.py, and `import half`
    >>> exec("from typing import NamedTuple\\nclass Rule(NamedTuple):\\n    a: float = 0.5\\n"
    ...      "def step(v, n, x, theta, k):\\n    return v * k.a + x, n, where(v > theta, 1.0, 0.0)\\n", half.__dict__)
    >>> s, state = snnfast.neuron(half)(torch.ones(3, 1), 1.0, v0=0.0)
    >>> state.v.tolist()
    [1.75]
    """
    if not isinstance(equation, types.ModuleType):
        raise TypeError(f"equation must be an imported module, got {type(equation).__name__}")
    if equation.__name__ not in _declared:
        _declared[equation.__name__] = PythonNeuron(equation, _check(equation))
    found = _declared[equation.__name__]
    if found.step is not equation.step:
        raise ValueError(
            f"the module {equation.__name__} was loaded again, but its ops were declared before: restart Python, or give it another name"
        )
    return found


def _check(equation):
    """The name of the ops; an error if the module is not an equation."""
    where, own = f"equation {equation.__name__}", functions(equation)
    if "step" not in own:
        raise ValueError(f"{where} must define step(v, n, x, theta, k)")
    for name, many in _ARGUMENTS.items():
        if name in own and len(inspect.signature(own[name]).parameters) != many:
            raise ValueError(f"{where}: {name} must take {many} arguments, it takes {len(inspect.signature(own[name]).parameters)}")
    for name, function in own.items():
        if function.__closure__:
            raise ValueError(f"{where}: {name} must be a plain function, not a decorated one or one with variables of an outer function")
    if "step_bwd" in own and ("start" in own) != ("start_bwd" in own):
        raise ValueError(f"{where}: start and start_bwd come together, for one is the derivative of the other")
    Rule = getattr(equation, "Rule", None)
    if not (isinstance(Rule, type) and issubclass(Rule, tuple) and hasattr(Rule, "_fields")):
        raise ValueError(f"{where} must define class Rule(typing.NamedTuple), if need be without fields")
    for field in Rule._fields:
        kind = kind_of(Rule, field)
        if kind is None:
            given = typing.get_type_hints(Rule).get(field)
            raise TypeError(f"{where}: field {field} of Rule is {given}; allowed: bool, int, float, typing.Literal of texts")
        if field not in Rule._field_defaults:
            raise ValueError(f"{where}: field {field} of Rule needs a default")
        if kind is int:
            _exact(f"{where}: field {field} of Rule", Rule._field_defaults[field])
        if isinstance(kind, tuple) and Rule._field_defaults[field] not in kind:
            raise ValueError(f"{where}: field {field} of Rule is {Rule._field_defaults[field]!r} by default; it allows {', '.join(kind)}")
        if field == "negative" and not isinstance(kind, tuple):
            raise TypeError(f"{where}: field negative of Rule names the rule of negative spikes, a Literal; it is {kind.__name__}")
        if field in _TAKEN:
            raise ValueError(f"{where}: field {field} of Rule has the name of an argument of every neuron")
    stem = equation.__name__.rpartition(".")[2]
    if not stem.isidentifier():
        raise ValueError(f"{where}: the module's name becomes the name of its ops, so it must be a Python name")
    if f"{stem}_fwd" in library.names():
        raise ValueError(f"{where}: there is a neuron {stem!r} already; give the module another name")
    return stem


def _exact(name, value):
    """Refuses a whole number that the numbers of a rule, which are fp64, would round."""
    if abs(value) > 1 << 53:
        raise ValueError(f"{name} must be between -2^53 and 2^53, got a number of {value.bit_length()} bits")


class PythonNeuron:
    """What `snnfast.neuron` returns."""

    def __init__(self, equation, stem):
        self.__name__, self.Rule, self._module = stem, equation.Rule, equation.__name__
        self.step, self._types = equation.step, {field: kind_of(self.Rule, field) for field in self.Rule._fields}
        self.ops = Neuron(stem, equation)

    def rule(self, **fields):
        """A Rule with these fields, each checked against its type."""
        given = {}
        for name, value in fields.items():
            if name not in self._types:
                raise TypeError(f"{self.__name__} got an unexpected option {name}; its Rule has {', '.join(self._types) or 'no fields'}")
            kind = self._types[name]
            if kind is float:
                value = value if value in (checks.INF, -checks.INF) else checks.number(name, value)
            elif isinstance(kind, tuple):
                checks.choice(name, value, kind)
            elif not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise TypeError(f"{name} must be {kind.__name__}, got {type(value).__name__}")
            if kind is int:
                _exact(name, value)
            given[name] = value
        return self.Rule(**given)

    def __call__(self, x, theta, v0=0.5, *, T=None, spikes="scaled", mask=None, state=None, out=None, state_out=None, **rule):
        """See `snnfast.neuron` and `snnfast.iaf`."""
        return self.ops(x, theta, v0, self.rule(**rule), T=T, spikes=spikes, mask=mask, state=state, out=out, state_out=state_out)

    def __repr__(self):
        return f"snnfast.neuron({self._module})"

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return _by_name, (self._module,)


def _by_name(module):
    __import__(module)
    return neuron(sys.modules[module])
