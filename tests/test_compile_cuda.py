"""What nvcc and ptxas say of the CUDA kernels, for every architecture built, without a GPU: no spill, no local memory, no contraction."""

import re
import subprocess
from pathlib import Path

import pytest
from sass import loads_between_waits

BUILD = Path(__file__).parents[1] / "build"
UNITS = ("iaf_fwd", "iaf_bwd", "cos", "qcfs", "conv", "softmax", "layer_norm")


@pytest.fixture(scope="module")
def objects():
    folders = sorted(BUILD.glob("cmake-*/CMakeFiles/kernels_cuda.dir/csrc/cuda"))
    if not folders:
        pytest.skip("no CUDA compiler was found when snnfast was built in this checkout")
    return {unit: folders[-1] / f"{unit}.cu.o" for unit in UNITS}


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
    # dtypes x (outputs x widths) x signs x rules; doubles have one width and one rule.
    expected = {"iaf_fwd": 3 * 4 * 2 * 2 * 2 + 4 * 2, "iaf_bwd": (2 * 2 + 1) * 2 * 2 + 2, "cos": 4, "qcfs": 4 * 3 * 2 + 4, "conv": 2 * 2,
                "softmax": 2 * 8, "layer_norm": 2 * 8}[unit]  # fmt: skip
    assert archs and len(found) == expected * len(archs), (len(found), archs)
    # An fp64 square root is a subroutine of CUDA's, which may keep a return address on the stack.
    bad = [f for f in found if f[2:] != ("0", "0", "0") and not ("LayerNormEd" in f[0] and f[2:] == ("8", "0", "0"))]
    assert not bad, bad


@pytest.mark.parametrize("unit", UNITS)
def test_no_contraction_and_true_division(objects, cuobjdump, unit):
    """Every sum and product is rounded by itself (`.rn` forbids ptxas to fuse them), every division is true.

    The one place for fma and `.approx` is exp, in the sigmoid surrogate: per exp three fma.rn and one ex2.approx in fp32, at most 15 fma in fp64.
    """
    seen = 0
    for name, ptx in kernels(cuobjdump("-ptx", objects[unit])):
        seen += 1
        assert not re.search(r"\b(add|sub|mul|div)\.f(32|64)", ptx), f"{name}: arithmetic that ptxas may fuse"
        assert "div.full" not in ptx and "div.approx" not in ptx, name
        fma = len(re.findall(r"\b(?:fma|mad)\.rn\.f(?:32|64)", ptx))
        approximate, exps = len(re.findall(r"\.approx", ptx)), len(re.findall(r"ex2\.approx\.ftz\.f32", ptx))
        if unit == "iaf_bwd" and "PlainIafNumbers" not in name:
            steps = 2 * 16 * (3 if "IAFILb1E" in name else 1)  # exps of a whole and of a ragged segment: one per threshold of the spike
            assert approximate == exps, name
            assert fma <= 15 * steps if "IafNumbersIdE" in name else fma == 3 * exps > 0, (name, fma, exps)
        else:
            assert fma == 0 and approximate == 0, (name, fma, approximate)
    assert seen


def test_loads_and_stores_are_128_bits_wide(objects, cuobjdump):
    # The plain fp32 kernels, by the head of their mangled names: 4 neurons, or 4 elements, to a thread.
    wide = {
        "iaf_fwd": ("multistep_fwd_kernel", "IAFILb0EEEfLNS_6SpikesE0ELi4ENS0_15Plain"),
        "qcfs": ("elementwise_fwd_kernel", "QCFSEfLi4E"),
    }
    for unit, words in wide.items():
        (name,) = [n for n, _ in kernels(cuobjdump("-ptx", objects[unit])) if all(w in n for w in words)]
        sass = cuobjdump("-sass", "-fun", name, objects[unit])
        assert re.search(r"LDG\S*\.128", sass) and re.search(r"STG\S*\.128", sass), unit


def functions(sass):
    """(mangled name, its machine code) of each kernel."""
    for part in sass.split("Function : ")[1:]:
        yield part.split()[0], part


def test_rows_are_on_their_way_together(objects, cuobjdump):
    """The time loop waits for no row in the batch that issued it: else one row would be in flight, whatever the source says."""
    seen = 0
    for name, code in functions(cuobjdump("-sass", "-arch", "sm_90", objects["iaf_fwd"])):
        if "15PlainIafNumbers" not in name:
            continue
        dtype = re.search(r"IAFILb[01]EEE(f|6__half|13__nv_bfloat16|d)", name)[1]
        one = "ELi1ENS0_15Plain" in name
        batch = 4 if not one else 32 if dtype == "f" else 16
        most = max(max(groups) for groups in loads_between_waits(code))
        assert most >= batch, (name, most)
        seen += 1
    assert seen == 3 * 4 * 2 * 2


def test_a_segment_of_the_backward_is_loaded_at_once(objects, cuobjdump):
    """32 loads, of x and ds, and at most two waits among them: one row at a time would be 32."""
    seen = 0
    for name, code in functions(cuobjdump("-sass", "-arch", "sm_90", objects["iaf_bwd"])):
        if "15PlainIafNumbers" not in name:
            continue
        best = max(loads_between_waits(code), key=max)
        assert sum(best) >= 32 and len(best) <= 3, (name, best)
        seen += 1
    assert seen == 5 * 2


@pytest.mark.parametrize("unit", UNITS)
def test_stray_symbols(objects, unit):
    """The kernels' host code needs CUDA's runtime and C++'s, nothing of torch: only the op files know it."""
    lines = subprocess.run(["nm", "-C", "--undefined-only", objects[unit]], capture_output=True, text=True, check=True).stdout
    assert "cudaLaunchKernel" in lines and "torch" not in lines
