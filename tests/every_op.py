"""Every op once on the GPU against the reference on the CPU, in seconds: `python tests/every_op.py`, the first thing `make gpu` asks.

`--stand-in` runs the CUDA kernels compiled for the host instead. One line for each op; exit status 1 if one differs.
"""

import sys
import time
from pathlib import Path

import cases
import torch

sys.path.append(str(Path(__file__).parent / "engines"))

from test_backends import QCFS, check_cos, check_qcfs, check_row
from test_channels import CHANNELS, check_channels
from test_conv import check_conv
from test_pool import POOLS, check_pool
from test_rows import ROWS, check_rows

from snnfast.engines.form import EVERY
from snnfast.ops import channels, conv, cos, norm_neuron, plif, pool, quanta, rows
from snnfast.ops import iaf as op
from snnfast.ops import qcfs as qop


def kernels(stand_in):
    """op -> what runs it on the device."""
    if not stand_in:
        return lambda overload: overload
    from on_host import host_kernels

    return host_kernels()


def main():
    stand_in = "--stand-in" in sys.argv
    device, k, bad = "cpu" if stand_in else "cuda", kernels(stand_in), 0
    neurons = cases.sample(1, seed=5, sizes=[(7, 37), (18, 300)])
    iaf = k(op.iaf_fwd), k(op.iaf_out), k(op.iaf_bwd)
    learnt = cases.sample(1, seed=5, sizes=[(18, 300)], knobs=cases.PLIF_KNOBS)[:4]
    plifs = k(plif.OPS.fwd), k(plif.OPS.out), k(plif.OPS.bwd)
    normed = cases.sample(1, seed=5, sizes=[(18, 300)], knobs=cases.NORM_KNOBS)[:4]
    norms = k(norm_neuron.OPS.fwd), k(norm_neuron.OPS.out), k(norm_neuron.OPS.bwd)
    several = cases.sample(1, seed=5, sizes=[(18, 300)], knobs=cases.QUANTA_KNOBS)[:4]
    quanta_of = k(quanta.OPS.fwd), k(quanta.OPS.out), k(quanta.OPS.bwd)
    checks = [
        *(
            (f"quanta {cases.name(row)}", lambda row=row: check_row(row, *quanta_of, device, EVERY, make=cases.QuantaCase))
            for row in several
        ),
        *((f"iaf {cases.name(row)}", lambda row=row: check_row(row, *iaf, device, EVERY)) for row in neurons),
        *((f"plif {cases.name(row)}", lambda row=row: check_row(row, *plifs, device, EVERY, make=cases.PlifCase)) for row in learnt),
        *((f"norm_neuron {cases.name(row)}", lambda row=row: check_row(row, *norms, device, EVERY, make=cases.NormCase)) for row in normed),
        ("channels", lambda: check_channels(CHANNELS[8], k(channels.channel_sums), k(channels.channel_add), device)),
        ("pool", lambda: check_pool(POOLS[1], k(pool.pool_fwd), k(pool.pool_bwd), device)),
        ("cos", lambda: check_cos(cases.COS[0], k(cos.cos_fwd), device)),
        ("qcfs", lambda: check_qcfs(*QCFS[0], k(qop.qcfs_fwd), k(qop.qcfs_bwd), device)),
        ("conv", lambda: check_conv(cases.CONV[0], k(conv.conv_fwd), k(conv.conv_out), device)),
        ("softmax, layer norm", lambda: check_rows(ROWS[0], k(rows.softmax_out), k(rows.layer_norm_out), device)),
    ]
    # As in the tests: what nobody wrote is NaN.
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    for name, check in checks:
        began = time.perf_counter()
        try:
            check()
            word = "same bits"
        except Exception as error:
            bad, word = bad + 1, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'differs'}"
        print(f"{name}: {word}, {time.perf_counter() - began:.2f} s", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
