"""`python -m tests.experiments.process FILE ...`: `python -m experiments ...`, with one difference.

A process that is not the first, and so writes no logs, appends to FILE what it would have logged.
"""

import sys
from pathlib import Path

from experiments import runs
from experiments.__main__ import main

if __name__ == "__main__":
    file, *arguments = sys.argv[1:]
    runs.NoLog = lambda: runs.LineLog(Path(file))
    sys.exit(main(arguments))
