"""Processes made by fork go on with an engine, whatever their parent's threads were doing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

LIVES = """
import os, sys
import numpy as np
from runtime import Engine
from runtime.execution import threads
threads.Pace.__call__ = lambda self: self._together()
engine = Engine(sys.argv[1], threads=3, variant="w8a8")
picture = np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
before = engine.infer(picture).logits.tolist()
child = os.fork()
assert engine.infer(picture).logits.tolist() == before
if not child:
    engine.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("done")
"""


def test_a_fork_goes_on_alone_and_a_process_ends_with_its_engine_open(small_bundle):
    done = subprocess.run(
        [sys.executable, "-c", LIVES, str(small_bundle)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


AMID = """
import os, signal, sys, threading
import numpy as np
from runtime import Engine
from runtime.execution import threads
pace = threads.Pace.__call__
def together(self):
    self._left_alone = 0  # always with helpers, where there are any
    pace(self)
threads.Pace.__call__ = together
engine = Engine(sys.argv[1], threads=int(sys.argv[2]), variant="w8a8")
picture = np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
before, running = engine.infer(picture).logits.tolist(), True
def work():
    while running:
        engine.infer(picture)
busy = [threading.Thread(target=work, daemon=True) for _ in range(3)]
for thread in busy:
    thread.start()
for _ in range(40):
    child = os.fork()
    if not child:
        signal.alarm(20)
        same = all(engine.infer(picture).logits.tolist() == before for _ in range(3))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
running = False
for thread in busy:
    thread.join()
print("done")
"""


@pytest.mark.parametrize("count", [1, 3])
def test_a_fork_amid_inferences(small_bundle, count):
    """The child has neither the threads that hold the engine's lock nor those that have claimed work."""
    done = subprocess.run(
        [sys.executable, "-c", AMID, str(small_bundle), str(count)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
