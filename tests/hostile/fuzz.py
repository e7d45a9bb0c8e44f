"""Random cases for as long as one likes: the ops against their reference, and damaged files against the readers. `make test-hostile` runs it.

    python tests/hostile/fuzz.py [--seconds 240] [--seed N] [--only ops|files]

Every case has a seed of its own, which stands in the message of a failure and, with the damaged file, in build/hostile/; `--only ... --seed N` begins
with that case again. The case that runs stands there too, in running.json: one that ends the process is known afterwards. Ops: any rule, size, dtype
and instruction set, infinities and NaN among the numbers; results and gradients are compared bit for bit. Files: bytes flipped, cut, doubled and
spliced; a reader may refuse with ValueError or read, in seconds, and nothing else.
"""

import argparse
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/engines")]

import cases  # noqa: E402
from test_backends import check_row  # noqa: E402

import snnfast  # noqa: E402
from snnfast.engines import backends  # noqa: E402
from snnfast.ops import iaf as op  # noqa: E402
from snnfast.ops import norm_neuron, plif, quanta  # noqa: E402
from snnfast.reports.report import load_report  # noqa: E402

FOUND = ROOT / "build/hostile"
SPECIAL = (float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 6e4, -6e4)
SECONDS = 10  # of one file


def isas():
    return backends._C.isas() if backends._C else [None]


def an_op(seed):
    """One launch of a neuron with everything drawn from the seed."""
    rng = random.Random(seed)
    make, knobs, ops = rng.choice((
        (cases.Case, cases.KNOBS, op.OPS), (cases.PlifCase, cases.PLIF_KNOBS, plif.OPS), (cases.QuantaCase, cases.QUANTA_KNOBS, quanta.OPS),
        (cases.NormCase, cases.NORM_KNOBS, norm_neuron.OPS),
    ))  # fmt: skip
    row = {name: rng.choice(values) for name, values in knobs.items()}
    row["size"] = rng.choice((1, 2, 3, 5, 16, 17, 40, 140)), rng.choice((1, 2, 31, 32, 33, rng.randrange(1, 5000)))
    share = rng.choice((0.0, 0.0, 0.01, 0.3))

    def drawn(row, device="cpu"):
        case = make(row, device)
        g = torch.Generator().manual_seed(seed)
        for t in (case.neuron[0], case.ds, *([case.neuron[1]] if share == 0.3 else [])):
            where = torch.rand(t.shape, generator=g) < share
            t[where] = torch.tensor(SPECIAL)[torch.randint(0, len(SPECIAL), (int(where.sum()),), generator=g)].to(t.dtype)
        return case

    if row["surrogate"] == "sigmoid" and share:
        row["surrogate"] = "atan"  # exp differs between libraries, and a tolerance says nothing of infinities
    isa = rng.choice(isas())
    if isa:
        backends._C.use_isa(isa)
    torch.set_num_threads(rng.choice((1, 2)))
    try:
        check_row(row, ops.fwd, ops.out, ops.bwd, make=drawn)
    except Exception:
        raise AssertionError(f"{ops.stem} {cases.name(row)}, special values {share}, {isa}") from None


def originals(folder):
    """Files of every kind that a reader takes: name -> reader."""
    net = snnfast.models.vgg11(activation="qcfs", width=0.05)
    snnfast.save_checkpoint(folder / "own.pt", net, data="digits")
    torch.save({"model": net.state_dict(), "args": argparse.Namespace(lr=0.1)}, folder / "objects.pt")
    torch.save(net.state_dict(), folder / "old.pth", _use_new_zipfile_serialization=False)
    snnfast.Report(at=[1, 2], accuracy=[50.0, 60.0], images=10, seconds=1.0, ann=60.0).save(folder / "run")
    shutil.copy(folder / "run/report.json", folder / "report.json")
    return {
        "own.pt": snnfast.load_checkpoint,
        "objects.pt": lambda path: snnfast.extract(path, folder / "taken.pt"),
        "old.pth": lambda path: snnfast.load_checkpoint(path, levels=4, width=0.05),
        "report.json": load_report,
    }


def damaged(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        what = rng.randrange(5)
        if what == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif what == 1:
            del data[at : at + rng.choice((1, 4, 100, len(data)))]
        elif what == 2:
            data[at:at] = data[at : at + rng.choice((1, 10, 1000))]
        elif what == 3:
            data[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x80" * 4))
        else:
            end = rng.randrange(len(data) + 1)
            data[at:at] = data[min(at, end) : max(at, end)][:4000]
    return bytes(data)


def a_file(seed, folder, readers):
    rng = random.Random(seed)
    name = rng.choice(sorted(readers))
    path = folder / f"damaged-{name}"
    path.write_bytes(damaged((folder / name).read_bytes(), rng))
    began = time.process_time()
    try:
        with contextlib.suppress(ValueError):
            readers[name](path)
        assert time.process_time() - began < SECONDS, f"took {time.process_time() - began:.0f} s"
    except Exception as error:
        shutil.copy(path, FOUND / f"{seed}-{name}")
        raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--seconds", type=float, default=240)
    p.add_argument("--seed", type=int, default=None, help="of the first case (default: the clock's)")
    p.add_argument("--only", choices=("ops", "files"))
    args = p.parse_args(argv)
    first = int(time.time()) if args.seed is None else args.seed
    failed = 0
    FOUND.mkdir(parents=True, exist_ok=True)
    if (FOUND / "running.json").exists():
        print(f"the last run was ended inside a case: {(FOUND / 'running.json').read_text().strip()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        readers = originals(folder)
        kinds = {"ops": an_op, "files": lambda seed: a_file(seed, folder, readers)}
        for kind, run in kinds.items():
            if args.only not in (None, kind):
                continue
            until, seed = time.monotonic() + args.seconds / (1 if args.only else 2), first
            while time.monotonic() < until and failed < 5:
                (FOUND / "running.json").write_text(json.dumps(dict(kind=kind, seed=seed)) + "\n")
                try:
                    run(seed)
                except Exception as error:
                    failed += 1
                    print(f"FAILED: --only {kind} --seed {seed}: {error}", flush=True)
                    if not isinstance(error, AssertionError):
                        traceback.print_exc()
                    (FOUND / f"{seed}-{kind}.json").write_text(json.dumps(dict(kind=kind, seed=seed, error=str(error))) + "\n")
                seed += 1
            print(f"{kind}: {seed - first} cases from seed {first} on", flush=True)
    (FOUND / "running.json").unlink(missing_ok=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
