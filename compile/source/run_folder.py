"""The run folder that training leaves (contract 1): file names, format, and typed run.json and golden data."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runtime.fields import BundleError, Fields
from runtime.files import replacing, write_bytes
from targets.reference.graph import Graph, bit_operations, macs, relative_cost
from targets.reference.nodes import BITS

RUN_FILE = "run.json"
GOLDEN_FILE = "golden.npz"
RUN_FORMAT = 1
DAMAGED = "the file is damaged: export the run again"
UNFINISHED = "if this is an interrupted run, finish it with `python -m train.run ... --resume`"

Json = dict[str, Any]


class SourceError(ValueError):
    """A run or a file cannot be used; the message says what was expected, what came and what to do."""


@dataclass(frozen=True)
class MixedScore:
    """How many test pictures a variant gets right when each is degraded at random; seed: of the degradations."""

    pictures: int
    correct: int
    seed: int

    @classmethod
    def from_fields(cls, fields: Fields) -> "MixedScore":
        """Reads the JSON object. Raises BundleError for anything else."""
        return cls(fields.whole("pictures", 1), fields.whole("correct", 0), fields.whole("seed", 0))


@dataclass(frozen=True)
class NetworkFacts:
    """What is known of one integer network besides its integers.

    bits: layer -> (w_bits, a_bits); macs, bitops: of one picture; cost: relative to 8 bits everywhere; accuracy:
    degradation family -> 0..1, empty where nobody measured; mixed: None where nobody measured.
    """

    bits: dict[str, tuple[int, int]]
    macs: int
    bitops: int
    cost: float
    accuracy: dict[str, float] = field(default_factory=dict)
    mixed: MixedScore | None = None

    @classmethod
    def of_graph(
        cls,
        graph: Graph,
        cost: float | None = None,
        accuracy: dict[str, float] | None = None,
        mixed: MixedScore | None = None,
    ) -> "NetworkFacts":
        """Takes bits, MACs and BitOPs from the graph; cost None: BitOPs relative to 8 bits everywhere."""
        price = relative_cost(graph) if cost is None else cost
        work = sum(macs(graph).values())
        return cls(graph.bit_config(), work, bit_operations(graph), price, accuracy or {}, mixed)

    def to_dict(self) -> Json:
        """Returns the JSON members that a bundle's manifest has for a variant."""
        mixed = {} if self.mixed is None else {"mixed": asdict(self.mixed)}
        bits = {layer: list(pair) for layer, pair in self.bits.items()}
        measured = {"cost": self.cost, "accuracy": self.accuracy, **mixed}
        return {**measured, "bits": bits, "macs": self.macs, "bitops": self.bitops}

    @classmethod
    def from_fields(cls, fields: Fields) -> "NetworkFacts":
        """Reads the members of a variant in run.json. Raises BundleError where one is not as expected."""
        return cls(
            bits=fields.mapping("bits", _read_widths),
            macs=fields.whole("macs", 0, 1 << 60),
            bitops=fields.whole("bitops", 0, 1 << 60),
            cost=fields.real("cost", 0),
            accuracy=fields.mapping("accuracy", lambda members, family: members.real(family, 0, 1)),
            mixed=MixedScore.from_fields(fields.object("mixed")) if "mixed" in fields.data else None,
        )


@dataclass(frozen=True)
class VariantRecord:
    """One variant in run.json: its ONNX file in the run folder, its facts, and how training came to it.

    method: what found its bits; kinds: the kinds of picture quality it was trained for, empty for all; base: the
    variant that a private one was made from, else empty.
    """

    name: str
    onnx: str
    facts: NetworkFacts
    method: str = ""
    kinds: tuple[int, ...] = ()
    base: str = ""

    def to_dict(self) -> Json:
        """Returns the JSON object."""
        facts = self.facts.to_dict()
        work = {key: facts.pop(key) for key in ("bits", "macs", "bitops", "cost")}
        origin = {"name": self.name, "method": self.method, "groups": list(self.kinds), "base": self.base}
        return {**work, **origin, **facts, "onnx": self.onnx}

    @classmethod
    def from_fields(cls, fields: Fields) -> "VariantRecord":
        """Reads the JSON object. Raises BundleError where a member is not as expected."""
        kinds = fields.get("groups", list, "a list")
        fields.require(all(type(k) is int and k >= 0 for k in kinds), "groups to be whole numbers", kinds)
        return cls(
            name=fields.text("name"),
            onnx=fields.text("onnx"),
            facts=NetworkFacts.from_fields(fields),
            method=fields.get("method", str, "text"),
            kinds=tuple(kinds),
            base=fields.get("base", str, "text"),
        )


@dataclass(frozen=True)
class ChoiceRecord:
    """How a run chooses a variant for a picture: JSON that the runtime defines and checks.

    selector, escalation: None where the run has none; lam: price of cost, as accuracy, that keeps the run's budget.
    """

    selector: Json | None = None
    budgets: tuple[Json, ...] = ()
    escalation: Json | None = None
    lam: float | None = None


@dataclass(frozen=True)
class StoredBytes:
    """Bytes of all variants together: packed weights, equal ones once, and tables of biases and multipliers."""

    weights: int
    tables: int


@dataclass(frozen=True)
class RunRecord:
    """All of run.json. shape: the input's [H, W, C]; settings: those of training, as JSON; golden: a file name."""

    name: str
    labels: tuple[str, ...]
    shape: tuple[int, ...]
    variants: tuple[VariantRecord, ...]
    stored: StoredBytes
    arch: str = ""
    dataset: str = ""
    method: str = ""
    choice: ChoiceRecord = ChoiceRecord()
    settings: Json = field(default_factory=dict)
    golden: str = GOLDEN_FILE

    def to_dict(self) -> Json:
        """Returns the JSON object."""
        return {
            "format": RUN_FORMAT,
            "input": {"shape": list(self.shape)},
            "selector": self.choice.selector,
            "escalation": self.choice.escalation,
            "name": self.name,
            "arch": self.arch,
            "dataset": self.dataset,
            "method": self.method,
            "labels": list(self.labels),
            "variants": [variant.to_dict() for variant in self.variants],
            "budgets": list(self.choice.budgets),
            "lambda": self.choice.lam,
            "settings": self.settings,
            "bytes": asdict(self.stored),
            "golden": self.golden,
        }

    @classmethod
    def from_dict(cls, data: Any, where: str) -> "RunRecord":
        """Reads the JSON object; where: names it in errors. Raises SourceError where a member is not as expected."""
        try:
            return cls._from_fields(Fields(data, where, DAMAGED))
        except BundleError as error:
            raise SourceError(str(error)) from error

    @classmethod
    def _from_fields(cls, fields: Fields) -> "RunRecord":
        version = fields.get("format", int, "a whole number")
        fields.require(version == RUN_FORMAT, f"a run of format {RUN_FORMAT}", f"format {version}")
        shape = fields.object("input").get("shape", list, "a list")
        fields.require(len(shape) == 3 and all(type(n) is int and n > 0 for n in shape), "input [H, W, C]", shape)
        stored = fields.object("bytes")
        return cls(
            name=fields.text("name"),
            labels=tuple(fields.texts("labels", least=1)),
            shape=tuple(shape),
            variants=tuple(VariantRecord.from_fields(v) for v in fields.objects("variants", least=1)),
            stored=StoredBytes(stored.whole("weights", 0), stored.whole("tables", 0)),
            arch=fields.get("arch", str, "text"),
            dataset=fields.get("dataset", str, "text"),
            method=fields.get("method", str, "text"),
            choice=_read_choice(fields),
            settings=fields.object("settings").data,
            golden=fields.text("golden"),
        )

    def write(self, folder: Path) -> None:
        """Writes run.json into the folder."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        write_bytes(folder / RUN_FILE, text.encode() + b"\n")


def require_run(folder: Path) -> None:
    """Raises SourceError unless the folder is there and holds a run.json, whatever is in it."""
    if not folder.is_dir():
        raise SourceError(f"{folder}: expected a finished run, but there is no such folder; check the path")
    if not (folder / RUN_FILE).is_file():
        raise SourceError(f"{folder}: expected a finished run, but {RUN_FILE} is missing; {UNFINISHED}")


def read_run(folder: Path) -> RunRecord:
    """Reads run.json of a run folder. Raises SourceError where it is missing, unreadable or not as expected."""
    require_run(folder)
    path = folder / RUN_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"{path}: expected a file that can be read, got: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: expected JSON, got text that is not ({error}); {DAMAGED}") from error
    return RunRecord.from_dict(data, str(path))


@dataclass(frozen=True, eq=False)
class GoldenData:
    """Pictures uint8 [G, H, W, C], and the exact logits int32 [G, classes] of each variant for them."""

    pictures: np.ndarray
    logits: dict[str, np.ndarray]

    def write(self, folder: Path) -> None:
        """Writes golden.npz into the folder."""
        arrays: Json = {"images": self.pictures, **{f"logits_{name}": values for name, values in self.logits.items()}}
        with replacing(folder / GOLDEN_FILE) as temporary:
            np.savez(temporary, **arrays)


def read_golden(folder: Path, run: RunRecord) -> GoldenData:
    """Reads the golden data of a run's variants. Raises SourceError where they are missing or damaged."""
    path = folder / run.golden
    try:
        with np.load(path, allow_pickle=False) as file:
            return GoldenData(file["images"], {v.name: file[f"logits_{v.name}"] for v in run.variants})
    except FileNotFoundError as error:
        raise SourceError(f"{folder}: expected a finished run, but {run.golden} is missing; {UNFINISHED}") from error
    except Exception as error:  # numpy's and zipfile's readers raise kinds of their own at damaged files
        raise SourceError(f"{path}: expected golden data of every variant, got {error!r}; {DAMAGED}") from error


def _read_choice(fields: Fields) -> ChoiceRecord:
    optional = (dict, type(None))
    return ChoiceRecord(
        selector=fields.get("selector", optional, "an object or null"),
        budgets=tuple(fields.get("budgets", list, "a list")),
        escalation=fields.get("escalation", optional, "an object or null"),
        lam=None
        if fields.get("lambda", (int, float, type(None)), "a number or null") is None
        else fields.real("lambda"),
    )


def _read_widths(members: Fields, layer: str) -> tuple[int, int]:
    pair = members.get(layer, list, "a pair of widths")
    fits = len(pair) == 2 and all(type(b) is int and b in BITS for b in pair)
    members.require(fits, f"{layer} to be two widths from {BITS.start} to {BITS.stop - 1}", pair)
    return pair[0], pair[1]
