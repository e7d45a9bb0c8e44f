"""One pass of the quantised network that a spiking network stands for: each neuron's level, what every product multiplies, and the outputs."""

import torch
from torch import fx

from snnfast import nn
from snnfast.evaluation.entering import Operand, share_inside
from snnfast.graph import products
from snnfast.graph.vocabulary import is_product, weight_of
from snnfast.ops.qcfs import qcfs


class QuantisedPass:
    """One pass of a spiking network's graph with the activation in place of every neuron.

    fixed: the values that a run has computed already, before the first neuron.  rungs: whether thresholds are the size of one level.
    alpha: each neuron's level. work: for each operand of a product (multiplications, input elements, share of the multiplications that are not with
    a border), the first two per image. known: multiplications of products of two values, by node, to which the pass adds its own. logits: the outputs
    of the quantised network.
    """

    def __init__(self, gm, plan, levels, image, execution, fixed=(), rungs=False, known=None):
        self.gm, self.levels, self.rungs, self.alpha, self.work, env = gm, levels, rungs, {}, {}, {}
        self.plan, self.known = plan, {} if known is None else known
        interpreter = fx.Interpreter(gm, garbage_collect_values=False)
        interpreter.args_iter = iter([image])
        last = {a: node for node in gm.graph.nodes for a in node.all_input_nodes}
        for node in gm.graph.nodes:
            if node.op == "output":
                self.logits = env[node.args[0]]
                return
            if node in fixed:
                env[node] = fixed[node]
            else:
                env[node] = self._value(node, env, interpreter, execution, plan, image.size(0))
            if is_product(node, gm):
                self._count(node, env, image.size(0))
            elif products.may_multiply_values(node, gm):
                self._count_of_values(node, env, image.size(0))
            for a in node.all_input_nodes:
                if last[a] is node:
                    env.pop(a, None)

    def _value(self, node, env, interpreter, execution, plan, images):
        layer = self.gm.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(layer, nn.IF):
            return self._activation(node, layer, env[node.all_input_nodes[0]])
        return execution.node(interpreter, node, env, plan.per_row, images)

    def _activation(self, node, layer, x):
        theta, L = layer.theta_for(x) * layer.parts, self.levels.get(node.target)
        if L is None:
            return torch.minimum(x.relu(), theta.to(x.dtype))
        if self.rungs:
            low, high = layer.options["caps"]
            self.alpha[node] = torch.floor(x / theta + 0.5).clamp(low, high).to(torch.int32)
            return self.alpha[node] * theta
        y = qcfs(x, theta, L)
        self.alpha[node] = (y / theta * L).round().to(torch.int32)
        return y

    def _count(self, node, env, images):
        """Notes the work of a product, per image. A transposed convolution multiplies per input, other layers per output."""
        layer = self.gm.get_submodule(node.target) if node.op == "call_module" else None
        inputs, weight = env[node.all_input_nodes[0]], weight_of(node, self.gm, env)
        many = inputs if isinstance(layer, torch.nn.modules.conv._ConvTransposeNd) else env[node]
        macs = many.numel() // images * weight[0].numel()
        self.work[Operand(node, 0)] = (macs, inputs.numel() // images, share_inside(layer, inputs.shape[2:]))

    def _count_of_values(self, node, env, images):
        """Per image. Each factor that spikes reach is an operand: in mode "differential" a spike of either meets the sum of the other so far. Step by
        step a spike of the first meets the other's values."""
        if node not in self.known:
            self.known[node] = products.multiplications(node, self.gm, env) // images
        if not self.known[node]:
            return
        places = [i for i, a in enumerate(node.all_input_nodes) if a in self.plan.spiking]
        both = products.is_of_values(node, self.gm, self.plan.spiking) and self.rungs
        for place in (places if both else places[:1]) or [0]:
            each = env[node.all_input_nodes[place]].numel() // images
            times = products.times_among_factors(node, self.gm, place) if both else 1
            self.work[Operand(node, place)] = (self.known[node], each / times if times > 1 else each, 1.0)
