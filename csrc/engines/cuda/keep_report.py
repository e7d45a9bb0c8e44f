"""Runs nvcc as CMake called it and writes what it says to <object>.log: registers and spills of every kernel, which a test reads."""

import subprocess
import sys

command = sys.argv[1:]
run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
if "-o" in command:
    with open(command[command.index("-o") + 1] + ".log", "w") as f:
        f.write(run.stdout)
if run.returncode or "-o" not in command:
    sys.stdout.write(run.stdout)
sys.exit(run.returncode)
