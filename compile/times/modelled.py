"""The cost of kernels on a processor that is not at hand: what a model of it says, never a latency."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tvm
from tvm_ffi import StructuralKey

from compile.lowering.lower import Lowered
from compile.times.measured import codes, link, table_of
from runtime.abi import SLACK, aligned
from targets import Target, TargetError
from targets.family import load
from targets.kernel import Call, Sizes


class Modelled:
    """A processor that is only emulated: estimates by targets/<family>/cycles.py.

    Raises TargetError where the family has none, and its CyclesError where it lacks a tool.
    """

    def __init__(self, target: Target):
        cycles = load(target.family).cycles
        if not target.cpu or cycles is None:
            raise TargetError(
                f"{target.name}: neither runs here nor is emulated; measure on the board with --rpc HOST:PORT"
            )
        self.target, self._cycles = target, cycles
        self.unit, self.name = self._cycles.unit, self._cycles.source(target)
        self._known: dict[StructuralKey, float] = {}

    def times(self, calls: Sequence[Call]) -> list[float]:
        """Of one run of each call's kernel, in the unit; the same code is estimated once."""
        kernels, found = load(self.target.family), []
        for call in calls:
            only, sizes = alone(call)
            module = kernels.assemble([only], sizes)
            key = StructuralKey(module)
            if key not in self._known:
                self._known[key] = self._estimate(module, only, sizes)
            found.append(self._known[key])
        return found

    def network(self, lowered: Lowered) -> float:
        """Of one picture through a whole network, in the unit."""
        picture = np.random.default_rng(0).integers(0, 256, lowered.sizes.picture, np.uint8)
        return self._linked(lowered.module, picture, lowered.weights(), lowered.table, lowered.sizes)

    def _estimate(self, module: tvm.IRModule, call: Call, sizes: Sizes) -> float:
        largest = max(call.step.reads, key=lambda layout: layout.tensor.qmax)
        picture = np.resize(codes(largest, np.random.default_rng(0)), sizes.picture)
        weights, table = np.resize(call.kernel.weights, sizes.weights), np.resize(table_of(call), sizes.table)
        return self._linked(module, picture, weights, table, sizes)

    def _linked(
        self, module: tvm.IRModule, picture: np.ndarray, weights: np.ndarray, table: np.ndarray, sizes: Sizes
    ) -> float:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "code.so"
            link(module, self.target, library)
            return self._cycles.estimate(library, self.target, (picture, weights, table, sizes.workspace, sizes.logits))


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
    slack = SLACK // 4  # entries of the table
    sizes = Sizes(picture, call.kernel.weights.size + SLACK, table_of(call).size + slack, max(1, at), logits)
    return replace(call, reads=(None,) * len(call.reads), writes=tuple(writes), weights=0, table=0), sizes
