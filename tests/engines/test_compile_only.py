"""What a compiler can say without a GPU: every Triton kernel compiles for sm_90, keeps its rules, and spills nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]


def facts(what):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(HERE.parent)}
    run = subprocess.run([sys.executable, str(HERE / "compile_triton.py"), what], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def thorough(request):
    return request.config.getoption("--thorough")


@pytest.fixture(scope="module")
def compiled(thorough):
    return facts("thorough" if thorough else "rows")


def test_exact_products_are_on_tensor_cores():
    """Three products of bytes in a turn by a group of warps, inputs on their way to shared memory ahead of time, nothing spilled."""
    found = facts("exact")
    assert all(not f["spills"] and not f["stack"] and not f["fma"] for f in found.values()), found
    assert all(f["products"] >= 3 and f["warp_group"] for name, f in found.items() if name != "exact few"), found
    assert all(found[f"exact {name}"]["ahead"] for name in ("whole", "small")), found


def test_every_kernel_compiles(compiled, thorough):
    # Forward: rules x (outputs + dtypes); backward: rules x dtypes x forms, and pairs of halves; forms of a launch; two parameters, and four with
    # channels and pooling beside.
    a, b, c, pairs, rows = (4, 3, 2, 2, 3 + 5) if thorough else (2, 2, 1, 1, 5)  # dtypes; columns of rows
    ops = b * (1 + 3 * 3 + 3) + 2 * c + 2 * rows
    assert len(compiled) == 3 * (4 + a - 1) + (3 * a * 2 + pairs) + 5 + 2 * 2 + ops + 2 * 2 + 2 * 6
    assert all(f["reported"] for f in compiled.values()), "ptxas reported nothing to check"


def test_no_contraction_and_true_division(compiled):
    """a * b + c stays two roundings, and no division is approximate: else the numbers would differ between backends."""
    bad = {k: f for k, f in compiled.items() if f["fma"] or f["approximate"]}
    # qcfs's floor and fp64 division are expanded by ptxas, not in PTX: nothing is exempt here.
    assert not bad, bad


def test_no_spills(compiled):
    bad = {k: f for k, f in compiled.items() if f["spills"] or f["stack"]}
    assert not bad, bad


def test_a_segment_of_the_backward_is_loaded_at_once(compiled, thorough):
    """32 loads, of x and ds, and at most three waits among them: a load of ds behind a store of dx would be a wait each."""
    more = ("bwd plain fp16", "bwd plain fp16 pairs") if thorough else ()
    for name in ("bwd plain fp32", "bwd plain bf16", "bwd plain bf16 pairs", "bwd stbif fp32", *more):
        groups = compiled[name]["groups"]
        assert sum(groups) >= 32 and len(groups) <= 3, (name, groups)


def test_activations_move_in_16_bytes(compiled, thorough):
    for dtype in ("fp32", "bf16", "fp64") if thorough else ("fp32", "bf16"):
        for form in ("one", "words"):
            fwd, bwd = compiled[f"qcfs fwd {dtype} {form}"], compiled[f"qcfs bwd {dtype} qcfs {form}"]
            assert fwd["wide_loads"] and fwd["wide_stores"] and bwd["wide_loads"] >= 2 and bwd["wide_stores"], (dtype, form, fwd, bwd)


def test_rows_on_whole_words_move_in_16_bytes(compiled):
    assert compiled["fwd many fp32"]["wide_loads"] >= 4 and compiled["fwd many fp32"]["wide_stores"] >= 4


def test_rows_come_ahead_of_time(compiled):
    """Rows of the turns to come are copied to shared memory, 16 a turn, before the loop and in it: what else would show that it is pipelined?"""
    assert compiled["fwd few fp32"]["ahead"] == 3 * 16 and compiled["fwd many fp32"]["ahead"] == 2 * 4
    assert not compiled["fwd few fp16"]["ahead"]  # 2 bytes to a thread are too few
