"""The command `snnfast`."""

import contextlib
import os
import signal
import sys
import threading

from snnfast.cli.arguments import parser as _parser
from snnfast.ops import info
from snnfast.system.text import plain


def _info(args):
    for key, value in info.info().items():
        if isinstance(value, dict):
            value = "; ".join(f"{k} {v}" for k, v in value.items())
        print(f"{key:18s} {value}")


def _device(name):
    from snnfast import checks
    from snnfast.system import processes

    return checks.device("--device", processes.own_device(name))


def _demo(args):
    from snnfast.cli.demo import demo

    methods = args.methods if args.methods in (None, "all") else tuple(m.strip() for m in args.methods.split(","))
    demo(out=args.out, device=_device(args.device), T=args.T, seed=args.seed, methods=methods, arch=args.arch)


def _train(args):
    from snnfast.cli import train

    train.train(args, _device(args.device))


def _eval(args):
    from snnfast.cli import evaluate

    evaluate.run(args, _device(args.device))


def _compare(args):
    from snnfast.cli import compare

    compare.run(args)


def _trace(args):
    from snnfast.cli import trace

    trace.run(args, _device(args.device))


def _diagnose(args):
    from snnfast.cli import diagnose

    diagnose.run(args, _device(args.device))


def _convert(args):
    from snnfast.cli import convert

    convert.run(args, _device(args.device))


def _web(args):
    from snnfast.cli import web

    web.run(args)


def _extract(args):
    from snnfast.checkpoints.extract import extract

    many, left = extract(args.file, args.new)
    print(f"wrote {many} tensors to {args.new}" + (f"; left out: {', '.join(left)}" if left else ""))


def parser():
    return _parser(
        dict(
            demo=_demo,
            train=_train,
            eval=_eval,
            compare=_compare,
            trace=_trace,
            diagnose=_diagnose,
            convert=_convert,
            web=_web,
            extract=_extract,
            info=_info,
        )
    )


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


def _on_terminate(*_):
    raise Terminated


def main(argv=None):
    args = parser().parse_args(argv)
    ours = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _on_terminate) if ours else None
    try:
        args.run(args)
        if sys.stdout is not None:  # None where a program was started without one
            sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer goes nowhere, so that Python's end does not trip over it.
        with contextlib.suppress(OSError, AttributeError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        print("snnfast: the output was closed before its end", file=sys.stderr)
        return 2
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        return _told(args, error, 2)
    except KeyboardInterrupt as error:
        print("snnfast: stopped", file=sys.stderr)
        return 143 if isinstance(error, Terminated) else 130
    except Exception as error:  # nothing known: torch's own errors and our mistakes
        return _told(args, error, 1)
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)
    return 0


def _told(args, error, code):
    """One line for the caller; the traceback with --debug."""
    if args.debug:
        raise error
    if isinstance(error, ModuleNotFoundError):
        extra = {"torchvision": "train", "timm": "train", "tensorboard": "train", "tonic": "events", "aedat": "events"}.get(
            error.name, "demo"
        )
        text = f"this needs {error.name}: pip install 'snnfast[{extra}]'"
    else:
        text = plain(" ".join(str(error).split()), 2000) or type(error).__name__
    if code == 1:
        text = f"unexpected {type(error).__name__}: {text[:500]} (--debug shows where)"
    print(f"snnfast: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
