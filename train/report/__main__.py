"""`python -m train.report RUN ...`: writes a run's report, or what several runs gain on average."""

import sys

from runtime.terminal import terminal
from train.report.write import main, parse

with terminal():
    try:
        main(*parse())
    except (ValueError, OSError) as problem:
        sys.exit(str(problem))
