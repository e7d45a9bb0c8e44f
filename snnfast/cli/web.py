"""`snnfast web`: the workbench in a browser."""

import getpass
import ipaddress
import signal
import sys
import threading

from snnfast.cli.console import plain_console
from snnfast.system import packages
from snnfast.web import passwords


def run(args):
    if args.add_user is not None:
        _add(args)
        return
    if not _is_local(args.host) and args.passwords is None:
        raise ValueError(
            f"--host {args.host} is seen by other machines: --passwords FILE says who may come, and --add-user NAME adds somebody"
        )
    if ":" in args.host:
        raise ValueError(f"--host {args.host}: addresses with colons are not served; 127.0.0.1 is this machine, 0.0.0.0 all its networks")
    if args.port is not None and not 1 <= args.port <= 65535:
        raise ValueError(f"--port must be 1 to 65535, got {args.port}")
    packages.check_installed("gradio", "matplotlib", extra="web")
    from snnfast.web.server import Server

    console = plain_console()
    server = Server(
        args.workspace, devices=args.devices, data_dir=args.data_dir, check=args.passwords and passwords.checker(args.passwords)
    )
    try:
        url = server.start(args.host, args.port)
        console.print(f"snnfast web: {url}, workspace {server.workspace.path}; Ctrl-C ends it, and what runs goes on", soft_wrap=True)
        stopped = threading.Event()
        before = signal.signal(signal.SIGINT, lambda *_: stopped.set())
        try:
            while not stopped.wait(0.5):
                pass
        finally:
            signal.signal(signal.SIGINT, before)
    finally:
        server.close()
    console.print("snnfast web: ended")


def _add(args):
    if args.passwords is None:
        raise ValueError("--add-user needs --passwords FILE")
    if sys.stdin.isatty():
        password = getpass.getpass(f"password of {args.add_user}: ")
        if getpass.getpass("again: ") != password:
            raise ValueError("the two passwords differ")
    else:
        password = sys.stdin.readline().rstrip("\n")
    passwords.add(args.passwords, args.add_user, password)
    print(f"{args.add_user} may come, by {args.passwords}")


def _is_local(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
