"""The cost of single kernels on a processor that is not at hand: what an emulation counts, never a latency."""

import importlib
import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tvm
from tvm_ffi import StructuralKey

from compile.plan import aligned
from compile.timing import codes, link, table_of
from targets import Target, TargetError
from targets.kernel import Call, Sizes
from targets.module import SLACK


class Modelled:
    """An emulated processor: cycles by targets/<family>/cycles.py where the family has it, else instructions."""

    def __init__(self, target: Target):
        emulator = f"targets.{target.family}.emulate"
        if not target.cpu or importlib.util.find_spec(emulator) is None:
            raise TargetError(f"{target.name}: neither runs here nor is emulated; measure on the board with "
                              "--rpc HOST:PORT")
        cycles = f"targets.{target.family}.cycles"
        self.target, self._emulate, self._cycles = target, importlib.import_module(emulator), None
        if importlib.util.find_spec(cycles) is not None:
            self._cycles = importlib.import_module(cycles)
        self.unit = "instructions (model)" if self._cycles is None else "cycles (model)"
        self.name = f"{target.cpu}, emulated"

    def times(self, calls: Sequence[Call]) -> list[float]:
        """Instructions or cycles of one run of each call's kernel; the same code is counted once."""
        kernels, counted, found = importlib.import_module(f"targets.{self.target.family}.kernels"), {}, []
        for call in calls:
            only, sizes = alone(call)
            module = kernels.assemble([only], sizes)
            key = StructuralKey(module)
            if key not in counted:
                counted[key] = self._count(module, only, sizes)
            found.append(counted[key])
        return found

    def _count(self, module: tvm.IRModule, call: Call, sizes: Sizes) -> float:
        largest = max(call.step.reads, key=lambda layout: layout.tensor.qmax)
        picture = np.resize(codes(largest, np.random.default_rng(0)), sizes.picture)
        weights = np.resize(call.kernel.weights, sizes.weights)  # one byte where there are none
        arguments = (picture, weights, table_of(call), sizes.workspace, sizes.logits)
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "kernel.so"
            link(module, self.target, library)
            if self._cycles is not None:
                return float(self._cycles.estimate(library, self.target, arguments))
            runner = self._emulate.Runner(library, self.target.cpu, count=True)
            runner(*arguments)
            return float(runner.instructions)


def alone(call: Call) -> tuple[Call, Sizes]:
    """The call as all that a `main` does: it reads main's picture (every operand the same one)."""
    at, writes, logits = 0, [], 1
    for layout in call.step.writes:
        if layout.dtype == "int32":
            writes.append(None)
            logits = layout.size
        else:
            writes.append(at)
            at += aligned(layout.size + SLACK)
    picture = max(layout.size for layout in call.step.reads) + SLACK
    sizes = Sizes(picture, max(1, call.kernel.weights.size), table_of(call).size, max(1, at), logits)
    return replace(call, reads=(None,) * len(call.reads), writes=tuple(writes), weights=0, table=0), sizes
