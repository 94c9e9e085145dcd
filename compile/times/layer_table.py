"""The layers of a compiled network: kernel, bits, work, and predicted and measured times of each."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compile.lowering.lower import Lowered, table_of_rules
from compile.times.machine import missing_features
from targets import Target
from targets.costs.shapes import layer_calls
from targets.costs.table import MEASURED, CostsError, load, path_of
from targets.reference.graph import Graph

BUILD_BUDGET_US = 5_000.0  # of measuring, for each distinct kernel: a build is not to wait for it


@dataclass(frozen=True)
class LayerTime:
    """One call of a kernel.

    predicted: from the target's table of costs, None without one; interpolated: whether it is taken from other layers.
    measured: microseconds of this very kernel on this machine, None where that cannot be.
    """

    layer: str
    kernel: str
    bits: str
    macs: int
    predicted: float | None
    interpolated: bool
    measured: float | None


@dataclass(frozen=True)
class LayerTable:
    """All calls of a network for levels that take the same kernels.

    levels: their names; unit: of predicted times; network_us: measured microseconds of the whole, None where unknown.
    """

    levels: tuple[str, ...]
    rows: tuple[LayerTime, ...]
    unit: str
    network_us: float | None

    @property
    def macs(self) -> int:
        """Multiply-adds of all layers."""
        return sum(row.macs for row in self.rows)

    @property
    def predicted(self) -> float | None:
        """The sum of predicted times, None where one is unknown."""
        return sum_of_known([row.predicted for row in self.rows])

    @property
    def measured(self) -> float | None:
        """The sum of measured times, None where one is unknown."""
        return sum_of_known([row.measured for row in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Returns the table for a JSON file."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class NetworkCode:
    """A network's code for one level: lowered, and compiled into `function` of a library, where there is one."""

    graph: Graph
    level: Target
    lowered: Lowered
    library: Path | None = None
    function: str = "main"


@dataclass(frozen=True)
class _Prediction:
    """A predicted time, None where the table of costs has no layer like it."""

    time: float | None
    interpolated: bool


def make_layer_table(code: NetworkCode, levels: tuple[str, ...] = (), measure: bool = True) -> LayerTable:
    """Returns the table of a network's layers; measure: whether kernels are timed where this machine runs them.

    levels: names of all levels that take these kernels; left out, that of the code.
    """
    runs_here = measure and not missing_features(code.level)
    calls = code.lowered.calls
    measured: list[float | None] = [None] * len(calls)
    network_us = None
    if runs_here:
        # Here, so that reports of a build can be had without TVM.
        from compile.times.measured import Local, library_time

        measured = list(Local(code.level).times(calls, BUILD_BUDGET_US))
        if code.library is not None:
            network_us = library_time(code.library, code.function, code.lowered)
    predictions, unit = _predictions(code.graph, code.level)
    rules = table_of_rules(code.graph, code.lowered)
    rows = [
        LayerTime(layer, rule, bits, macs, prediction.time, prediction.interpolated, time)
        for (layer, rule, bits, macs), prediction, time in zip(rules, predictions, measured, strict=True)
    ]
    return LayerTable(levels or (code.level.name,), tuple(rows), unit, network_us)


def _predictions(graph: Graph, target: Target) -> tuple[list[_Prediction], str]:
    """What the target's table of costs predicts for each call, and the table's unit."""
    calls = layer_calls(graph)
    if not path_of(target.name).exists():
        return [_Prediction(None, False)] * len(calls), "us"
    costs = load(target.name)
    predictions = []
    for call in calls:
        try:
            time, how = costs.layer(call.shape, call.bits)
            predictions.append(_Prediction(time, how != MEASURED))
        except CostsError:  # the table has no layer like it
            predictions.append(_Prediction(None, False))
    return predictions, costs.unit


def sum_of_known(values: list[float | None]) -> float | None:
    """Returns the sum of times, None where one of them is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
