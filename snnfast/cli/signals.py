"""Ctrl-C and SIGTERM while something is written that should be whole."""

import contextlib
import signal
import sys
import threading

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def put_off(what):
    """Inside, the first Ctrl-C or SIGTERM waits until the end, and a second one acts at once. what: is written, for people."""
    if threading.current_thread() is not threading.main_thread():  # which alone may have handlers
        yield
        return
    before = {sent: signal.getsignal(sent) for sent in STOPS}
    before, came = {sent: handler for sent, handler in before.items() if callable(handler)}, []  # not what is ignored, or ends the process

    def later(sent, frame):
        came.append((sent, frame))
        back()
        print(f"snnfast: stops when {what} is written; once more stops at once", file=sys.stderr)

    def back():
        for sent, handler in before.items():
            signal.signal(sent, handler)

    for sent in before:
        signal.signal(sent, later)
    try:
        yield
    finally:
        back()
        if came:
            before[came[0][0]](*came[0])
