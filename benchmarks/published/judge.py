"""Takes one published file through the importer, the compiler, and its own runtime, and prints its record as JSON.

    python -m benchmarks.published.judge FILE --pictures PLACE

It runs in a process of its own (benchmarks/published/guarded.py), so that nothing that a file does ends the others.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from benchmarks.published.photos import photos
from benchmarks.published.record import Record, short
from compile import build as builder
from compile.qdq.normalization import Normalization
from compile.report import BuildListener
from compile.settings import BuildSettings
from compile.source.opened import BuildVariant, open_source
from compile.verify import Rung, file_logits
from runtime import BundleError, Engine
from targets import find
from targets.reference import interpreter

DYNAMIC = {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}


class Ladder(BuildListener):
    """Keeps the rungs of a build, whatever becomes of it."""

    def __init__(self) -> None:
        self.rungs: list[Rung] = []

    def on_verify(self, rungs: Sequence[Rung]) -> None:
        """Takes the rungs."""
        self.rungs = list(rungs)

    @property
    def is_exact(self) -> bool:
        """Whether compiled code ran and equals the integer reference."""
        bit_for_bit = [rung for rung in self.rungs if rung.needed is None and rung.ran]
        return bool(bit_for_bit) and all(rung.holds for rung in bit_for_bit)


def judge(path: Path, normalization: Normalization, place: Path, count: int) -> Record:
    """Returns the record of a file; normalization: of its picture, where that is a float tensor.

    place: real pictures, of which `count` are asked.
    """
    start = time.perf_counter()
    record = Record(path.name, tool_of(path))
    try:
        variant = opened(path, normalization)
        record = replace(record, imports=True)
        with tempfile.TemporaryDirectory() as folder:
            record = _built(record, variant, Path(folder) / "bundle", place, count)
    except (ValueError, OSError) as error:
        record = replace(record, message=short(str(error).removeprefix(f"{path}: ")))
    except Exception as error:  # what the product should have said in its own words
        record = replace(record, message=short(f"{type(error).__name__}: {error}"))
    return replace(record, seconds=round(time.perf_counter() - start, 1))


def opened(path: Path, normalization: Normalization) -> BuildVariant:
    """Returns a file's network: with no normalization, with that for its channels, or with one for all channels.

    Raises the error of the first that has nothing to do with the normalization.
    """
    one = Normalization((float(np.mean(normalization.mean)),), (float(np.mean(normalization.std)),))
    errors: list[Exception] = []
    for way in (None, normalization, one):
        try:
            return open_source([path], way).variants[0]
        except ValueError as error:
            errors.append(error)
    about_the_file = [error for error in errors if not any(w in str(error) for w in ("--mean", "mean and std"))]
    raise (about_the_file or errors)[0]


def _built(record: Record, variant: BuildVariant, bundle: Path, place: Path, count: int) -> Record:
    """The record with what the build came to, and the comparison with the file's own runtime."""
    ladder = Ladder()
    settings = BuildSettings(
        find("x86"), (variant.onnx,), bundle, golden=8, times=False, normalization=variant.normalization
    )
    try:
        builder.build(settings, ladder)
    except (ValueError, OSError) as error:
        return replace(record, exact=ladder.is_exact, message=short(str(error).removeprefix(f"{variant.onnx}: ")))
    record = replace(record, builds=True, exact=ladder.is_exact)
    pictures = photos(place, count, variant.graph.tensors[variant.graph.input].shape)
    integers, runtime = answers(bundle, variant, pictures), file_logits(variant, pictures)
    return replace(
        record,
        pictures=len(pictures),
        differing=int(np.count_nonzero(integers != runtime)),
        agree=int((integers.argmax(1) == runtime.argmax(1)).sum()),
    )


def answers(bundle: Path, variant: BuildVariant, pictures: np.ndarray) -> np.ndarray:
    """Returns int64 [N, classes] of pictures uint8 [N, H, W, C]: by the bundle's engine, which has the reference's.

    By the reference itself where no engine takes such pictures.
    """
    try:
        with Engine(bundle) as engine:
            name = next(iter(engine.variants))
            return np.stack([engine.logits(picture, name) for picture in pictures]).astype(np.int64)
    except (BundleError, ValueError):
        return interpreter.run(variant.graph, pictures).astype(np.int64)


def tool_of(path: Path) -> str:
    """Returns what made a file, and the style of quantization, as far as it tells."""
    if path.suffix == ".tflite":
        return "TFLite"
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:
        return ""
    kinds = {node.op_type for node in model.graph.node}
    styles = {
        "dynamic": bool(kinds & DYNAMIC),
        "QOperator": any(kind.startswith(("QLinear", "QGemm")) for kind in kinds),
        "QDQ": "QuantizeLinear" in kinds,
        "QONNX": "Quant" in kinds,
    }
    style = next((name for name, fits in styles.items() if fits), "no quantizers")
    return f"{model.producer_name or 'unknown'} {style}"


def main() -> None:
    """Prints the record of the file on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--mean", type=json.loads, required=True)
    parser.add_argument("--std", type=json.loads, required=True)
    args = parser.parse_args()
    normalization = Normalization(tuple(args.mean), tuple(args.std))
    print(json.dumps(judge(args.file, normalization, args.pictures, args.count).to_dict()))


if __name__ == "__main__":
    main()
