"""The verification ladder of every build: ONNX file, integer reference and compiled code must give the same logits.

    onnxruntime (BASIC)  ==  integer reference  ==  golden data  ==  compiled code

Each rung compares golden logits bit for bit. A file that training did not make may round ties the other way in
onnxruntime's float arithmetic, so there the first rung is only indicative: it demands the same class of most pictures.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from compile.bundle.level_code import LevelCode
from compile.lowering.lower import run_compiled
from compile.source.opened import BuildVariant
from targets.reference import interpreter

ONNXRUNTIME = "onnxruntime"
GOLDEN = "golden data"
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}  # types of a float picture
FOREIGN_AGREEMENT = 0.75  # of golden pictures; eight made-up ones leave room for two near ties


class VerificationError(ValueError):
    """Two rungs of the ladder differ; the message says which, and by how much."""


@dataclass(frozen=True)
class Rung:
    """One comparison of a variant's golden logits with those of the integer reference.

    answers: whose logits they are: onnxruntime's, the golden data's, or those of a level's code. differing: how many of
    `logits` over `pictures` golden pictures; no logits: nothing here could run the code. needed: None where every logit
    must be equal, else how many pictures must have the same class, and same_class have it.
    """

    variant: str
    answers: str
    pictures: int
    logits: int
    differing: int
    same_class: int
    needed: int | None = None

    @property
    def ran(self) -> bool:
        """Whether anything here could run the code."""
        return self.logits > 0

    @property
    def is_indicative(self) -> bool:
        """Whether the rung says something of the file, and nothing of the compiled code."""
        return self.needed is not None

    @property
    def holds(self) -> bool:
        """Whether the demand is met; true where nothing could run."""
        return self.differing == 0 if self.needed is None else self.same_class >= self.needed

    @property
    def demand(self) -> str:
        """What the two sides must have in common, in words."""
        return "bit for bit" if self.needed is None else f"same class of {self.needed}"

    @property
    def result(self) -> str:
        """What they have in common, in words."""
        if not self.ran:
            return "not run here"
        if not self.holds:
            return f"FAILED: {self.same_class} of {self.pictures}" if self.is_indicative else "FAILED"
        return f"indicative: {self.same_class} of {self.pictures}" if self.is_indicative else "equal"

    @property
    def compared(self) -> str:
        """Both sides, in short."""
        return f"{self.answers} {'~' if self.is_indicative else '='} reference"

    def require(self) -> None:
        """Raises VerificationError unless the rung holds."""
        if self.holds:
            return
        expected = "equal logits" if self.needed is None else f"the same class of {self.needed} pictures"
        classes = "" if self.needed is None else f", and {self.same_class} have the same class"
        raise VerificationError(
            f"{self.variant}: {self.compared}: expected {expected}, {self.differing} of {self.logits} differ over "
            f"{self.pictures} golden pictures{classes}; nothing was written. `--dump DIR` leaves every stage to look at"
        )


def verify_variant(variant: BuildVariant, pictures: np.ndarray, level_codes: list[LevelCode], count: int) -> list[Rung]:
    """Returns all rungs of one variant over golden pictures uint8 [N, H, W, C].

    level_codes: the compiled code of each level, which runs the first `count` pictures.
    """
    expected = interpreter.run(variant.graph, pictures)
    rungs = [_onnx_rung(variant, pictures, expected), _exact_rung(variant.name, GOLDEN, expected, variant.logits)]
    for code in level_codes:
        logits = expected[:0]
        if code.runner is not None:
            logits = run_compiled(code.lowered, code.runner, pictures[:count])
        rungs.append(_exact_rung(variant.name, code.name, logits, expected[: len(logits)]))
    return rungs


def run_onnx(variant: BuildVariant, pictures: np.ndarray) -> np.ndarray:
    """Returns int64 [N, classes]: onnxruntime's logits at optimization level BASIC, in steps of the logits' scale.

    pictures: uint8 [N, H, W, C]. Raises VerificationError where onnxruntime does not take the file.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = str(variant.onnx) if variant.opened is None else variant.opened.form.file.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class in common
        raise VerificationError(
            f"{variant.onnx}: expected a file that onnxruntime {onnxruntime.__version__} can run, which the integers "
            f"are compared with; it says: {' '.join(str(error).split())[:400]}"
        ) from error
    entry = session.get_inputs()[0]
    inputs = _as_input(variant, pictures, entry)
    rows = [session.run(None, {entry.name: inputs[i : i + 1]})[0].reshape(1, -1) for i in range(len(inputs))]
    scale = np.float32(variant.graph.tensors[variant.graph.output].scale)
    return np.rint(np.concatenate(rows).astype(np.float64) / np.float64(scale)).astype(np.int64)


def _as_input(variant: BuildVariant, pictures: np.ndarray, entry: Any) -> np.ndarray:
    """Pictures uint8 [N, H, W, C] in the type and order of a file's input."""
    channels_last = entry.shape[1] != pictures.shape[3] or entry.shape[3] == pictures.shape[3]
    if variant.normalization is not None:
        values = variant.normalization.floats(pictures).astype(FLOATS[entry.type])
        return np.ascontiguousarray(values.transpose(0, 2, 3, 1)) if channels_last else values
    return pictures if channels_last else np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))


def _onnx_rung(variant: BuildVariant, pictures: np.ndarray, expected: np.ndarray) -> Rung:
    logits = run_onnx(variant, pictures)
    if variant.exact:
        return _exact_rung(variant.name, ONNXRUNTIME, logits, expected)
    return _rung(variant.name, ONNXRUNTIME, logits, expected, math.ceil(FOREIGN_AGREEMENT * len(expected)))


def _exact_rung(variant: str, answers: str, logits: np.ndarray, expected: np.ndarray) -> Rung:
    return _rung(variant, answers, logits, expected, None)


def _rung(variant: str, answers: str, logits: np.ndarray, expected: np.ndarray, needed: int | None) -> Rung:
    """Of logits [N, classes]."""
    differing = int((logits != expected).sum())
    same_class = int((logits.argmax(1) == expected.argmax(1)).sum())
    return Rung(variant, answers, len(expected), expected.size, differing, same_class, needed)
