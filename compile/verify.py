"""The ladder every build climbs: ONNX file, integer reference and compiled code must give the same golden logits.

    onnxruntime (BASIC)  ==  integer reference  ==  what training recorded  ==  compiled code

Each rung is a count of differing logits; code of a level that nothing here can run has a rung of none. A file that
training did not make may round ties the other way in onnxruntime's float arithmetic, so there the first rung only has
to agree on the class of nearly every picture.
"""

from dataclasses import dataclass

import numpy as np
import onnxruntime

from compile.lowering.lower import Lowered, Runner, run_compiled
from compile.source.opened import BuildVariant
from targets.reference import interpreter

FOREIGN_AGREEMENT = 0.75  # of golden pictures; eight made-up ones leave room for two near ties


class VerificationError(ValueError):
    """Two rungs of the ladder differ; the message says which, and by how many values."""


@dataclass(frozen=True)
class Rung:
    """One comparison: `differing` of `values` logits, over `pictures` golden pictures; 0 values: nothing could run."""

    variant: str
    name: str
    pictures: int
    values: int
    differing: int
    holds: bool


def climb(
    variant: BuildVariant,
    pictures: np.ndarray,
    lowered: list[Lowered],
    runners: list[tuple[str, Runner | None]],
    count: int,
) -> list[Rung]:
    """All rungs of one variant. runners: name and runner of each level's code, for the first `count` pictures."""
    expected = interpreter.run(variant.graph, pictures)
    rungs = [
        _onnx_rung(variant, pictures, expected),
        _rung(variant.name, "reference = recorded", expected, variant.logits),
    ]
    for one, (level, runner) in zip(lowered, runners, strict=True):
        expect = expected[: count if runner else 0]
        got = run_compiled(one, runner, pictures[:count]) if runner else expect
        rungs.append(_rung(variant.name, f"{level} = reference", got, expect))
    return rungs


def require(rungs: list[Rung]) -> None:
    """Raises VerificationError for the first rung that does not hold."""
    for rung in rungs:
        if not rung.holds:
            raise VerificationError(
                f"{rung.variant}: {rung.name}: expected equal logits, {rung.differing} of {rung.values} "
                f"differ over {rung.pictures} golden pictures; nothing was written. `--dump DIR` "
                "leaves every stage to look at"
            )


def run_onnx(variant: BuildVariant, pictures: np.ndarray) -> np.ndarray:
    """int64 [N, classes]: onnxruntime's logits at optimization level BASIC, in steps of the graph's logit scale."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(variant.onnx), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    feed = _as_input(pictures, entry, variant.normalization)
    rows = np.concatenate(
        [session.run(None, {entry.name: feed[i : i + 1]})[0].reshape(1, -1) for i in range(len(feed))]
    )
    scale = np.float32(variant.graph.tensors[variant.graph.output].scale)
    return np.rint(rows.astype(np.float64) / np.float64(scale)).astype(np.int64)


def _as_input(pictures: np.ndarray, entry, normalization) -> np.ndarray:
    """Pictures uint8 [N, H, W, C] in the type and order of a file's input."""
    if entry.type != "tensor(uint8)":
        mean, std = (np.asarray(v, np.float64) for v in normalization)
        return np.ascontiguousarray(((pictures / 255 - mean) / std).transpose(0, 3, 1, 2), np.float32)
    channels_last = entry.shape[1] != pictures.shape[3] or entry.shape[3] == pictures.shape[3]
    return pictures if channels_last else np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))


def _onnx_rung(variant: BuildVariant, pictures: np.ndarray, expected: np.ndarray) -> Rung:
    got = run_onnx(variant, pictures)
    rung = _rung(variant.name, "onnxruntime = reference", got, expected)
    if variant.exact:
        return rung
    agree = float((got.argmax(1) == expected.argmax(1)).mean())
    return Rung(
        rung.variant,
        f"onnxruntime ~ reference (same class: {agree:.0%})",
        rung.pictures,
        rung.values,
        rung.differing,
        agree >= FOREIGN_AGREEMENT,
    )


def _rung(variant: str, name: str, got: np.ndarray, expected: np.ndarray) -> Rung:
    differing = int((got != expected).sum())
    return Rung(variant, name, len(expected), expected.size, differing, differing == 0)
