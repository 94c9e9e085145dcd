"""What a build prints while it works: its stages, tables that fit 80 columns, and one line at the end."""

import textwrap
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from compile.calibrate.report import CalibrationReport
from compile.report import BuildListener, BuildReport, VariantReport
from compile.source.opened import Source
from compile.tables import (
    differences_table,
    ladder_table,
    layers_table,
    main_table,
    meaning_of_differences,
    short_kernel,
    summary,
    variants_table,
)
from compile.text_table import WIDTH
from compile.times.layer_table import LayerTable
from compile.verify import Rung
from runtime.terminal import say

LEGEND = '"+3": 3 more like it, numbers are sums; "~": interpolated; --verbose: every layer'

PROGRESS = 5  # lines of a calibration's progress


class BuildPrinter(BuildListener):
    """Prints the stages of a build; verbose: every row and name whole, and the tables of every variant and level."""

    def __init__(self, verbose: bool = False, write: Callable[[str], None] = say):
        self._verbose = verbose
        self._write = write
        self._width = None if verbose else WIDTH

    def on_calibrate(self, network: str, done: int, count: int) -> None:
        """Prints about five times how many layers are quantized."""
        if done * PROGRESS // count > (done - 1) * PROGRESS // count:
            self._write(f"{network}: {done} of {count} layers quantized")

    def on_calibrated(self, report: CalibrationReport) -> None:
        """Prints how the quantized network agrees with the float one, and its worst layers."""
        for line in report.lines:
            self._write(line)
        self._write("")

    def on_open(self, source: Source, target: str, bundle: Path) -> None:
        """Prints what is built, and where."""
        count = len(source.variants)
        self._write(f"{source.name}: {count} {'variant' if count == 1 else 'variants'} for {target} -> {bundle}")
        for variant in source.variants:
            for note in () if variant.opened is None else variant.opened.form.notes:
                self._write(f"{variant.name}: {note}")

    def on_compile(self, name: str, code_of: str, index: int, count: int) -> None:
        """Prints the name of a variant whose code is compiled, and how many there are."""
        if name == code_of:
            self._write(f"{index} of {count}: {name}")
        elif self._verbose:
            self._write(f"{index} of {count}: {name}, the code of {code_of}")

    def on_times(self, variants: Sequence[VariantReport]) -> None:
        """Prints the layers of the first variant of each kind, or of all."""
        printed: set[Hashable] = set()
        self._write("")
        for variant in variants:
            for table in variant.tables if self._verbose else _own_main_table(variant):
                kernels = tuple((row.bits, short_kernel(row.kernel)) for row in table.rows)
                if self._verbose or kernels not in printed:
                    printed.add(kernels)
                    self._write(layers_table(variant.name, table, self._verbose).render(self._width))
                    self._write("")
        if printed and not self._verbose:
            self._write(LEGEND)
            self._write("")

    def on_verify(self, rungs: Sequence[Rung]) -> None:
        """Prints the verification ladder and what logits that differ without harm mean."""
        self._write(ladder_table(rungs, self._verbose).render(self._width))
        for rung in rungs:
            meaning = meaning_of_differences(rung)
            if meaning and any(layer.differing for layer in rung.layers):
                self._write("")
                self._write(differences_table(rung, self._verbose).render(self._width))
            if meaning:
                self._write(meaning if self._width is None else textwrap.fill(meaning, self._width))
        self._write("")

    def on_write(self, report: BuildReport) -> None:
        """Prints the variants, what to do next, and the summary."""
        self._write(variants_table(report.variants, self._verbose).render(self._width))
        self._write("")
        self._write(f"check the bundle on the device: python -m runtime check {report.bundle}")
        self._write(summary(report))


def _own_main_table(variant: VariantReport) -> list[LayerTable]:
    """The table of a variant with code of its own, in a list."""
    if variant.code_of != variant.name or not variant.tables:
        return []
    return [main_table(variant) or variant.tables[0]]
