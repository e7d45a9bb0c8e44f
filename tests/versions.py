"""`make test-versions`: the oldest, the middle and the newest Python, torch and Triton, each in an environment of its own. No GPU is asked for.

In each: the library is built from source; every library, built with whichever torch, is loaded and gives the reference's bits; ops run on fake
tensors, under torch.export and torch.compile; every Triton kernel compiles for sm_90 with nothing spilled. Where torch has nvcc's CUDA, the CUDA
library is linked and loaded, and so is the one that travels (`make gpu-kit`); networks on a GPU are captured, on fake tensors. What each
environment showed is a row of bench/results/versions.jsonl.

Environments lie in ~/.cache/snnfast/versions (5 to 7 GB each) and are made once. `--only 2.11.0` takes one of them.
"""

import argparse
import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snnfast/versions"
TOOLS = "numpy", "ninja", "cmake", "setuptools>=77", "pytest", "pytest-xdist", "expecttest", "hypothesis"


@dataclasses.dataclass(frozen=True)
class Environment:
    python: str
    torch: str

    @property
    def folder(self):
        return CACHE / f"py{self.python}-torch{self.torch}"

    @property
    def interpreter(self):
        return self.folder / "bin/python"


ENVIRONMENTS = Environment("3.10", "2.10.0"), Environment("3.12", "2.11.0"), Environment("3.13", "2.14.1")


def find_python(version):
    """An interpreter of that version: on the PATH or among pyenv's; None if there is none."""
    pyenv = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python3"))
    for path in (shutil.which(f"python{version}"), *pyenv):
        if path and subprocess.run([path, "-c", "pass"], capture_output=True).returncode == 0:
            return str(path)
    return None


def install(environment):
    """Makes the environment if it is not there whole."""
    done = environment.folder / "installed"
    wanted = json.dumps([environment.torch, *TOOLS])
    if done.exists() and done.read_text() == wanted:
        return
    print(f"installing {environment.folder.name}", flush=True)
    shutil.rmtree(environment.folder, ignore_errors=True)
    python = find_python(environment.python)
    if python is None:
        raise SystemExit(f"versions.py: no Python {environment.python} on this machine")
    subprocess.run([python, "-m", "venv", environment.folder], check=True)
    pip = [environment.interpreter, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"torch=={environment.torch}"], check=True)
    subprocess.run([*pip, *TOOLS], check=True)
    done.write_text(wanted)


def clean():
    """The environment without what would point Python elsewhere."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TRITON_INTERPRET")}


def build(python, folder, cuda):
    """A copy of the sources, built in place; the copy's folder."""
    copy = Path(folder) / "source"
    keep = shutil.ignore_patterns("*.so", "__pycache__", "results", "figures")
    for name in ("csrc", "snnfast", "tests", "bench"):
        shutil.copytree(ROOT / name, copy / name, ignore=keep)
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, copy / name)
    env = clean() | dict(SNNFAST_CUDA="1" if cuda else "0", SNNFAST_CUDA_ARCHS="90", PATH=f"{Path(python).parent}:{os.environ['PATH']}")
    with open(copy / "build.log", "w") as log:
        done = subprocess.run([python, "setup.py", "build_ext", "--inplace"], cwd=copy, env=env, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError("the build failed:\n" + "".join((copy / "build.log").read_text()[-3000:]))
    return copy


def package(libraries, folder):
    """A folder with the package and these libraries, to be imported from."""
    shutil.copytree(ROOT / "snnfast", Path(folder) / "snnfast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for library in libraries:
        shutil.copy2(library, Path(folder) / "snnfast" / library.name)
    return folder


def inside(python, what, path, *arguments, **environment):
    """Runs `versions.py --here what` in an environment, with the package found in `path`; the JSON that it prints last."""
    env = clean() | dict(PYTHONPATH=f"{path}:{ROOT / 'tests'}") | environment
    done = subprocess.run([python, __file__, "--here", what, *arguments], env=env, capture_output=True, text=True, cwd=path)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


# ---- what runs inside of an environment


def here_ops(cuda):
    """The compiled library serves, gives the reference's bits, and torch sees the ops as it should."""
    import platform

    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    import snnfast
    from snnfast.engines import backends
    from snnfast.ops import info, library

    assert backends._C is not None, info.info()["CPU library"]
    assert all(info.served_by(op)["cpu"] == "C++" for op in (*backends.COMPILED, *backends.TENSOR_CORES)), (
        "an op is missing from the library"
    )
    torch.manual_seed(0)
    x, theta = torch.randn(21, 5, 12), torch.rand(5, 1) + 0.5
    results = lambda x, theta: [  # noqa: E731
        snnfast.iaf(x, theta)[0], snnfast.iaf(x, theta, negative="stbif", caps=(0, 3), spikes="int8")[0], snnfast.lif(x, theta, 2.0)[0],
        snnfast.cos_start(x, theta), snnfast.qcfs(x, theta, 4), snnfast.softmax_over_time(x)[0], snnfast.layer_norm_over_time(x)[0],
        snnfast.spike_linear(snnfast.iaf(x, theta)[0].view(-1, 12), torch.ones(7, 12)),
    ]  # fmt: skip
    found = results(x, theta)
    with FakeTensorMode():
        fakes = results(torch.empty(21, 5, 12), torch.empty(5, 1))
    assert [(f.shape, f.dtype, f.stride()) for f in fakes] == [(r.shape, r.dtype, r.stride()) for r in found]
    leaf, th = x.clone().requires_grad_(), theta.clone().requires_grad_()
    (snnfast.iaf(leaf, th)[0] * x).sum().backward()
    gradients = [leaf.grad, th.grad]
    # The reference: the same package without its library.
    for op in (*backends.COMPILED, *backends.TENSOR_CORES):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"snnfast::{op}", "CPU")
    from snnfast.ops.iaf import OPS, rule_of

    expected = OPS.reference_fwd(x.view(21, 60), theta.view(5), None, None, None, 21, 12, 0.5, 0, 0, OPS.eq.numbers.pack(rule_of()))[0]
    assert torch.equal(found[0].view(21, 60), expected) and all(torch.isfinite(g).all() for g in gradients)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.quantised = torch.nn.Linear(12, 8), snnfast.nn.QCFS(4, 1.0)

        def forward(self, x):
            return snnfast.iaf(self.quantised(self.first(x)), 0.7)[0]

    net = Net().eval()
    exported = torch.export.export(net, (x,), strict=False).module()
    with torch.no_grad():
        assert torch.equal(exported(x), net(x)) and torch.equal(torch.compile(net, backend="aot_eager", fullgraph=True)(x), net(x))
    told = dict(python=platform.python_version(), torch=torch.__version__, cuda=torch.version.cuda, ops=len(library.names()))
    told["built_with"] = backends._C.build_info()["torch headers"]
    if cuda:
        assert backends.provider == "cuda" and backends._CUDA is not None, info.info()["cuda"]
        assert all(torch._C._dispatch_has_kernel_for_dispatch_key(f"snnfast::{op}", "CUDA") for op in backends.COMPILED)
        told["cuda_library"] = backends._CUDA.build_info()
    return told


def here_capture():
    """A network on a GPU is captured as on a CPU, by a torch that has CUDA: tensors are fake, so no GPU is needed."""
    import torch
    from torch import nn
    from torch._subclasses.fake_tensor import FakeTensorMode

    from snnfast.graph.export import capture

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.group = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GroupNorm(2, 8)
            self.row, self.last, self.flat = nn.LayerNorm(8), nn.Linear(8, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            h = self.group(torch.relu(self.norm(self.conv(x)))).flatten(2).transpose(1, 2)
            q = self.row(nn.functional.gelu(h))
            return self.flat(self.last(nn.functional.scaled_dot_product_attention(q, q, q).mean(1)))

    found = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        for device in ("cpu", "cuda"):
            net = Net().eval()
            for m in net.modules():
                for name, p in m.named_parameters(recurse=False):
                    setattr(m, name, nn.Parameter(torch.empty(p.shape, device=device)))
                for name, b in m.named_buffers(recurse=False):
                    setattr(m, name, torch.empty(b.shape, dtype=b.dtype, device=device))
            program = capture(net, list(torch.empty(2, 1, 3, 8, 8, device=device)))
            found[device] = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert found["cpu"] == found["cuda"], found
    return dict(operators=len(found["cpu"]))


def here_triton():
    """Every Triton kernel for sm_90: nothing spilled, contracted or approximate."""
    import compile_triton
    import triton

    found = compile_triton.compiled()
    bad = [k for k, f in found.items() if f["spills"] or f["stack"] or f["fma"] or f["approximate"] or not f["reported"]]
    assert not bad, {k: found[k] for k in bad}
    slow = [k for k in found if k.startswith("bwd plain") and "fp64" not in k and len(found[k]["groups"]) > 3]
    assert not slow, {k: found[k]["groups"] for k in slow}
    return dict(triton=triton.__version__, kernels=len(found))


HERE = dict(ops=functools.partial(here_ops, False), cuda=functools.partial(here_ops, True), triton=here_triton, capture=here_capture)


# ---- the matrix


def check(name, row, f):
    """Runs one check and writes down what it said."""
    began = time.monotonic()
    try:
        found = f()
        row["checks"][name] = "ok"
    except Exception as error:
        found, row["checks"][name] = None, f"{type(error).__name__}: {error}"
    print(f"  {name}: {row['checks'][name]} ({time.monotonic() - began:.0f} s)", flush=True)
    return found


def torch_of(python):
    """(version, its CUDA or "") of an interpreter's torch."""
    ask = [python, "-c", "import torch; print(torch.__version__, torch.version.cuda or '')"]
    version, _, cuda = subprocess.run(ask, capture_output=True, text=True, env=clean()).stdout.strip().partition(" ")
    return version, cuda


def nvcc_major():
    nvcc = shutil.which("nvcc")
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout if nvcc else ""
    return text.partition("release ")[2].partition(".")[0]


def examined(e, kit, folder):
    """What one environment shows: its row, and the library that was built in it, or None."""
    install(e)
    version, cuda = torch_of(e.interpreter)
    print(f"Python {e.python}, torch {version}", flush=True)
    row = dict(python=e.python, torch=version, cuda=cuda, nvcc=nvcc_major(), checks={}, loads=[])
    links = bool(cuda) and cuda.partition(".")[0] == nvcc_major()
    what = "cuda" if links else "ops"
    source = check("builds" + (", CUDA linked" if links else ""), row, lambda: build(str(e.interpreter), folder, links))
    if source:
        row["found"] = check("serves, exports, compiles", row, lambda: inside(e.interpreter, what, source))
    if links and (kit / "_CUDA.abi3.so").exists():
        with tempfile.TemporaryDirectory() as path:
            check("the kit loads", row, lambda: inside(e.interpreter, "cuda", package(kit.glob("*.so"), path)))
    if cuda:
        check("a network on a GPU is captured", row, lambda: inside(e.interpreter, "capture", ROOT))
    row |= check("Triton kernels compile", row, lambda: inside(e.interpreter, "triton", ROOT)) or {}
    return row, [source / "snnfast/_C.abi3.so"] if source else None


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--only", metavar="TORCH", help="one environment, by its torch")
    p.add_argument("--here", choices=HERE, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.here:
        print(json.dumps(HERE[args.here]()))
        return 0
    sys.path.insert(0, str(ROOT / "bench"))
    import stored

    from snnfast.reports.machine import commit

    chosen = [e for e in ENVIRONMENTS if args.only in (None, e.torch)]
    kit = ROOT / "build/gpu-kit"
    libraries, rows = {torch_of(sys.executable)[0]: [ROOT / "snnfast/_C.abi3.so"]}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for e in chosen:
            rows[e], own = examined(e, kit, Path(scratch) / e.folder.name)
            libraries |= {rows[e]["torch"]: own} if own else {}
        interpreters = {torch_of(sys.executable)[0]: sys.executable} | {rows[e]["torch"]: e.interpreter for e in chosen}
        for built, files in libraries.items():
            for loaded, python in interpreters.items():
                row = next((r for r in rows.values() if r["torch"] == loaded), dict(checks={}, loads=[]))
                with tempfile.TemporaryDirectory() as folder:
                    path = package(files, folder)
                    if check(f"built with {built}, loaded in {loaded}", row, lambda python=python, path=path: inside(python, "ops", path)):
                        row["loads"].append(built)
    failed = 0
    results = Path(os.environ.get("BENCH_RESULTS") or ROOT / "bench/results")
    results.mkdir(parents=True, exist_ok=True)
    with open(results / "versions.jsonl", "a") as file:
        for row in rows.values():
            failed += any(word != "ok" for word in row["checks"].values())
            file.write(json.dumps(dict(bench="versions", commit=commit(), time=stored.now(), **row)) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
