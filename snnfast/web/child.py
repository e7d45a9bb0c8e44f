"""Runs a command and writes how it ended, so that a server that was started again learns it: `python child.py ENDED -- COMMAND ...`.

Run as a file, not as a module: it needs nothing of snnfast. Signals go to the whole process group, so the command gets them by itself.
"""

import json
import os
import signal
import subprocess
import sys
import time


def main(argv):
    ended, command = argv[0], argv[2:]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # a handler, which the command does not inherit; to ignore a signal, it would
    began = time.time()
    code = subprocess.call(command)
    with open(ended + ".part", "w") as file:
        json.dump(dict(code=code, began=began, ended=time.time()), file)
    os.replace(ended + ".part", ended)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
