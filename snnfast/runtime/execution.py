"""How a run computes the nodes between its neurons: the format of matrix products, shapes that do not depend on the batch, and a clock."""

import contextlib
import operator
import time

import torch

from snnfast.graph.flow import served, unspiking
from snnfast.graph.rows import Rows, rows_of
from snnfast.graph.units import pooling_of, units
from snnfast.graph.vocabulary import module_of
from snnfast.nn.over_time import fresh
from snnfast.ops.layout import layout_of
from snnfast.runtime import linear_part
from snnfast.runtime.exact_products import ExactProduct, added_up
from snnfast.runtime.fixed_shapes import FixedShapes, is_sensitive
from snnfast.runtime.number_formats import HALF, HalfProducts, check_dtype
from snnfast.runtime.sparse_products import SparseProduct, lay, products_of
from snnfast.runtime.whole_numbers import handed_over, summed

# Elementwise functions in the form that writes to given memory (`out=`).
INTO = {
    operator.add: torch.add,
    operator.sub: torch.sub,
    operator.mul: torch.mul,
    torch.add: torch.add,
    torch.sub: torch.sub,
    torch.mul: torch.mul,
}


ALIGNED = 64  # bytes: the alignment of torch's allocations


def into(function, args, take):
    """function(*args) in memory from `take`. None unless there are two operands of one dtype, one of which has the layout of the result."""
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    if len(args) != 2 or not isinstance(args[0], torch.Tensor) or not isinstance(args[1], (torch.Tensor, int, float)):
        return None
    like = max(tensors, key=torch.Tensor.numel)
    layout = layout_of(like)
    if not layout.dense or not like.is_floating_point() or any(t.dtype != like.dtype for t in tensors):
        return None
    if torch.broadcast_shapes(*(t.shape for t in tensors)) != like.shape:
        return None
    return function(*args, out=layout.unvector(take(layout.N, like.dtype)))


class Clock:
    """Seconds per node, summed over a run. On a GPU events are recorded, and read when the sums are asked for or 4,096 of them wait."""

    def __init__(self, device):
        self.on_gpu, self.seconds, self.events = torch.device(device).type == "cuda", {}, []

    @contextlib.contextmanager
    def __call__(self, name):
        if self.on_gpu:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            yield
            last.record()
            self.events.append((name, first, last))
            if len(self.events) >= 1 << 12:
                self._read()
        else:
            began = time.perf_counter()
            yield
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def _read(self):
        torch.cuda.synchronize()
        for name, first, last in self.events:
            self.seconds[name] = self.seconds.get(name, 0.0) + first.elapsed_time(last) / 1e3
        self.events = []

    def take(self):
        """Seconds by node name since the last call."""
        if self.events:
            self._read()
        taken, self.seconds = self.seconds, {}
        return taken


class Execution:
    """Computes one node after another for the runs of one network.

    dtype: of matrix products, see `snnfast/runtime/number_formats.py`.  deterministic: see `snnfast/runtime/fixed_shapes.py`.  timed: whether
    `clock` runs. graphs: a `snnfast.runtime.cuda_graphs.Graphs`, which serves one run at a time, or None.  products: see
    `snnfast/runtime/sparse_products.py`.
    """

    def __init__(self, gm, device="cpu", dtype="fp32", deterministic=False, timed=False, graphs=None, products=None):
        device = torch.device(device)
        check_dtype(dtype, device)
        self.gm, self.dtype, self.deterministic, self.graphs = gm, dtype, deterministic, graphs
        self.half = HalfProducts(gm, dtype) if dtype in HALF else None
        self.fixed = FixedShapes(gm, device) if deterministic else None
        self.clock = Clock(device) if timed else None
        self.products, self.served = products_of(products, dtype, device), {}
        self.units = units(gm) if self.products == "exact" else {}
        self.poolings = {n: pooling_of(n, module_of(gm, n)) for n in self.units}  # None of what is none
        self.added = dict.fromkeys(
            node for unit in self.units.values() for node in unit.sized
        )  # how many values each pooling adds up, as seen in a run
        self.linear_parts = {}  # modules without their constants, by name
        self.unspiking = unspiking(gm)
        lay(gm, self.products)

    def module(self, node, constants=True):
        """The module that a node calls. constants: whether the module keeps its bias."""
        module = self.gm.get_submodule(node.target)
        if constants:
            return module
        if node.target not in self.linear_parts:
            self.linear_parts[node.target] = linear_part.module_without_constant(module)
        return self.linear_parts[node.target]

    def product(self, node, constants=True):
        """The `SparseProduct` or `ExactProduct` of a node, or None where torch computes it."""
        if self.products == "dense" or node in self.unspiking:
            return None
        if (node, constants) not in self.served:
            module = self.module(node, constants) if node.op == "call_module" else None
            self.served[node, constants] = self._product(node, module) if served(module) else None
        return self.served[node, constants]

    def _product(self, node, module):
        unit = self.units.get(node.all_input_nodes[0])
        if unit is None or module.weight.dtype != torch.float32 or (unit.by_channel and isinstance(module, torch.nn.Linear)):
            return SparseProduct(module)
        return ExactProduct(module, node.target, unit, self.gm.get_submodule(unit.source.target).theta, self.added)

    def whole(self):
        """The nodes whose values are whole numbers in a run that begins now, unless somebody observes it."""
        return handed_over(self) if self.units else set()

    def exact(self):
        """Names of the layers that have computed exact sums so far."""
        return list(dict.fromkeys(p.name for p in self.served.values() if isinstance(p, ExactProduct) and p.key is not None))

    def chunk(self, run, steps):
        """The next `steps` steps of a run."""
        return self.graphs.chunk(run, steps) if self.graphs else run.chunk(steps)

    def timed(self, node):
        return self.clock(node.name) if self.clock else contextlib.nullcontext()

    def node(self, interpreter, node, env, per_row=(), rows=0, take=None, constants=True):
        """The value of a node. per_row: the nodes whose values have a row for each of `rows` images (times steps).

        take: gives the memory for the result of a sparse product or an elementwise function, (numel, dtype) -> a flat tensor.
        constants: False for the node's linear part alone.
        """
        if product := self.product(node, constants):
            return product(env[node.all_input_nodes[0]], take)
        if (pooling := self.poolings.get(node)) is not None and (x := env[node.all_input_nodes[0]]).dtype == torch.int8:
            return summed(x, pooling, take or fresh(x.device))
        value = self._computed(interpreter, node, env, per_row, rows, take, constants)
        if node in self.added:
            self.added[node] = added_up(env[node.all_input_nodes[0]], value)
        return value

    def _computed(self, interpreter, node, env, per_row, rows, take, constants):
        if take and node.target in INTO and not self.half and not node.kwargs:
            args = [env[a] if isinstance(a, torch.fx.Node) else a for a in node.args]
            if constants or not linear_part.has_number(node, args):
                value = into(INTO[node.target], args, take)
                if value is not None:
                    return value
        interpreter.env = env
        if self.half is None and self.fixed is None and constants:
            return interpreter.run_node(node)
        args, kwargs = interpreter.fetch_args_kwargs_from_env(node)
        if not constants:
            args, kwargs = linear_part.without_constant(node, self.gm, args, kwargs)
        if node.op == "call_module":
            module = self.module(node, constants)
            function = self.half.module(node, module) if self.half else module
        else:
            function = lambda *a, **k: getattr(interpreter, node.op)(node.target, a, k)
        if self.half and node.op != "placeholder":
            args, kwargs = self.half.arguments(node, args, kwargs)
        if self.fixed is None or not is_sensitive(node, self.gm):
            return function(*args, **kwargs)
        return self._in_fixed_shapes(node, function, args, kwargs, per_row, rows)

    def in_fixed_shapes(self, node, rows, function, per_row, inputs):
        """function(*inputs) of a node, in calls of fixed shapes. per_row: for each input, whether it has a row for each of `rows` images."""
        changing = [x for x, has_rows in zip(inputs, per_row) if has_rows]
        if any(x.size(0) % rows for x in changing):
            return function(*inputs)
        lie, to = [Rows(0, x.size(0) // rows) for x in changing], Rows(0, rows_of(node).times)

        def on(*slices):
            slices = iter(at.back(x) for x, at in zip(slices, lie))
            return to.by_image(function(*(next(slices) if has_rows else x for x, has_rows in zip(inputs, per_row))))

        return to.back(self.fixed.call(node, on, [at.by_image(x) for x, at in zip(changing, lie)], rows))

    def write(self, node, x, out, constants):
        """Writes layer(x), x [B, ...], to `out` without other memory. If torch cannot do so, returns False and writes nothing."""
        module = self.module(node, constants)
        hooks = module._forward_hooks or module._forward_pre_hooks
        aligned = out.is_contiguous() and out.data_ptr() % ALIGNED == 0  # at other addresses a library may sum in another order
        if type(module) is not torch.nn.Linear or self.half or self.fixed or hooks or not aligned:
            return False
        x, out, weight = x.reshape(-1, x.size(-1)), out.view(-1, out.size(-1)), module.weight.t()
        torch.mm(x, weight, out=out) if module.bias is None else torch.addmm(module.bias, x, weight, out=out)
        return True

    def _in_fixed_shapes(self, node, function, args, kwargs, per_row, rows):
        """The arguments that have a row per image are sliced; the others go into every call as they are."""
        places = [i for i, a in enumerate(node.args) if isinstance(a, torch.fx.Node) and a in per_row and isinstance(args[i], torch.Tensor)]
        names = [k for k, a in node.kwargs.items() if isinstance(a, torch.fx.Node) and a in per_row and isinstance(kwargs[k], torch.Tensor)]
        if not places and not names:
            return function(*args, **kwargs)
        given = [args[i] for i in places] + [kwargs[k] for k in names]
        to = rows_of(node)
        lie = [rows_of(a) for a in [node.args[i] for i in places] + [node.kwargs[k] for k in names]]
        if any(at is None or not at.fits(t, rows) for t, at in zip(given, lie)):
            return function(*args, **kwargs)  # a value without a row per image: the run refuses the node by name

        def on(*slices):
            new, more = list(args), dict(kwargs)
            slices = [at.back(t) for t, at in zip(slices, lie)]
            for i, t in zip(places, slices):
                new[i] = t
            more.update(zip(names, slices[len(places) :]))
            return to.by_image(function(*new, **more))

        return to.back(self.fixed.call(node, on, [at.by_image(t) for t, at in zip(given, lie)], rows))
