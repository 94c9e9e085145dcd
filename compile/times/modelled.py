"""The cost of kernels on a processor that is not at hand: what a model of it says, never a latency."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from compile.lowering.lower import Lowered
from compile.times.kernel_loop import random_codes, table_of
from compile.times.measured import link, structural_key
from runtime.abi import SLACK, aligned
from targets import Target, TargetError
from targets.family import load
from targets.kernel import Call, Sizes

TABLE_SLACK = SLACK // 4  # entries of a table, int32, that loads may reach past its end


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What a compiled `main` reads: picture uint8 [n], weights int8 [n], table int32 [n]; and the sizes of the rest."""

    picture: np.ndarray
    weights: np.ndarray
    table: np.ndarray
    sizes: Sizes


class Modelled:
    """A processor that is only emulated: estimates by targets/<family>/cycles.py.

    Raises TargetError where the family has none, and its CyclesError where it lacks a tool.
    """

    def __init__(self, target: Target):
        cycles = load(target.family).cycles
        if not target.cpu or cycles is None:
            raise TargetError(
                f"{target.name}: expected a processor that runs here or has a model, got neither; measure on the board "
                "with --rpc HOST:PORT"
            )
        self._cycles = cycles
        self.target = target
        self.unit = cycles.unit
        self.name = cycles.source(target)
        self._known: dict[Any, float] = {}

    def times(self, calls: Sequence[Call]) -> list[float]:
        """Returns the cost of one run of each call's kernel, in the unit; the same code is estimated once."""
        assemble = load(self.target.family).assemble
        estimates = []
        for call in calls:
            single_call, sizes = isolate(call)
            module = assemble([single_call], sizes)
            key = structural_key(module)
            if key not in self._known:
                self._known[key] = self._estimate(module, _inputs(single_call, sizes))
            estimates.append(self._known[key])
        return estimates

    def network(self, lowered: Lowered) -> float:
        """Returns the cost of one picture through a whole network, in the unit."""
        picture = np.random.default_rng(0).integers(0, 256, lowered.sizes.picture, np.uint8)
        return self._estimate(lowered.module, _Inputs(picture, lowered.weights(), lowered.table, lowered.sizes))

    def _estimate(self, module: tvm.IRModule, inputs: _Inputs) -> float:
        sizes = inputs.sizes
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "code.so"
            link(module, self.target, library)
            buffers = (inputs.picture, inputs.weights, inputs.table, sizes.workspace, sizes.logits)
            return self._cycles.estimate(library, self.target, buffers)


def _inputs(call: Call, sizes: Sizes) -> _Inputs:
    """Codes in the range of the widest operand, and the kernel's own weights and table."""
    widest = max(call.step.reads, key=lambda layout: layout.tensor.qmax)
    picture = np.resize(random_codes(widest, np.random.default_rng(0)), sizes.picture)
    weights = np.resize(call.kernel.weights, sizes.weights)
    return _Inputs(picture, weights, np.resize(table_of(call), sizes.table), sizes)


def isolate(call: Call) -> tuple[Call, Sizes]:
    """Returns the call as all that a `main` does: it reads main's picture (every operand the same one)."""
    end = 0
    logits = 1
    writes: list[int | None] = []
    for layout in call.step.writes:
        if layout.dtype == "int32":
            writes.append(None)
            logits = layout.size
        else:
            writes.append(end)
            end += aligned(layout.size + SLACK)
    picture = max(layout.size for layout in call.step.reads) + SLACK
    weights = call.kernel.weights.size + SLACK
    sizes = Sizes(picture, weights, table_of(call).size + TABLE_SLACK, max(1, end), logits)
    reads = (None,) * len(call.reads)
    return replace(call, reads=reads, writes=tuple(writes), weights=0, table=0), sizes
