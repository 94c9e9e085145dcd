"""What a build comes to, as records that compile/printing.py turns into tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compile.calibrate.report import CalibrationReport
from compile.source.opened import Source
from compile.times.layer_table import LayerTable
from compile.verify import Rung


@dataclass(frozen=True)
class VariantReport:
    """One variant of a bundle.

    code_of: the variant whose library it uses, its own name where it is the first with that code. bits: of each layer
    (weights, activations). macs: multiply-adds; cost: BitOPs relative to 8 bits everywhere; accuracy: mean over the
    degradation families in 0..1, None where nobody measured. tables: times of its layers, one for each set of levels
    that take the same kernels; none where those of `code_of` are the same.
    """

    name: str
    code_of: str
    bits: dict[str, tuple[int, int]]
    macs: int
    cost: float
    accuracy: float | None
    tables: tuple[LayerTable, ...] = ()


@dataclass(frozen=True)
class BuildReport:
    """A finished build: the bundle, its size on disk, its variants, and the verification ladder that they passed.

    bytes: 0 where a rung did not hold and nothing was written.
    """

    bundle: Path
    target: str
    bytes: int
    variants: tuple[VariantReport, ...]
    rungs: tuple[Rung, ...]


class BuildListener:
    """Receives what a build has done, stage by stage; this one does nothing with it."""

    def on_calibrate(self, network: str, done: int, count: int) -> None:
        """Is called when `done` of `count` layers of a float network are quantized."""

    def on_calibrated(self, report: CalibrationReport) -> None:
        """Is called when a float network is quantized and compared with what it was."""

    def on_open(self, source: Source, target: str, bundle: Path) -> None:
        """Is called when the networks are read."""

    def on_compile(self, name: str, code_of: str, index: int, count: int) -> None:
        """Is called when variant `index` of `count` has its code, which is that of `code_of`."""

    def on_times(self, variants: Sequence[VariantReport]) -> None:
        """Is called when the layers of all variants have their times."""

    def on_verify(self, rungs: Sequence[Rung]) -> None:
        """Is called when all rungs are known; the build fails after this where one does not hold."""

    def on_write(self, report: BuildReport) -> None:
        """Is called when the bundle is complete."""
