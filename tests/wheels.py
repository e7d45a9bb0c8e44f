"""`make wheels`: what goes to the package index, in dist/, each tried in an empty environment for every Python that can be had.

The sdist and the wheel are made from a copy of what git holds. The wheel is one for every Python from 3.10 on and every torch from 2.10 on, for a
CPU; `auditwheel` gives it the oldest platform that its symbols allow. In an environment of its own with the wheel, torch and what these ask for, and
in an empty folder, each Python then runs a neuron on the compiled kernel, converts and evaluates a network, saves it, and asks `snnfast info`.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from versions import ROOT, find_python  # noqa: E402

TORCHS = "libtorch*", "libc10*", "libgomp*"  # which a process with torch has loaded already: another copy would be another library
PYTHONS = "3.10", "3.11", "3.12", "3.13", "3.14"
SMOKE = """
import sys, torch, snnfast
s, _ = snnfast.iaf(torch.full((4, 3), 0.5), 1.0)
assert s.tolist() == [[1.0] * 3, [0.0] * 3, [1.0] * 3, [0.0] * 3], s
assert snnfast.ops.info.served_by("iaf_fwd")["cpu"] != "reference", "the compiled kernel is not there"
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(4, 16), snnfast.nn.QCFS(8, 2.0), torch.nn.Linear(16, 3)).eval()
x = torch.randn(32, 4)
snn = snnfast.convert(net)
report = snnfast.evaluate(snn, [(x, net(x).argmax(1))], T=64, statistics=True)
assert report.accuracy[-1] > 90, report.accuracy
report.save_json("report.json")
snnfast.save_checkpoint("snn.pt", snn)
assert torch.equal(snnfast.load_checkpoint("snn.pt")(x, T=8), snn(x, T=8))
print("Python", sys.version.split()[0], "torch", torch.__version__, "snnfast", snnfast.__version__, "accuracy", report.accuracy[-1])
"""


def run(*command, cwd):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "SNNFAST"))}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=clean, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout + done.stderr


def built(folder):
    """(sdist, wheel) of what git holds, in a folder."""
    source = folder / "source"
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    run(sys.executable, "-c", f"import setuptools.build_meta as b; b.build_sdist({str(folder)!r})", cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    run(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", folder, sdist, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def repaired(wheel, out):
    """The wheel under the name of the oldest platform that it runs on."""
    told = run(sys.executable, "-m", "auditwheel", "show", wheel, cwd=out)
    found = re.search(r'platform tag to\s+"(manylinux_\w+)"', told) or re.search(r'following\s+platform tag: "(manylinux_\w+)"', told)
    if found is None:
        raise SystemExit(f"auditwheel knows no platform for {wheel.name}: {told}")
    libraries = [word for name in TORCHS for word in ("--exclude", name)]
    run(sys.executable, "-m", "auditwheel", "repair", "--plat", found[1], *libraries, "-w", out, wheel, cwd=out)
    (path,) = out.glob("*.whl")
    return path


def tried(python, wheel, torch, folder):
    """What the wheel said in an environment of its own."""
    run(python, "-m", "venv", folder / "environment", cwd=folder)
    own, empty = folder / "environment/bin/python", folder / "empty"
    empty.mkdir()
    run(own, "-m", "pip", "install", "--quiet", torch, cwd=empty)  # first, so that the wheel finds it there and fetches no other
    run(own, "-m", "pip", "install", "--quiet", wheel, cwd=empty)
    said = run(own, "-W", "error::UserWarning:snnfast", "-c", SMOKE, cwd=empty).strip().splitlines()[-1]
    run(own.with_name("snnfast"), "info", cwd=empty)
    return said


def main():
    p = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    p.add_argument("--out", type=Path, default=ROOT / "dist")
    p.add_argument("--torch", default="torch==2.13.0", help="what is installed beside the wheel")
    p.add_argument("--only", nargs="+", choices=PYTHONS, help="versions of Python to try")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for old in [*args.out.glob("*.whl"), *args.out.glob("*.tar.gz")]:
        old.unlink()
    with tempfile.TemporaryDirectory() as folder:
        sdist, wheel = built(Path(folder))
        shutil.copy2(sdist, args.out)
        wheel = repaired(wheel, args.out)
    print(f"{args.out / sdist.name}\n{wheel}")
    tries = 0
    for version in args.only or PYTHONS:
        python = find_python(version)
        if python is None:
            print(f"Python {version}: not found here")
            continue
        with tempfile.TemporaryDirectory() as folder:
            print(tried(python, wheel, args.torch, Path(folder)), flush=True)
        tries += 1
    if not tries:
        raise SystemExit("no Python was found to try the wheel with")


if __name__ == "__main__":
    main()
