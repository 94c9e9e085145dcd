"""What measures kernels, whatever it is, and whether this machine can run a target's code."""

from collections.abc import Sequence
from typing import Protocol

from runtime.machine import cpu
from targets import Target
from targets.kernel import Call


class Machine(Protocol):
    """A processor whose kernels have a cost: this one, that of a board, or a model of one."""

    unit: str
    name: str

    def times(self, calls: Sequence[Call]) -> list[float]:
        """Returns the cost of one run of each call's kernel, in the unit; raises TargetError where it cannot."""


def missing_features(target: Target) -> str:
    """Returns what this machine lacks to run the target's kernels; "" if nothing."""
    if cpu.machine() != target.machine:
        return f"a processor of {target.machine}"
    return ", ".join(sorted(set(target.requires) - cpu.features()))
