"""The CUDA column without a GPU: its kernels, compiled for the host, equal the reference bit for bit over the case table.

`tests/cuda_on_host/cuda_runtime.h` runs a block's threads as fibers; every index, word, ballot and sum is the device's. What this cannot show: speed,
ptxas (tests/engines/test_compile_only.py), streams, and races between blocks (there is nothing that blocks share).
"""

import cases
import pytest
from on_host import BUILD, host_kernels, on_host_library
from test_backends import QCFS, check_cos, check_qcfs, check_row, check_whole_quotients
from test_channels import CHANNELS, check_channels
from test_conv import check_conv
from test_pool import POOLS, check_pool
from test_rows import ROWS as LENGTHS
from test_rows import check_rows

from snnfast.engines.form import EVERY
from snnfast.ops import channels, conv, cos, norm_neuron, plif, pool, quanta
from snnfast.ops import iaf as op
from snnfast.ops import qcfs as qop
from snnfast.ops import rows as rop

# Beside the sizes of the other columns, some that fill 16-byte words: the host has one multiprocessor.
ROWS = cases.sample(50, seed=3, sizes=[*cases.SIZES, (5, 2048), (19, 4096)])


@pytest.fixture(scope="module")
def on_host():
    """Calls an op's CUDA kernel on CPU tensors: on_host(op)(*args)."""
    if not on_host_library():
        if not list(BUILD.glob("cmake-*/CMakeFiles/kernels_cuda.dir")):
            pytest.skip("no CUDA compiler was found when snnfast was built, so there are no CUDA headers to compile the kernels with")
        pytest.fail("the CUDA kernels were not built for the host: run `make test`, or `make test-native` once")
    return host_kernels()


@pytest.mark.parametrize("row", ROWS, ids=cases.name)
def test_iaf(on_host, row):
    check_row(row, on_host(op.iaf_fwd), on_host(op.iaf_out), on_host(op.iaf_bwd), every=EVERY)


# Few neurons and many steps: whole and ragged tiles of 32 steps, whole and ragged warps, 2 to 4 of them. That kernel takes most of what is drawn.
FEW = cases.sample(
    30, seed=9, sizes=[(64, 64), (70, 40), (97, 128), (160, 104)],
    knobs=cases.KNOBS | dict(unit=["volts"], reset=["soft"], strict=[False], constant=[False], surrogate=["zif"], detach=[False], memory=[False],
                             offset=[0.0], leak=[None]),
)  # fmt: skip


@pytest.mark.parametrize("row", FEW, ids=cases.name)
def test_iaf_of_few_neurons(on_host, row):
    check_row(row, on_host(op.iaf_fwd), on_host(op.iaf_out), on_host(op.iaf_bwd), every=EVERY)


@pytest.mark.parametrize("row", ROWS[::4], ids=cases.name)
def test_iaf_that_kept_nothing(on_host, row):
    check_row(row, on_host(op.iaf_fwd), on_host(op.iaf_out), on_host(op.iaf_bwd), every=0)


@pytest.mark.parametrize("every", [0, EVERY])
@pytest.mark.parametrize("row", cases.sample(20, seed=21, sizes=[*cases.SIZES, (5, 2048)], knobs=cases.NORM_KNOBS), ids=cases.name)
def test_norm_neuron(on_host, row, every):
    ops = norm_neuron.OPS
    check_row(row, on_host(ops.fwd), on_host(ops.out), on_host(ops.bwd), every=every, make=cases.NormCase)


@pytest.mark.parametrize("row", POOLS, ids=str)
def test_pool(on_host, row):
    check_pool(row, on_host(pool.pool_fwd), on_host(pool.pool_bwd))


@pytest.mark.parametrize("row", CHANNELS, ids=str)
def test_channels(on_host, row):
    check_channels(row, on_host(channels.channel_sums), on_host(channels.channel_add))


@pytest.mark.parametrize("every", [0, EVERY])
@pytest.mark.parametrize("row", cases.sample(20, seed=8, sizes=[*cases.SIZES, (5, 2048)], knobs=cases.PLIF_KNOBS), ids=cases.name)
def test_plif(on_host, row, every):
    check_row(row, on_host(plif.OPS.fwd), on_host(plif.OPS.out), on_host(plif.OPS.bwd), every=every, make=cases.PlifCase)


FEW_OF_QUANTA = [
    r | dict(unit="normalised", ladder=("uniform", 5), masked=False, negative=("none", "stbif")[i % 2]) for i, r in enumerate(FEW[::3])
]


@pytest.mark.parametrize(
    "row", cases.sample(20, seed=11, sizes=[*cases.SIZES, (5, 2048)], knobs=cases.QUANTA_KNOBS) + FEW_OF_QUANTA, ids=cases.name
)
def test_quanta(on_host, row):
    check_row(row, on_host(quanta.OPS.fwd), on_host(quanta.OPS.out), on_host(quanta.OPS.bwd), every=EVERY, make=cases.QuantaCase)


@pytest.mark.parametrize("row", cases.COS, ids=lambda r: "-".join(map(str, r)))
def test_cos(on_host, row):
    check_cos(row, on_host(cos.cos_fwd))


@pytest.mark.parametrize("row", [r for r in cases.CONV if r[1][0] * r[1][1] * r[1][2] < 500], ids=lambda r: "-".join(map(str, r)))
def test_conv(on_host, row):
    check_conv(row, on_host(conv.conv_fwd), on_host(conv.conv_out))


@pytest.mark.parametrize("row", LENGTHS, ids=lambda r: "-".join(map(str, r)))
def test_rows(on_host, row):
    check_rows(row, on_host(rop.softmax_out), on_host(rop.layer_norm_out))


@pytest.mark.parametrize("row", QCFS, ids=lambda r: "-".join(map(str, r)))
def test_qcfs(on_host, row):
    check_qcfs(*row, on_host(qop.qcfs_fwd), on_host(qop.qcfs_bwd))


def test_whole_quotients(on_host):
    check_whole_quotients(on_host(qop.qcfs_fwd))
