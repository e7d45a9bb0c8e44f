"""The matrix products of a graph, and the number format they are computed in. Neurons, sums and poolings stay in fp32; a neuron's output is rounded
to 16 bits if the next product is in a 16-bit format.

fp32     full precision; on a GPU TF32 is off
tf32     GPU only: factors are rounded to 11 bits
bf16, fp16   factors and results are in this format
author   torch's own settings, untouched: cuDNN's convolutions then use TF32 on a GPU, which is what the methods' authors ran
"""

import contextlib
import copy

import torch

from snnfast import checks
from snnfast.graph.vocabulary import WEIGHTED, is_product

DTYPES = ("fp32", "tf32", "bf16", "fp16", "author")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_dtype(dtype, device):
    checks.choice("dtype", dtype, DTYPES)
    if dtype == "tf32" and torch.device(device).type != "cuda":
        raise ValueError(f"dtype 'tf32' is a format of GPUs, and the device is {device}; allowed there: fp32, bf16, fp16, author")
    return dtype


@contextlib.contextmanager
def formats(dtype, deterministic=False):
    """Sets the format to which torch may round factors of fp32 products, and with `deterministic` how cuDNN chooses; restores the settings after."""
    places = () if dtype == "author" else (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before, cudnn = [p.fp32_precision for p in places], torch.backends.cudnn
    choice = cudnn.benchmark, cudnn.deterministic
    try:
        for p in places:
            p.fp32_precision = "tf32" if dtype == "tf32" else "ieee"
        if deterministic:
            cudnn.benchmark, cudnn.deterministic = False, True
        yield
    finally:
        for p, old in zip(places, before):
            p.fp32_precision = old
        cudnn.benchmark, cudnn.deterministic = choice


def faithful(dtype):
    """The format of the quantised network with which a run in `dtype` is compared."""
    return "author" if dtype == "author" else "fp32"


class HalfProducts:
    """Computes product nodes in a 16-bit format, with copies of their weights; every other node gets fp32."""

    def __init__(self, gm, dtype):
        self.gm, self.dtype, self.copies = gm, HALF[dtype], {}

    def arguments(self, node, args, kwargs):
        to = self.dtype if is_product(node, self.gm) else torch.float32

        def cast(value):
            narrow = isinstance(value, torch.Tensor) and value.dtype in (torch.float32, torch.bfloat16, torch.float16)
            return value.to(to) if narrow else value

        return torch.fx.node.map_aggregate(args, cast), torch.fx.node.map_aggregate(kwargs, cast)

    def module(self, node, module):
        """`module`, which the node calls, with weights in the format of products."""
        if not isinstance(module, WEIGHTED):
            return module
        key = node.target, module.bias is None
        if key not in self.copies:
            self.copies[key] = copy.deepcopy(module).to(self.dtype)
        return self.copies[key]
