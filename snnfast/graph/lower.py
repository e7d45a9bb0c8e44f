"""Turns torch.export's graph into the graph that runs: layers are modules under their names, constants are computed, no size depends on the batch.

Every node that images reach has its images along one dimension, which `meta["rows"]` notes (`rows.py`): a run may then merge time and batch there.
Operators that would move, drop or mix images are refused by name.
"""

import operator

import torch
from torch import fx
from torch.utils import _pytree as pytree

from snnfast import nn
from snnfast.graph import aten
from snnfast.graph.modules import MADE
from snnfast.graph.operators import PLAIN, SHAPED, kind_of
from snnfast.graph.outputs import Outputs, leaves, plain
from snnfast.graph.placing import VIEWS, Places
from snnfast.graph.rewrite import moved
from snnfast.graph.rows import Rows


def lowered(program, net, read=None):
    """The fx.GraphModule of an exported program. net: the captured network, whose layers of `snnfast.nn` are used. read: see `snnfast.convert`."""
    return Lowering(program, net, read).module()


class Lowering:
    """The lowering of one exported program. Nodes of the exported graph are called `node` here, nodes of the new graph `made`."""

    def __init__(self, program, net, read=None):
        self.program, self.net, self.read, self.graph, self.root = program, net, read, fx.Graph(), torch.nn.Module()
        self.made = {}
        self.constants = {}  # values that follow from no image
        self.data = set()  # nodes that follow from the values of the images
        self.clips = {}  # {node that clips to [0, most]: (source, most)}, most None where nothing clips above
        self.layers, self.batches, self.image, self.places = {}, {}, None, None
        formats = {t.dtype for t in (*net.parameters(), *net.buffers()) if t.is_floating_point()}
        self.one_format = len(formats) < 2

    def module(self):
        self._inputs()
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self._node(node)
            elif node.op == "output":
                self._output(node)
        gm = fx.GraphModule(self.root, self.graph)
        gm.graph.eliminate_dead_code()
        gm.recompile()
        return gm

    # ---- inputs and output

    def _inputs(self):
        signature, program = self.program.graph_signature, self.program
        if signature.buffers_to_mutate:
            raise ValueError(f"net cannot be converted: its forward writes {', '.join(signature.buffers_to_mutate.values())}")
        weights = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        for node in program.graph.find_nodes(op="placeholder"):
            if node.name in weights:
                self.constants[node] = operator.attrgetter(weights[node.name])(self.net)
            elif node.name in signature.inputs_to_lifted_tensor_constants:
                self.constants[node] = program.constants[signature.inputs_to_lifted_tensor_constants[node.name]]
            elif isinstance(node.meta.get("val"), torch.Tensor):
                self.image = self.made[node] = self.graph.placeholder(node.name)
                size = node.meta["val"].shape[0]
                if not isinstance(size, torch.SymInt):
                    raise ValueError("net cannot be converted: its forward takes batches of one size alone")
                self.places = Places(size.node.expr)
                self.places.lie[node] = Rows(0)
                self.image.meta.update(rows=Rows(0), kind="image", shape=tuple(int(n) for n in node.meta["val"].shape[1:]))
                self.data.add(node)
            else:
                self.constants[node] = None

    def _output(self, node):
        given = zip(self.program.graph_signature.output_specs, node.args[0])
        results = [result for spec, result in given if spec.kind is torch.export.graph_signature.OutputKind.USER_OUTPUT]
        tree = pytree.tree_unflatten(list(range(len(results))), self.program.call_spec.out_spec)
        found = leaves(tree)
        names = list(found) if self.read is None else [self.read]
        if self.read is not None and list(found) == [""]:
            raise ValueError(f"read names one of several outputs, and net gives a single tensor, got {self.read!r}")
        if self.read is not None and self.read not in found:
            raise ValueError(f"read must be one of {', '.join(found)}, the outputs of net, got {self.read!r}")
        each = [self._result(name, results[found[name]], len(found) > 1) for name in names]
        if len(each) > 1:
            flat = [
                self._joined(torch.flatten if r.meta["val"].dim() > 1 else torch.ops.aten.unsqueeze.default, (self.made[r], 1))
                for r in each
            ]
            self.graph.output(self._joined(torch.cat, (flat, 1)))
        else:
            self.graph.output(self.made[each[0]])
        if names != [""]:
            shapes = [[int(n) for n in result.meta["val"].shape[1:]] for result in each]
            next(iter(self.graph.find_nodes(op="output"))).meta["outputs"] = Outputs(
                names, shapes, plain(tree) if self.read is None else 0, self.read
            )

    def _result(self, name, result, several):
        """A tensor that the network gives."""
        told = f"output {name} of net" if name else "net's output"
        more = "; read= names the one that is to be read" if several else ""
        if not isinstance(result, fx.Node) or not isinstance(result.meta["val"], torch.Tensor):
            raise ValueError(f"{told} is no tensor{more}")
        if result not in self.data:
            raise ValueError(f"{told} does not depend on its input{more}")
        if not self.places.lie[result].first:
            raise ValueError(
                f"net must return a row for each image; for {self.places.symbol} images {told} is {list(result.meta['val'].shape)}{more}"
            )
        return result

    def _joined(self, function, args):
        made = self.graph.call_function(function, args)
        made.meta.update(kind="view", rows=Rows(0), told=f"{function.__name__} of net's outputs")
        return made

    # ---- names

    def place(self, node):
        """(path, module) that a node belongs to, or ("", None)."""
        stack = [v for v in (node.meta.get("nn_module_stack") or {}).values() if isinstance(v, tuple)]
        path = stack[-1][0].split("@")[0] if stack else ""
        try:
            return (path, self.net.get_submodule(path)) if path else ("", None)
        except AttributeError:
            return "", None

    def told(self, node):
        """A node, for a message."""
        path, layer = self.place(node)
        name = aten.name_of(node.target) or getattr(node.target, "__name__", str(node.target))
        of_torch = type(layer).__module__.startswith("torch.nn.modules.") and not list(layer.children()) if path else False
        kind = type(layer).__name__
        return f"{path} ({kind})" if of_torch else f"{path} ({kind}, {name})" if path else f"{name} (node {node.name})"

    def path_for(self, node, classes):
        """A path for the layer that a node becomes: the path of its module, or that of the module that calls the function, plus the node's name."""
        path, layer = self.place(node)
        return path if isinstance(layer, classes) else f"{path}.{node.name}" if path else node.name

    # ---- arguments

    def argument(self, a):
        """An argument of an exported node, as one of the new graph."""
        return torch.fx.node.map_arg(a, self._reference)

    def _reference(self, node):
        if node in self.made:
            return self.made[node]
        value = self.constants[node]
        if not isinstance(value, torch.Tensor):
            return value
        name = f"constant_{node.name}"
        if isinstance(value, torch.nn.Parameter):
            self.root.register_parameter(name, value)
        else:
            self.root.register_buffer(name, value)
        self.made[node] = self.graph.get_attr(name)
        self.made[node].meta["kind"] = "constant"
        return self.made[node]

    def is_constant(self, a):
        """Whether an argument depends neither on the images nor on the batch's size."""
        return not isinstance(a, fx.Node) or a in self.constants

    def value(self, a):
        return self.constants[a] if isinstance(a, fx.Node) else a

    # ---- new nodes

    def emit(self, node, target, args, kwargs, kind, rows=None):
        """A call of a function in place of a node that images reach."""
        made = self.graph.call_function(target, args, kwargs)
        made.meta.update(kind=kind, rows=rows or self.places.put(node, self.told(node)), place=self.place(node)[0], told=self.told(node))
        made.meta["size"] = _size(node)
        self.made[node] = made
        return made

    def layer(self, node, name, make, x, key):
        """A call of a module in place of a node; nodes with the same key share one module. name: the module's path, with a number if it is taken."""
        if key not in self.layers:
            free, n = name, 0
            while _is_taken(self.root, free):
                n += 1
                free = f"{name}_{n}"
            _put(self.root, free, make())
            self.layers[key] = free
        return self.neuron(node, x, lambda x: self.graph.call_module(self.layers[key], (x,)), {}, first=key[0] in ("site", "clip"))

    def neuron(self, node, x, call, notes, first=True):
        """The result of `call` for the value x. If the images must come first but lie elsewhere, they are moved before the call and back after it."""
        rows = self.places.put(node, self.told(node))
        x, moves = self.argument(x), first and rows.axis != 0
        if first and rows.outer > 1:
            raise ValueError(f"{self.told(node)} takes values in which the images do not come before what else lies along their dimension")
        made = call(moved(self.graph, x, 0) if moves else x)
        made.meta.update(
            rows=rows._replace(axis=0) if moves else rows, place=self.place(node)[0], size=None if moves else _size(node), **notes
        )
        self.made[node] = moved(self.graph, made, rows.axis) if moves else made
        return made

    def batch(self, size):
        """A node with a multiple of the batch's size."""
        many = self.places.times(size)
        if many is None:
            raise ValueError(f"net cannot be converted: it makes a size of {size}, where the batch is {self.places.symbol}")
        if many not in self.batches:
            made = self.graph.call_function(torch.ops.aten.sym_size.int, (self.image, 0))
            made.meta["kind"] = "size"
            if many != 1:
                made = self.graph.call_function(operator.mul, (made, many))
                made.meta["kind"] = "size"
            self.batches[many] = made
        return self.batches[many]

    # ---- the nodes of the exported graph

    def _node(self, node):
        inputs, name = node.all_input_nodes, aten.name_of(node.target)
        if name in aten.IGNORED or (name == "sym_size" and not node.users):
            return
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt) and value.node.expr.free_symbols:
            if node.users:
                self.made[node] = self.batch(value)
        elif not any(a in self.data or a in self.made and self.made[a].meta["kind"] in ("size", "rows") for a in inputs):
            self._constant(node)
        elif not any(a in self.data for a in inputs):
            self._of_the_batch(node, name)
        elif name in aten.CREATED and self._is_filled_alone(node):
            number = aten.filled_with(node, self.value)
            self.constants[node] = torch.full(value.shape, number, dtype=value.dtype, device=value.device)
        else:
            self.data.add(node)
            self._of_images(node, name)

    def _is_filled_alone(self, node):
        """Whether equal numbers fill a shape without the batch: only the dtype comes from an image, as in x.new_zeros((7, 7))."""
        given = aten.arguments(node)
        known = given.get("fill_value", given.get("value")) not in self.data
        return known and not any(isinstance(n, torch.SymInt) and n.node.expr.free_symbols for n in node.meta["val"].shape)

    def _of_the_batch(self, node, name):
        """A constant whose size depends on the batch. A constant of equal numbers follows the format of the network, as the weights do."""
        rows, value = self.places.put_constant(node, self.told(node)), node.meta["val"]
        if name in aten.CREATED and value.is_floating_point() and rows is not None:
            self.equal(node, rows)
            return
        if name in aten.NOTHING or self._is_cast(node, name):
            self.made[node] = self.argument(node.all_input_nodes[0])
            return
        target, args, kwargs = node.target, self.argument(node.args), self.argument(node.kwargs)
        if name in VIEWS:  # a copy in front, which made the value one piece of memory, may be gone
            target, args, kwargs = torch.reshape, (args[0], self.shape(value)), {}
        self.made[node] = self.graph.call_function(target, args, kwargs)
        self.made[node].meta.update(kind="rows", rows=rows)

    def shape(self, value):
        """The shape of a value, with nodes for the sizes that depend on the batch."""
        return [self.batch(n) if isinstance(n, torch.SymInt) else int(n) for n in value.shape]

    def equal(self, node, rows):
        """A value of equal numbers, of the shape of what an exported node gives."""
        value, name = node.meta["val"], f"constant_{node.name}"
        number = aten.filled_with(node, self.value)
        self.root.register_buffer(name, torch.full([1] * value.dim(), number, dtype=value.dtype, device=value.device))
        constant = self.graph.get_attr(name)
        constant.meta["kind"] = "constant"
        self.expanded(node, constant, rows)

    def expanded(self, node, constant, rows):
        """A constant, as large as what an exported node gives."""
        made = self.graph.call_function(torch.ops.aten.expand.default, (constant, self.shape(node.meta["val"])))
        made.meta.update(kind="rows", rows=rows)
        self.made[node] = made

    def _constant(self, node):
        self._check_random(node)
        with torch.no_grad():
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda a: self.constants[a])
            self.constants[node] = node.target(*args, **kwargs)

    def _check_random(self, node):
        given = aten.arguments(node) if isinstance(node.target, torch._ops.OpOverload) else {}
        if not given or not node.users or given.get("dropout_p") == 0 or given.get("train") is False:
            return
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise ValueError(f"{self.told(node)} draws random numbers, which every step would draw anew")

    def _of_images(self, node, name):
        """A node that the values of the images reach."""
        if node.target is operator.getitem:
            self._part(node)
        elif name == "site":
            self._site(node, aten.arguments(node)["name"])
        elif name in aten.NOTHING or self._is_off(node, name) or self._is_cast(node, name):
            self.made[node] = self.argument(node.all_input_nodes[0])
            self.places.lie[node] = self.places.lie[node.all_input_nodes[0]]
        else:
            self._check_random(node)
            given = aten.arguments(node)
            if name not in MADE or not MADE[name](self, node, given):
                self._function(node, name, given)

    def _site(self, node, path):
        """A layer of `snnfast.nn`."""
        layer, rows = self.net.get_submodule(path), self.places.put(node, self.told(node))
        masks = isinstance(layer, nn.SpikeMask) or getattr(layer, "mask", None) is not None
        many = nn.threshold_of(layer).numel() > 1 if nn.is_quantised(layer) else not isinstance(layer, nn.SpikeMask)
        if (rows.axis and many) or (masks and not rows.first):
            raise ValueError(f"{path} ({type(layer).__name__}) needs its images along dimension 0, one row each")
        self.layer(node, path, lambda: layer, node.args[0], ("site", path))

    def _part(self, node):
        """One of several values."""
        source, which = node.args
        if "first_alone" not in self.made[source].meta:
            self.emit(node, operator.getitem, (self.made[source], which), {}, "view", self.places.put(node, self.told(source)))
        elif which == 0:
            self.made[node], self.places.lie[node] = self.made[source], self.places.lie[source]
        elif node.users:
            what = "the indices of a max pooling" if "pool" in aten.name_of(source.target) else "more than one value"
            raise ValueError(f"{self.told(source)} returns {what}, which spikes do not have")

    def _is_off(self, node, name):
        """Dropout in eval mode."""
        return "dropout" in (name or "") and name != "scaled_dot_product_attention" and aten.arguments(node).get("train") is False

    def _is_cast(self, node, name):
        """A cast between formats of floating point, in a network whose weights have one format."""
        if name not in ("to", "_to_copy", "type_as") or not node.meta["val"].is_floating_point():
            return False
        return self.one_format and node.all_input_nodes[0].meta["val"].is_floating_point()

    def _function(self, node, name, given):
        """An operator that does not become a module."""
        if name in SHAPED and SHAPED[name](self, node, given):
            return
        if any(isinstance(a.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool)) for a in node.all_input_nodes):
            raise ValueError(f"{self.told(node)} works with the number of images, with which time is merged here")
        if name in PLAIN and PLAIN[name](self, node, given):
            return
        self.emit(node, node.target, self.argument(node.args), self.argument(node.kwargs), kind_of(self, node, given))


def _size(node):
    """The shape of the tensor that a node gives, -1 where the images are; None of several tensors."""
    value = node.meta["val"]
    return tuple(-1 if isinstance(n, torch.SymInt) else int(n) for n in value.shape) if isinstance(value, torch.Tensor) else None


def _is_taken(root, path):
    """Whether a module, or another thing, has this path."""
    for part in path.split("."):
        if not hasattr(root, part):
            return False
        root = getattr(root, part)
    return type(root) is not torch.nn.Module


def _put(root, path, module):
    """Puts a module under a path. If a container stands there already, the module takes over its children."""
    *parents, last = path.split(".")
    for part in parents:
        if not hasattr(root, part):
            root.add_module(part, torch.nn.Module())
        root = getattr(root, part)
    for name, child in getattr(root, last, torch.nn.Module()).named_children():
        module.add_module(name, child)
    root.add_module(last, module)
