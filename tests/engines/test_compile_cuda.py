"""What nvcc and ptxas say of the CUDA kernels, for every architecture built, without a GPU: no spill, no local memory, no contraction."""

import re
import subprocess
from pathlib import Path

import pytest
from sass import loads_between_waits

BUILD = Path(__file__).parents[2] / "build"
DTYPES = ("f32", "f16", "bf16", "f64")
FORWARD, BACKWARD = ([f"iaf_{way}_{dtype}" for dtype in DTYPES] for way in ("fwd", "bwd"))
PLIF = {way: [f"plif_{way}_{dtype}" for dtype in DTYPES] for way in ("fwd", "bwd")}
QUANTA = {way: [f"quanta_{way}_{dtype}" for dtype in DTYPES] for way in ("fwd", "bwd")}
NORM = {way: [f"norm_neuron_{way}_{dtype}" for dtype in DTYPES] for way in ("fwd", "bwd")}
NEURONS = (*FORWARD, *BACKWARD, *PLIF["fwd"], *PLIF["bwd"], *NORM["fwd"], *NORM["bwd"], *QUANTA["fwd"], *QUANTA["bwd"])
BESIDE = (
    "cos_fwd",
    "qcfs_fwd",
    "qcfs_bwd",
    "conv_fwd",
    "softmax_out",
    "layer_norm_out",
    "channel_sums",
    "channel_add",
    "pool_fwd",
    "pool_bwd",
)


def is_thorough(unit):
    """Compiled by `make test-thorough` alone: csrc/engines/cuda/cuda.cmake says why."""
    return unit.endswith(("_f16", "_f64", "_bf16")) and unit not in ("iaf_fwd_bf16", "quanta_bwd_bf16")


def thoroughly(units):
    return [pytest.param(unit, marks=pytest.mark.thorough) if is_thorough(unit) else unit for unit in units]


UNITS = thoroughly((*NEURONS, *BESIDE))


@pytest.fixture(scope="module")
def objects(request):
    folders = sorted(BUILD.glob("cmake-*/CMakeFiles/kernels_cuda.dir"))
    if not folders:
        pytest.skip("no CUDA compiler was found when snnfast was built in this checkout")
    # The newest of a name: in an older checkout's build the others are left over.
    paths = sorted(folders[-1].parent.glob("kernels_cuda*.dir/**/*.cu.o"), key=lambda path: path.stat().st_mtime)
    found = {path.name.removesuffix(".cu.o"): path for path in paths}
    wanted = [unit for unit in (*NEURONS, *BESIDE) if request.config.getoption("--thorough") or not is_thorough(unit)]
    assert set(found) >= set(wanted), "run `make test`, or `make test-native` once"
    return found


@pytest.fixture(scope="module")
def cuobjdump():
    from triton.backends import nvidia

    tool = Path(nvidia.__file__).parent / "bin/cuobjdump"  # the Triton wheel holds one
    return lambda *args: subprocess.run([tool, *map(str, args)], capture_output=True, text=True, check=True).stdout


def kernels(text):
    """(mangled name, its PTX) of each kernel."""
    for part in text.split(".entry ")[1:]:
        yield part.split("(")[0].strip(), part


@pytest.mark.parametrize("unit", UNITS)
def test_no_spills_and_no_local_memory(objects, unit):
    log = objects[unit].with_name(f"{unit}.cu.o.log").read_text()
    found = re.findall(
        r"entry function '(\w+)' for '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log, re.S
    )
    archs = {arch for _, arch, *_ in found}
    # (outputs x widths) x signs x (plain, any rule), and for few neurons two outputs and two signs; "scaled" also without negative spikes in
    # training, with a leak and without. The backward: widths x signs of the plain rule, signs of any rule, and five surrogates, with a leak
    # and without, x widths. PLIF and batch norm with its neuron have one sign and no plain rule; Quanta has a plain rule in the forward. One
    # width in the backward of floats; doubles have one width and one rule.
    expected = (
        dict.fromkeys(FORWARD, 4 * 2 * 2 * 2 + 2 * 2 + 2 * 2)
        | dict.fromkeys(BACKWARD, 2 * 2 + 2 + 5 * 2 * 2)
        | dict(iaf_fwd_f64=4 * 2, iaf_bwd_f32=2 + 2 + 5 * 2, iaf_bwd_f64=2)
        | dict.fromkeys(PLIF["fwd"], 4 * 2 + 2)
        | dict.fromkeys(PLIF["bwd"], 1 + 5 * 2)
        | dict.fromkeys(NORM["fwd"], 4 * 2 + 2)
        | dict.fromkeys(NORM["bwd"], 1 + 5 * 2)
        | dict.fromkeys(QUANTA["fwd"], 4 * 2 * 2 * 2 + 2 * 2)
        | dict.fromkeys(QUANTA["bwd"], 2)
        | dict(quanta_fwd_f64=4 * 2)
        | dict(plif_fwd_f64=4, plif_bwd_f32=1 + 5, plif_bwd_f64=1)
        | dict(norm_neuron_fwd_f64=4, norm_neuron_bwd_f32=1 + 5, norm_neuron_bwd_f64=1)
        | dict(channel_sums=4 * 2 + 4 + 2, channel_add=4 * 2, pool_fwd=4, pool_bwd=4)
        | dict(cos_fwd=4, qcfs_fwd=4 * 2, qcfs_bwd=4 * 2 * 2 + 4, conv_fwd=3 * 2, softmax_out=2 * 8, layer_norm_out=2 * 8)
    )
    expected = expected[unit]
    assert archs and len(found) == expected * len(archs), (len(found), archs)
    # An fp64 square root is a subroutine of CUDA's, which may keep a return address on the stack.
    bad = [f for f in found if f[2:] != ("0", "0", "0") and not ("LayerNormEd" in f[0] and f[2:] == ("8", "0", "0"))]
    assert not bad, bad


SPIKES = {f"0{kind}{value:0{width}X}" for kind, width, values in (
    ("f", 8, (0x3F800000, 0xBF800000, 0, 1 << 31)), ("d", 16, (0x3FF << 52, 0xBFF << 52, 0, 1 << 63))) for value in values}  # fmt: skip
ASSIGNED = re.compile(r"^\s*(selp|neg|mov|fma)\.(?:rn\.)?[fb](?:32|64)\s+(%\w+), ([^;]+);", re.M)


def resets(ptx):
    """How many fma of a kernel are u - s j with a spike s, known to be -1, 0 or 1: then s j is exact, and one rounding is what two are."""
    spikes, found = set(SPIKES), 0
    for what, to, operands in ASSIGNED.findall(ptx):
        given = [word.strip() for word in operands.split(",")]
        if what == "fma":
            found += given[0] in spikes or given[1] in spikes
        elif all(word in spikes for word in given[: 2 if what == "selp" else 1]):
            spikes.add(to)
    return found


def test_what_is_a_reset():
    text = "selp.f32 %f1, 0f3F800000, 0f00000000, %p1;\nneg.f32 %f2, %f1;\nfma.rn.f32 %f3, %f2, %f9, %f8;\nfma.rn.f32 %f4, %f8, %f9, %f8;"
    assert resets(text) == 1 and resets(text.replace("0f3F800000", "0f40000000")) == 0


ARITHMETIC = re.compile(r"^\s*(mul|fma)\.rn\.f(?:32|64)\s+(%\w+), ([^;]+);", re.M)


def quotients(ptx):
    """How many fma of a kernel belong to f / b by its inverse: q = f i, then e = f - b q, then q + e i, each rounded once (`ratio` in lane.h)."""
    made = {to: (what, *(word.strip() for word in operands.split(","))) for what, to, operands in ARITHMETIC.findall(ptx)}
    found = 0
    for what, *operands in made.values():
        if what != "fma":
            continue
        rest, inverse, q = operands
        of_rest, of_q = made.get(rest, ()), made.get(q, ())
        found += 2 * (of_rest[:1] == ("fma",) and of_q[:1] == ("mul",) and of_rest[2] == q and set(of_q[1:]) == {of_rest[3], inverse})
    return found


def test_what_is_a_quotient():
    text = "mul.rn.f32 %f3, %f1, %f2;\nfma.rn.f32 %f5, %f4, %f3, %f1;\nfma.rn.f32 %f6, %f5, %f2, %f3;"
    assert quotients(text) == 2 and quotients(text.replace("%f5, %f2, %f3", "%f5, %f2, %f1")) == 0


@pytest.mark.parametrize("unit", UNITS)
def test_no_contraction_and_true_division(objects, cuobjdump, unit):
    """Every sum and product is rounded by itself (`.rn` forbids ptxas to fuse them), every division is true.

    The places for fma: a reset, whose product is exact; a quotient by an inverse, which has two; and exp, in the sigmoid surrogate: per exp three
    fma.rn and one ex2.approx in fp32, at most 15 fma in fp64.
    """
    seen = 0
    for name, ptx in kernels(cuobjdump("-ptx", objects[unit])):
        seen += 1
        assert not re.search(r"\b(add|sub|mul|div)\.f(32|64)", ptx), f"{name}: arithmetic that ptxas may fuse"
        assert "div.full" not in ptx and "div.approx" not in ptx, name
        fma = len(re.findall(r"\b(?:fma|mad)\.rn\.f(?:32|64)", ptx)) - resets(ptx) - quotients(ptx)
        approximate, exps = len(re.findall(r"\.approx", ptx)), len(re.findall(r"ex2\.approx\.ftz\.f32", ptx))
        if (
            unit in (*BACKWARD, *PLIF["bwd"], *NORM["bwd"], *QUANTA["bwd"])
            and re.search("PlainIafNumbers|Trained(?:Iaf|Plif|Norm)Numbers.*SurrogateE[0-3]", name) is None
        ):
            # exps of a segment, for brief rules of a whole and of a ragged one: one per threshold of the spike
            steps = 2 * 16 * (3 if "IAFILb1E" in name else 1)
            assert approximate == exps, name
            assert fma <= 15 * steps if re.search("(Iaf|Plif|Norm|Quanta)NumbersIdE", name) else fma == 3 * exps > 0, (name, fma, exps)
        else:
            assert fma == 0 and approximate == 0, (name, fma, approximate)
        if "multistep" in name and "quanta" not in unit:  # whose product with the spike is rounded
            assert resets(ptx), name
        if "QCFS" in name:
            # A division of a 0 takes a path of its own: half of the elements would. Only x / theta is one.
            assert quotients(ptx) and len(re.findall(r"div\.rn\.f", ptx)) <= len(re.findall(r"cvt\.rmi", ptx)), name
    assert seen


def test_loads_and_stores_are_128_bits_wide(objects, cuobjdump):
    # The plain fp32 kernels, by the head of their mangled names: 4 neurons, or 4 elements, to a thread.
    wide = {
        "iaf_fwd_f32": ("multistep_fwd_kernel", "IAFILb0EEEfLNS_6SpikesE0ELi4ENS0_15Plain"),
        "qcfs_fwd": ("elementwise_fwd_kernel", "QCFSEfLi4E"),
    }
    for unit, words in wide.items():
        (name,) = [n for n, _ in kernels(cuobjdump("-ptx", objects[unit])) if all(w in n for w in words)]
        sass = cuobjdump("-sass", "-fun", name, objects[unit])
        assert re.search(r"LDG\S*\.128", sass) and re.search(r"STG\S*\.128", sass), unit


def functions(sass):
    """(mangled name, its machine code) of each kernel."""
    for part in sass.split("Function : ")[1:]:
        yield part.split()[0], part


@pytest.mark.parametrize("unit", thoroughly(FORWARD[:3]))
def test_rows_are_on_their_way_together(objects, cuobjdump, unit):
    """The time loop waits for no row in the batch that issued it: else one row would be in flight, whatever the source says."""
    seen = 0
    for name, code in functions(cuobjdump("-sass", "-arch", "sm_90", objects[unit])):
        if "15PlainIafNumbers" not in name or "multistep_few" in name:
            continue
        one = "ELi1ENS0_15Plain" in name
        batch = 4 if not one else 32 if unit == "iaf_fwd_f32" else 16
        most = max(max(groups) for groups in loads_between_waits(code))
        assert most >= batch, (name, most)
        seen += 1
    assert seen == 4 * 2 * 2


@pytest.mark.parametrize("unit", thoroughly(BACKWARD[:3]))
def test_a_segment_of_the_backward_is_loaded_at_once(objects, cuobjdump, unit):
    """32 loads, of x and ds, and at most two waits among them: one row at a time would be 32. Two signed bf16 neurons leave no room for all of them:
    ptxas issues the last ones between the first steps."""
    seen = 0
    for name, code in functions(cuobjdump("-sass", "-arch", "sm_90", objects[unit])):
        if not re.search("Plain|Trained", name):
            continue
        best = max(loads_between_waits(code), key=max)
        tight = "IAFILb1EEE13__nv_bfloat16Li2E" in name
        assert sum(best) >= 32 and (sum(best[:2]) >= 26 if tight else len(best) <= 3), (name, best)
        seen += 1
    assert seen == (2 + 5 * 2) * (1 if unit == "iaf_bwd_f32" else 2)


def registers(objects, unit):
    """(mangled name, registers) of each kernel, for sm_90."""
    log = objects[unit].with_name(f"{unit}.cu.o.log").read_text()
    return {name: int(many) for name, many in re.findall(r"entry function '(\w+)' for 'sm_90'.*?Used (\d+) registers", log, re.S)}


@pytest.mark.parametrize("unit, words, most", [
    ("iaf_fwd_f32", ("ELi4ENS0_15Plain",), 80),
    ("iaf_bwd_f32", ("IAFILb0E", "15PlainIafNumbers"), 128),
    pytest.param("iaf_bwd_bf16", ("IAFILb0E", "15PlainIafNumbers"), 128, marks=pytest.mark.thorough),
])  # fmt: skip
def test_blocks_that_fit_a_multiprocessor(objects, unit, words, most):
    """Three blocks of 256 where words of floats are stored, four of 128 in the plain backward: 65,536 registers for them."""
    found = [many for name, many in registers(objects, unit).items() if all(word in name for word in words)]
    assert found and max(found) <= most, found


def test_spikes_become_bytes_without_conversions(objects, cuobjdump):
    """A conversion runs at a quarter of the rate of what replaces it; those that are left are of counts, at the end."""
    for unit in ("iaf_fwd_f32", "iaf_fwd_bf16"):
        seen = 0
        for name, ptx in kernels(cuobjdump("-ptx", objects[unit])):
            if "SpikesE1E" in name and "multistep_few" not in name:
                seen += 1
                assert len(re.findall(r"cvt\.rzi\.s", ptx)) <= int(re.search(r"SpikesE1ELi(\d)E", name)[1]), name
        assert seen == 2 * 2 * 2


@pytest.mark.parametrize("unit", UNITS)
def test_stray_symbols(objects, unit):
    """The kernels' host code needs CUDA's runtime and C++'s, nothing of torch: only the op files know it."""
    lines = subprocess.run(["nm", "-C", "--undefined-only", objects[unit]], capture_output=True, text=True, check=True).stdout
    assert "cudaLaunchKernel" in lines and "torch" not in lines
