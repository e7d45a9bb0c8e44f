"""A small case of each CUDA kernel, for compute-sanitizer: `compute-sanitizer --tool memcheck python tests/sanitize.py` (`make gpu` does).

`--shared`: the kernels alone whose threads meet in shared memory, for racecheck.
Run with PYTORCH_NO_CUDA_MEMORY_CACHING=1, so that every tensor is an allocation of its own and a step past its end is seen.
"""

import itertools
import sys

import torch

import snnfast
from snnfast.engines.form import EVERY, SPIKES
from snnfast.ops import channels, conv, cos, norm_neuron, plif, pool, quanta
from snnfast.ops import iaf as op
from snnfast.ops import qcfs as qop

RULES = (
    op.rule_of(), op.rule_of(negative="stbif", unit="normalised", surrogate="atan"), op.rule_of(tau=2.7, offset=0.25),
    op.rule_of(negative="snm", memory=True),
)  # fmt: skip


def neurons():
    """Launches of the time loops; how many."""
    words = torch.cuda.get_device_properties(0).multi_processor_count * 256  # threads from which a thread takes 16 bytes
    launches = 0
    for dtype, rule, wide in itertools.product((torch.float32, torch.float16, torch.float64), RULES, (False, True)):
        T, N = 5, words * 8 if wide else 70
        x, theta = torch.randn(T, N, device="cuda").to(dtype), torch.rand(N, device="cuda", dtype=torch.float64) + 0.5
        theta = theta if dtype == torch.float64 else theta.float()
        for spikes in SPIKES if dtype == torch.float32 else ("scaled", "bits"):
            if spikes == "count" and rule.memory:
                continue
            numbers = op.OPS.eq.numbers.pack(rule)
            *_, kept = op.iaf_fwd(x, theta, None, None, None, T, 1, 0.5, SPIKES.index(spikes), EVERY, numbers)
            launches += 1
        op.iaf_bwd(x, None, x, theta, None, None, None, kept, T, 1, 0.5, numbers)
        own, numbers = torch.stack((theta, theta / 2)), plif.OPS.eq.numbers.pack(RULES[0])
        *_, kept = plif.OPS.fwd(x, own, None, None, None, T, 1, 0.5, 0, EVERY, numbers)
        plif.OPS.bwd(x, None, x, own, None, None, None, kept, T, 1, 0.5, numbers)
        numbers = quanta.OPS.eq.numbers.pack(quanta.rule_of(8, "power", negative="stbif"))
        *_, kept = quanta.OPS.fwd(x, theta / 4, None, None, None, T, 1, 0.5, 0, EVERY, numbers)
        quanta.OPS.bwd(x, None, x, theta / 4, None, None, None, kept, T, 1, 0.5, numbers)
        own = torch.stack((theta, theta / 2, theta, theta / 4))
        numbers = norm_neuron.OPS.eq.numbers.pack(norm_neuron.equation.Rule(tau=2.0, asked=2))
        *_, kept = norm_neuron.OPS.fwd(x, own, None, None, None, T, 1, 0.5, 0, EVERY, numbers)
        norm_neuron.OPS.bwd(x, None, x, own, None, None, None, kept, T, 1, 0.5, numbers)
        flat = x.reshape(-1)
        for C, inner in ((N, 1), (2, N // 2)):
            channels.channel_sums(flat, torch.zeros(C, device="cuda", dtype=torch.float64), inner)
            channels.channel_add(flat.clone(), flat, torch.zeros(2, C, device="cuda", dtype=theta.dtype), inner)
        for images in (x.view(T, 2, N // 2, 1), x.view(T, 2, 1, N // 2)):
            _, at = pool.pool_fwd(images.contiguous(), [2, 2, 1, 1, 1, 1])
            pool.pool_bwd(torch.ones_like(at, dtype=dtype), at.view(-1), *images.shape[1:3], [2, 2, 1, 1, 1, 1])
        cos.cos_fwd(x, theta, T, 1, 0.5, [0.0, 2.0])
        launches += 6 + 2 + 4 + 4
    return launches


def convolutions():
    launches = 0
    sizes = (3, 10, 1), (70, 130, 1), (3, 70, 7), (1, 130, 130), (40, 66, 2)  # channels and outputs of a group, groups
    for dtype, (C, O, groups) in itertools.product((torch.float32, torch.float64), sizes):  # noqa: E741
        x, w = torch.randn(5, 7, 6, C * groups, device="cuda", dtype=dtype).relu(), torch.randn(3, 3, C, O, device="cuda", dtype=dtype)
        conv.conv_fwd(x, w, w[0, 0, 0].contiguous(), 2, 1, 1, 0, 1, 2)
        launches += 1
    return launches


def shared():
    """The kernels whose threads meet in shared memory: the activations' sums, and functions of rows."""
    launches = 0
    for dtype, (C, inner, outer) in itertools.product(
        (torch.float32, torch.bfloat16), ((1, 1, 70_001), (5, 300, 7), (37, 1, 301), (64, 4, 99))
    ):
        x, theta = torch.randn(C * inner * outer, device="cuda").to(dtype), torch.rand(C, device="cuda") + 0.5
        qop.qcfs_fwd(x, theta, inner, [4.0, 0.0])
        qop.qcfs_bwd(x, x, theta, inner, [4.0, 0.0])
        launches += 2
    # Rows of a warp, and of several, which meet at barriers in shared memory.
    for dtype, C in itertools.product((torch.float32, torch.float64), (37, 200, 500, 1000, 2000, 4000)):
        x = torch.randn(3, 5, C, device="cuda", dtype=dtype)
        snnfast.softmax_over_time(x)
        snnfast.layer_norm_over_time(x, x[0, 0], x[0, 1])
        launches += 2
    return launches


def main():
    for part in (shared,) if "--shared" in sys.argv else (shared, neurons, convolutions):
        launches = part()
        torch.cuda.synchronize()
        print(f"{part.__name__}: {launches} launches by {snnfast.engines.backends.provider}", flush=True)


if __name__ == "__main__":
    main()
