"""Compiles every Triton kernel for sm_90 without a GPU and prints what its machine code says, as JSON. Run by test_compile_only.py.

compile_triton.py rows | thorough | exact     rows: those of fp32 and bf16. thorough: of fp16, which takes the way of bf16, and of fp64 too.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from sass import loads_between_waits
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from snnfast.engines.triton import (
    OPTIONS,
    bound,
    calibrate,
    channels,
    conv,
    cos,
    elementwise,
    gather,
    iaf,
    integer,
    kernel,
    launch,
    layer_norm,
    max_pool,
    moments,
    multistep,
    pool,
    qcfs,
    rows,
    softmax,
)
from snnfast.equations.bind import signed
from snnfast.equations.neurons import norm_neuron as norm_equation
from snnfast.equations.neurons import plif as plif_equation
from snnfast.equations.neurons import quanta as quanta_equation

POINTERS = {
    "x": None, "y": None, "w": None, "bias": None, "b": None, "before": None, "last": None, "out": None,
    "dy": None, "dx": None, "ds": None, "theta": "acc", "v_in": "acc", "v_end": "acc", "dv": "acc", "dv_start": "acc",
    "dtheta": "acc", "kept": "acc", "partial": "acc",
    "line": "acc", "pivot": "fp64", "at": "u8", "v0_out": "acc", "count_in": "i32", "count_end": "i32", "mask": "i1",
}  # fmt: skip
CUOBJDUMP = Path(nvidia.__file__).parent / "bin/cuobjdump"
WIDE = r"(?:v4\.b32|v2\.b64)"  # 16 bytes
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp64": 8}
# The facts of an element-wise launch: one threshold, thresholds of runs of whole words, thresholds of any runs among many elements.
FORMS = {
    "one": dict(one=True, small=True, aligned=True), "words": dict(one=False, small=True, aligned=True),
    "any": dict(one=False, small=False, aligned=False),
}  # fmt: skip
NUMBERS = {"x_stride", "ds_stride", "T", "N", "W", "C", "inner", "outer", *gather.RUN_TIME, *rows.RUN_TIME, *pool.RUN_TIME}


plif, quanta, norm_neuron = bound(plif_equation), bound(quanta_equation), bound(norm_equation)


def build(function, equation, run_time, dtype, constants):
    acc = "fp64" if dtype == "fp64" else "fp32"
    fn = kernel(function, equation, run_time)
    warps = constants.get("num_warps", 1 if constants.get("BLOCK") == 32 else 4)
    options = dict(OPTIONS, num_warps=warps, maxnreg=constants.get("maxnreg"))
    constants = {name: value for name, value in constants.items() if name in fn.arg_names}
    signature = {}
    for name in fn.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name == "s":
            signature[name] = "*" + {"scaled": dtype, "int8": "i8"}.get(constants["kind"], "i32")
        elif name in POINTERS:
            kind = POINTERS[name]
            signature[name] = "*" + (dtype if kind is None else acc if kind == "acc" else kind)
        else:
            assert name in NUMBERS, name
            signature[name] = "i64"
    # What a launch finds of pointers from torch's allocator: multiples of 16.
    attrs = (
        {(i,): [["tt.divisibility", 16]] for i, n in enumerate(fn.arg_names) if signature[n].startswith("*")}
        if constants.get("aligned")
        else None
    )
    source = ASTSource(fn, signature=signature, constexprs=constants, attrs=attrs)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def facts(compiled, look=False):
    """What ptxas reports of registers and spills, and the instructions that the rules forbid; with look, how loads are grouped in machine code."""
    ptx = compiled.asm["ptx"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "k.ptx"
        path.write_text(ptx)
        run = subprocess.run(
            [get_ptxas(90).path, "-v", "-arch=sm_90a", "--fmad=false", path, "-o", Path(folder) / "k.cubin"], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        dump = [CUOBJDUMP, "-sass", Path(folder) / "k.cubin"]
        sass = subprocess.run(dump, capture_output=True, text=True, check=True).stdout if look else ""
        spills = [int(n) for n in re.findall(r"(\d+) bytes spill", run.stderr)]
        stack = [int(n) for n in re.findall(r"(\d+) bytes stack frame", run.stderr)]
    ahead = re.findall(r"cp\.async\.c[ag]\S* \[[^]]*\], \[[^]]*\], (\w+)", ptx)  # bytes of each copy to shared memory
    return dict(
        ahead=len(ahead), wide_loads=len(re.findall(rf"ld\.global\S*\.{WIDE}", ptx)) + ahead.count("0x10"),
        wide_stores=len(re.findall(rf"st\.global\S*\.{WIDE}", ptx)),
        groups=max(loads_between_waits(sass, "LDG.E.EF"), key=sum, default=[]), registers=int(re.search(r"Used (\d+) registers", run.stderr)[1]),
        spills=sum(spills), stack=sum(stack), reported=bool(spills),
        fma=len(re.findall(r"\bfma\.rn\.f(32|64)", ptx)), approximate=len(re.findall(r"div\.full|\.approx", ptx)),
    )  # fmt: skip


def compiled(thorough):
    """What each kernel's machine code says, by name."""
    found = {}
    of = lambda *dtypes: [d for d in dtypes if thorough or d in ("fp32", "bf16")]
    base = dict(v0=0.3, many=1, STEPS=4, STAGES=1, every=16, aligned=False, has_mask=True, has_v=True, has_count=True)
    rules = {
        "plain": iaf.Rule(),
        "stbif": iaf.Rule(normalised=True, negative="stbif", surrogate="triangle"),
        "snm": iaf.Rule(negative="snm", hard=True, strict=True, surrogate="atan", gamma=2.0),
    }
    for name, rule in rules.items():
        for dtype in of("fp32", "fp16", "bf16", "fp64"):
            for kind in ("scaled", "int8", "bits", "count") if dtype == "fp32" else ("scaled",):
                constants = dict(base, k=rule, signed=signed(rule), gates=signed(rule), kind=kind, BLOCK=256)
                found[f"fwd {name} {dtype} {kind}"] = facts(build(multistep.fwd_kernel, iaf, multistep.RUN_TIME, dtype, constants))
            constants = dict(
                v0=0.3, k=rule, many=1, has_ds=True, has_dv=True, has_v=False, has_count=False, gates=signed(rule), constant=False, every=16, asked=1
            )  # fmt: skip
            for form, has_mask, N in (("", False, 1 << 10), (" masked", True, 1 << 10), (" pairs", False, 1 << 20)):
                shape = launch.backward_shape(N, BYTES[dtype], signed(rule), aligned=True)
                if form == " pairs" and not shape["aligned"]:
                    continue
                how = dict(constants, has_mask=has_mask, **shape)
                found[f"bwd {name} {dtype}{form}"] = facts(build(multistep.bwd_kernel, iaf, multistep.RUN_TIME, dtype, how), look=True)
    # The three forms of a launch: many neurons on whole words, and few.
    for name, dtype, N in (
        ("many", "fp32", 1 << 18),
        ("many", "fp16", 1 << 18),
        ("some", "fp32", 1 << 16),
        ("few", "fp32", 1 << 12),
        ("few", "fp16", 1 << 12),
    ):
        shape = launch.forward_shape(N, BYTES[dtype]) | dict(aligned=name == "many")
        constants = {**base, "k": iaf.Rule(), "signed": False, "gates": False, "kind": "scaled", **shape}
        found[f"fwd {name} {dtype}"] = facts(build(multistep.fwd_kernel, iaf, multistep.RUN_TIME, dtype, constants))
    for dtype in ("fp32", "bf16"):  # two parameters
        how = dict(many=2, k=iaf.Rule(hard=True, surrogate="atan", gamma=2.0), gates=False)
        found[f"fwd plif {dtype}"] = facts(
            build(multistep.fwd_kernel, plif, multistep.RUN_TIME, dtype, {**base, **how, "signed": False, "kind": "unit", "BLOCK": 256})
        )
        shape = launch.backward_shape(1 << 10, BYTES[dtype], False, aligned=True)
        how |= dict(
            v0=0.3, has_ds=True, has_dv=False, has_v=False, has_count=False, has_mask=False, constant=False, every=16, asked=2, **shape
        )
        found[f"bwd plif {dtype}"] = facts(build(multistep.bwd_kernel, plif, multistep.RUN_TIME, dtype, how), look=True)
        k = norm_equation.Rule(hard=True, surrogate="atan", gamma=2.0, tau=2.0, asked=2)  # four, of which two have a gradient
        found[f"fwd norm_neuron {dtype}"] = facts(
            build(multistep.fwd_kernel, norm_neuron, multistep.RUN_TIME, dtype,
                  {**base, **how, "k": k, "many": 4, "signed": False, "kind": "unit", "BLOCK": 256})
        )  # fmt: skip
        found[f"bwd norm_neuron {dtype}"] = facts(
            build(multistep.bwd_kernel, norm_neuron, multistep.RUN_TIME, dtype, how | dict(k=k, many=4, asked=2)), look=True
        )
        found[f"channel_sums {dtype}"] = facts(
            build(channels.sums_kernel, moments, channels.RUN_TIME, dtype, dict(TILE=launch.TILE, BLOCK=1024))
        )
        found[f"channel_add {dtype}"] = facts(build(channels.add_kernel, moments, channels.RUN_TIME, dtype, dict(BLOCK=1024)))
        window = dict(KY=3, KX=3, SY=2, SX=2, PY=1, PX=1, BLOCK=512)
        for way in ("fwd", "bwd"):
            found[f"pool_{way} {dtype}"] = facts(build(getattr(pool, f"{way}_kernel"), max_pool, pool.RUN_TIME, dtype, window))
    for ladder, dtype in (("uniform", "fp32"), ("power", "bf16")):  # several quanta a step
        how = dict(k=quanta.Rule(8, ladder, negative="stbif"), signed=True, gates=True)
        found[f"fwd quanta {dtype}"] = facts(
            build(multistep.fwd_kernel, quanta, multistep.RUN_TIME, dtype, {**base, **how, "kind": "int8", "BLOCK": 256})
        )
        shape = launch.backward_shape(1 << 10, BYTES[dtype], True, aligned=True)
        how |= dict(
            v0=0.3,
            has_ds=True,
            has_dv=False,
            has_v=False,
            has_count=False,
            has_mask=False,
            constant=False,
            every=16,
            many=1,
            asked=1,
            **shape,
        )
        how.pop("signed")
        found[f"bwd quanta {dtype}"] = facts(build(multistep.bwd_kernel, quanta, multistep.RUN_TIME, dtype, how), look=True)
    for dtype in of("fp32", "bf16", "fp64"):
        k = cos.Rule(normalised=dtype == "fp32", max_shift=2.0)
        found[f"cos {dtype}"] = facts(build(calibrate.fwd_kernel, cos, calibrate.RUN_TIME, dtype, dict(v0=0.5, k=k, BLOCK=128)))
        block = 2048 // BYTES[dtype]
        for grad in ("qcfs", "srp", "paper"):
            for form, facts_of in FORMS.items():
                how = dict(facts_of, k=qcfs.Rule(4, grad), BLOCK=block)
                found[f"qcfs bwd {dtype} {grad} {form}"] = facts(
                    build(elementwise.bwd_kernel, qcfs, elementwise.RUN_TIME, dtype, how | dict(TILE=launch.TILE))
                )
                if grad == "qcfs":
                    found[f"qcfs fwd {dtype} {form}"] = facts(build(elementwise.fwd_kernel, qcfs, elementwise.RUN_TIME, dtype, how))
    for dtype in of("fp32", "fp64"):
        for grouped in (False, True):
            how = dict(has_bias=True, grouped=grouped, PLACES=16, PANEL=64)
            found[f"conv {dtype} {grouped}"] = facts(build(gather.fwd_kernel, conv, gather.RUN_TIME, dtype, how))
        for name, equation in (("softmax", softmax), ("layer_norm", layer_norm)):
            k, has = equation.Rule(dtype == "fp64"), name == "layer_norm"
            for columns in (50, 197, 768) if dtype == "fp64" else (50, 197, 768, 1537, 4096):
                constants = dict(k=k, has_w=has, has_b=has, **launch.rows_shape(columns, dtype == "fp64"))
                found[f"{name} {dtype} {columns}"] = facts(build(rows.run_kernel, equation, rows.RUN_TIME, dtype, constants))
    return found


def compiled_exact():
    """The exact product, for a layer whose channels are whole blocks and for one of any size: what ptxas reports, and its tensor instructions."""
    found = {}
    for name, O, C, aligned in (("whole", 128, 128, True), ("small", 64, 64, True), ("any", 33, 40, False), ("few", 64, 1, False)):
        fn = triton.jit(integer.few_kernel if name == "few" else integer.fwd_kernel, do_not_specialize=integer.RUN_TIME)
        shape = dict(PLACES=16, PANEL=64, num_warps=4) if name == "few" else launch.exact_shape(O, C)
        constants = {"KY": 3, "KX": 3} | {k: v for k, v in shape.items() if k != "num_warps"}
        kinds = dict(s="*i8", w="*i8", bias="*i32", scale="*fp32", y="*fp32") | dict.fromkeys(constants, "constexpr")
        signature = {n: kinds.get(n, "i32") for n in fn.arg_names}
        divisible = {n for n in fn.arg_names if signature[n].startswith("*") or (aligned and n in ("O", "C"))}
        attrs = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(fn.arg_names) if n in divisible}
        source = ASTSource(fn, signature=signature, constexprs=constants, attrs=attrs)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(OPTIONS, num_warps=shape["num_warps"]))
        products = re.findall(r"(?:wgmma\.mma_async|mma\.sync)\S*\.s32\.s8\.s8", made.asm["ptx"])
        found[f"exact {name}"] = facts(made) | dict(products=len(products), warp_group="wgmma" in "".join(products))
    return found


if __name__ == "__main__":
    (asked,) = sys.argv[1:]
    json.dump(compiled_exact() if asked == "exact" else compiled(asked == "thorough"), sys.stdout)
