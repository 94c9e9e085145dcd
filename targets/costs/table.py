"""What a layer costs on a target: the measured table, and a prediction for layers and whole networks from it.

A table (targets/<family>/costs-<processor>.json) maps the shape of a layer and its bits to the time of one call. What
is not in it follows from a small model fitted to those layers of the same kind and bits that are.
"""

import functools
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from runtime.files import write_bytes
from targets.costs.shapes import Shape, layer_calls, parse_bits
from targets.reference.graph import Graph

FORMAT = 1
MEASURED, INTERPOLATED = "measured", "interpolated"


class CostsError(ValueError):
    """No such table, a damaged one, or one that says nothing of a layer; the message says what to do."""


@dataclass(frozen=True)
class Entry:
    """Time of one call in the table's unit, and the kernel rule that served it."""

    time: float
    rule: str


@dataclass(frozen=True)
class Costs:
    """The table of one target.

    unit: "us", or what a model of the processor counts; machine: what was measured, or how; kernels: the version of
    bitgrade that made the kernels; entries: shape -> bits -> Entry.
    """

    target: str
    unit: str
    machine: str
    kernels: str
    entries: dict[Shape, dict[str, Entry]] = field(default_factory=dict)

    def layer(self, shape: Shape, bits: str) -> tuple[float, str]:
        """Returns (time, MEASURED or INTERPOLATED).

        Bits that no layer of the kind was measured at count as the next wider.

        Raises CostsError where the table has no such kind, or not at bits as wide.
        """
        if bits in self.entries.get(shape, ()):
            return self.entries[shape][bits].time, MEASURED
        bits = self._measured_bits(shape.kind, bits)
        model = self._models[shape.kind, bits]
        near = [s for s in self._like.get((_geometry(shape)), ()) if bits in self.entries[s]]
        if near:  # the same layer but for what it adds and writes
            nearest = min(near, key=lambda s: (s.skip != shape.skip, abs(len(s.borders) - len(shape.borders)), s))
            return self.entries[nearest][bits].time * model(shape) / model(nearest), INTERPOLATED
        return model(shape), INTERPOLATED

    def predict(self, graph: Graph) -> list[tuple[str, float, str]]:
        """Returns (layer, time, MEASURED or INTERPOLATED) of all that runs, in order; a network's time is the sum."""
        return [(call.name, *self.layer(call.shape, call.bits)) for call in layer_calls(graph)]

    def save(self, path: Path) -> None:
        """Writes the table, one line an entry, sorted."""
        shapes = []
        for shape in sorted(self.entries):
            rows = [
                f"   {json.dumps(bits)}: {json.dumps(asdict(entry))}"
                for bits, entry in sorted(self.entries[shape].items())
            ]
            shapes.append(f"  {json.dumps(str(shape))}: {{\n" + ",\n".join(rows) + "\n  }")
        head = {
            "format": FORMAT,
            "target": self.target,
            "unit": self.unit,
            "machine": self.machine,
            "kernels": self.kernels,
        }
        lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        lines.append(' "entries": {' + ("\n" + ",\n".join(shapes) + "\n }" if shapes else "}"))
        write_bytes(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())

    def _measured_bits(self, kind: str, bits: str) -> str:
        w, a = parse_bits(bits)
        known = {text: parse_bits(text) for k, text in self._models if k == kind}
        wider = {text: (v, b) for text, (v, b) in known.items() if b >= a and (v or 0) >= (w or 0)}
        if not wider:
            texts = ", ".join(sorted(known)) or "none"
            raise CostsError(
                f"{self.target}: expected costs of {kind} at {bits} or wider, got {texts}; measure them: "
                f"python -m compile.profile --target {self.target} RUN{' --bits ' + bits if w else ''}"
            )
        return min(wider, key=lambda text: ((wider[text][0] or 1) * wider[text][1], text))

    @functools.cached_property
    def _like(self) -> dict[Shape, list[Shape]]:
        alike: dict[Shape, list[Shape]] = {}
        for shape in self.entries:
            alike.setdefault(_geometry(shape), []).append(shape)
        return alike

    @functools.cached_property
    def _models(self) -> dict[tuple[str, str], "Model"]:
        groups: dict[tuple[str, str], list[tuple[Shape, float]]] = {}
        for shape, widths in self.entries.items():
            for bits, entry in widths.items():
                groups.setdefault((shape.kind, bits), []).append((shape, entry.time))
        return {key: fit(group) for key, group in groups.items()}


def _geometry(shape: Shape) -> Shape:
    return Shape(shape.kind, shape.kernel, shape.stride, shape.input, shape.output, shape.groups)


@dataclass(frozen=True)
class Model:
    """time = rates . (work, outputs stored, 1, residual codes), no rate negative."""

    rates: np.ndarray

    def __call__(self, shape: Shape) -> float:
        """Returns the time of a shape."""
        return float(self.rates @ _features(shape))


def _features(shape: Shape) -> np.ndarray:
    return np.array([shape.work, shape.outputs * len(shape.borders), 1, shape.outputs * shape.skip], np.float64)


def fit(measured: list[tuple[Shape, float]]) -> Model:
    """Returns the model of least squares of the relative error over (shape, time).

    Features that would cost less than nothing are left out, and there are never more of them than measurements.
    """
    rows = np.stack([_features(shape) / time for shape, time in measured])
    used = [k for k in range(rows.shape[1]) if rows[:, k].any()][: len(rows)]
    rates = np.zeros(rows.shape[1])
    while used:
        scale = np.abs(rows[:, used]).max(0)  # work is in millions where a call is one
        solution = np.linalg.lstsq(rows[:, used] / scale, np.ones(len(rows)), rcond=None)[0] / scale
        if solution.min() >= 0:
            rates[used] = solution
            break
        used.pop(int(np.argmin(solution * scale)))
    return Model(rates)


def path_of(target: str) -> Path:
    """Returns where the table of a target lies, "x86:avx2" say."""
    family, _, processor = target.partition(":")
    return Path(__file__).parents[1] / family / f"costs-{processor}.json"


def load(target: str, path: Path | None = None) -> Costs:
    """Returns the table of a target, from its own place or from `path`; raises CostsError."""
    path = path or path_of(target)
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT or content["target"] != target:
            raise CostsError(
                f"{path}: expected costs of {target}, format {FORMAT}; got {content['target']}, format "
                f"{content['format']}; measure anew with python -m compile.profile"
            )
        entries = {
            Shape.parse(shape): {bits: Entry(**entry) for bits, entry in widths.items()}
            for shape, widths in content["entries"].items()
        }
        return Costs(target, content["unit"], content["machine"], content["kernels"], entries)
    except FileNotFoundError as error:
        raise CostsError(
            f"{target}: expected a table of costs in {path}, found none; measure one: "
            f"python -m compile.profile --target {target} RUN"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CostsError(
            f"{path}: expected a table of costs, got another file ({type(error).__name__}); delete it and "
            "measure anew, or name another"
        ) from error
