"""What the compiler needs of a family of hardware, and the one place that turns a family's name into it.

A family is a folder of targets/ with a module `family.py`, whose FAMILY is a Family. Nothing in compile/ knows
which of its modules does what.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from targets import Target
from targets.kernel import Call, Rule, Sizes

# (function, flat arrays) -> the arrays as the function left them
Caller = Callable[[str, Sequence[np.ndarray]], list[np.ndarray]]
# main's buffers (picture uint8, weights int8, table int32, bytes of workspace, logits) -> logits int32 [n]
Runner = Callable[[np.ndarray, np.ndarray, np.ndarray, int, int], np.ndarray]


class Build(Protocol):
    """Compiles the modules of a library, one for each of `target.compiled_for`."""

    def __call__(
        self,
        modules: Sequence[Any],
        target: Target,
        library: Path,
        workdir: Path | None = None,
        source_only: bool = False,
    ) -> dict[str, Any]:
        """Writes `library`; returns facts about it for the manifest. Raises TargetError.

        workdir: a folder that keeps objects and assembly. source_only: leave out what needs the target's own compiler.
        """


class MakeRunner(Protocol):
    """Loads a library, to be run during the build."""

    def __call__(self, library: Path, target: Target, function: str = "main") -> Runner:
        """Returns what runs a function of the library, here or emulated. Raises TargetError where neither can be."""


class OpenCaller(Protocol):
    """Loads a library of plain functions over buffers, such as a look's, to be called during the build."""

    def __call__(self, library: Path, target: Target) -> Caller:
        """Returns what calls its functions, here or emulated. Raises TargetError where neither can be."""


class CycleModel(Protocol):
    """Estimates what code costs on a processor that is not at hand."""

    unit: str

    def source(self, target: Target) -> str:
        """Returns where the estimates come from, for a table's head. Raises ValueError where they cannot be had."""

    def estimate(self, library: Path, target: Target, arguments: tuple[Any, ...]) -> float:
        """Returns the cost of one call of the library's `main` with the arguments of a Runner, in the unit."""


@dataclass(frozen=True)
class Family:
    """One family of hardware, as the compiler sees it.

    rules: the kernel rules of a target, in the order in which they are tried. assemble: turns calls into one TIR
    module. fuses_rescales: whether convolutions and additions write their result in other widths too. batches: whether
    `main` may take several pictures at once. linker: program and options that link its libraries; raises TargetError
    where there are none. emulated: whether `runner` needs no processor of the target's kind. vectors: those of
    the processor that calls main. build_look, open_look: as build and runner, of a library that runs on it alone.
    cycles: a model of processors that are not at hand, or None.
    """

    rules: Callable[[Target], list[Rule]]
    assemble: Callable[[list[Call], Sizes], Any]
    fuses_rescales: bool
    batches: bool
    linker: Callable[[], list[str]]
    build: Build
    runner: MakeRunner
    emulated: bool
    vectors: Callable[[Target], Any]  # targets.cpu.look.vectors.Vectors
    build_look: Build
    open_look: OpenCaller
    cycles: CycleModel | None = None


def load(name: str) -> Family:
    """Returns the family of that name, which is its folder's; its code, and with it TVM, is imported only now."""
    family: Family = importlib.import_module(f"targets.{name}.family").FAMILY
    return family
