"""`python -m benchmarks.cuda CASES --out RESULTS`: everything there is to know of a GPU, in one command."""

import sys

from benchmarks.cuda.everything import main

sys.exit(main())
