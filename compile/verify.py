"""The verification ladder of every build: the file, integer reference and compiled code must give the same logits.

    onnxruntime  ==  integer reference  ==  golden data  ==  compiled code

Each rung compares golden logits bit for bit. A file that training did not make may round ties the other way in
onnxruntime's float arithmetic. There the first rung is indicative: every layer alone must be near onnxruntime's codes,
and most pictures must get the same class. What differs is counted by layer (compile/ladder/layers.py). A TFLite file is
held against its own runtime, LiteRT, where that is installed.
"""

import math
from dataclasses import dataclass

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from compile.bundle.level_code import LevelCode
from compile.ladder.layers import LayerDifference, compare_layers, first_that_differs, run_file
from compile.ladder.onnx_file import LEVELS, OnnxRunError, PictureInput
from compile.lowering.lower import run_compiled
from compile.source.opened import BuildVariant
from compile.tflite.peer import LITERT, PeerError, run_litert
from targets.reference import interpreter

ONNXRUNTIME = "onnxruntime"
GOLDEN = "golden data"
FOREIGN_AGREEMENT = 0.75  # of golden pictures; eight made-up ones leave room for two near ties


class VerificationError(ValueError):
    """Two rungs of the ladder differ; the message says which, and by how much."""


@dataclass(frozen=True)
class Rung:
    """One comparison of a variant's golden logits with those of the integer reference.

    answers: whose logits they are: onnxruntime's, the golden data's, or those of a level's code. differing: how many of
    `logits` over `pictures` golden pictures; no logits: nothing here could run the code. needed: None where every logit
    must be equal, else how many pictures must have the same class, and same_class have it. largest: difference of a
    logit, and span: distance of the largest logit from the smallest, both in steps. layers: of a file's rung. missing:
    why a file's own runtime could not run it.
    """

    variant: str
    answers: str
    pictures: int
    logits: int
    differing: int
    same_class: int
    needed: int | None = None
    largest: int = 0
    span: int = 0
    layers: tuple[LayerDifference, ...] = ()
    missing: str = ""

    @property
    def ran(self) -> bool:
        """Whether anything here could run the code."""
        return self.logits > 0

    @property
    def is_indicative(self) -> bool:
        """Whether the rung says something of the file, and nothing of the compiled code."""
        return self.needed is not None

    @property
    def misread(self) -> LayerDifference | None:
        """The first layer that is so far from onnxruntime's codes that it cannot be what the file means."""
        return next((layer for layer in self.layers if layer.is_misread), None)

    @property
    def holds(self) -> bool:
        """Whether the demand is met; true where nothing could run."""
        if self.needed is None:
            return self.differing == 0
        return self.same_class >= self.needed and self.misread is None

    @property
    def demand(self) -> str:
        """What the two sides must have in common, in words."""
        return "bit for bit" if self.needed is None else f"{self.needed} classes"

    @property
    def result(self) -> str:
        """What came of it, in a word or two."""
        if not self.ran:
            return "not run"
        if not self.holds:
            return "FAILED"
        return "indicative" if self.is_indicative and self.differing else "equal"

    @property
    def compared(self) -> str:
        """Both sides, in short."""
        return f"{self.answers} {'~' if self.is_indicative else '='} reference"

    @property
    def other_classes(self) -> int:
        """How many pictures get another class."""
        return self.pictures - self.same_class

    def require(self) -> None:
        """Raises VerificationError unless the rung holds."""
        if self.holds:
            return
        expected = "equal logits" if self.needed is None else f"the same class of {self.needed} pictures"
        classes = "" if self.needed is None else f", and {self.same_class} have the same class"
        raise VerificationError(
            f"{self.variant}: {self.compared}: expected {expected}, {self.differing} of {self.logits} differ over "
            f"{self.pictures} golden pictures{classes}{self._culprit()}; nothing was written. `--dump DIR` leaves "
            "every stage to look at"
        )

    def _culprit(self) -> str:
        """The layer to look at first, in words."""
        if self.misread is not None:
            return (
                f"; layer {self.misread.tensor} alone is {self.misread.alone_largest} codes from onnxruntime's where "
                f"rounding explains {self.misread.limit}: it is not computed as the file says, please report it"
            )
        first = first_that_differs(self.layers)
        return "" if first is None else f"; the first layer that differs is {first.tensor}"


def verify_variant(variant: BuildVariant, pictures: np.ndarray, level_codes: list[LevelCode], count: int) -> list[Rung]:
    """Returns all rungs of one variant over golden pictures uint8 [N, H, W, C]; raises OnnxRunError.

    level_codes: the compiled code of each level, which runs the first `count` pictures.
    """
    expected = interpreter.run(variant.graph, pictures)
    first = litert_rung if variant.onnx.suffix == ".tflite" else file_rung
    rungs = [first(variant, pictures, expected), make_rung(variant.name, GOLDEN, expected, variant.logits)]
    for code in level_codes:
        logits = expected[:0]
        if code.runner is not None:
            logits = run_compiled(code.lowered, code.runner, pictures[:count])
        rungs.append(make_rung(variant.name, code.name, logits, expected[: len(logits)]))
    return rungs


def file_rung(variant: BuildVariant, pictures: np.ndarray, expected: np.ndarray) -> Rung:
    """Returns the rung of the ONNX file over pictures uint8 [N, H, W, C], whose logits are int32 [N, classes].

    A file of training runs at level BASIC and is compared by layer where a logit differs. Raises OnnxRunError.
    """
    model, source = read_model(variant), PictureInput(variant.normalization, channels_last=variant.exact)
    try:
        if variant.exact:
            logits = run_file(model, variant.graph, pictures, source, LEVELS.ORT_ENABLE_BASIC)
            if np.array_equal(logits, expected):
                return make_rung(variant.name, ONNXRUNTIME, logits, expected)
            layers = compare_layers(model, variant.graph, pictures, source).layers
            return make_rung(variant.name, ONNXRUNTIME, logits, expected, layers=layers)
        sides = compare_layers(model, variant.graph, pictures, source)
    except OnnxRunError as error:
        raise OnnxRunError(f"{variant.onnx}: {error}") from error
    needed = math.ceil(FOREIGN_AGREEMENT * len(expected))
    return make_rung(variant.name, ONNXRUNTIME, sides.runtime, expected, needed, sides.layers)


def file_logits(variant: BuildVariant, pictures: np.ndarray) -> np.ndarray:
    """Returns int64 [N, classes]: what the file's own runtime, optimizations off, answers to uint8 [N, H, W, C].

    Raises OnnxRunError, or PeerError where LiteRT cannot run a TFLite file.
    """
    if variant.onnx.suffix == ".tflite":
        return run_litert(variant.onnx, pictures, variant.normalization)
    source = PictureInput(variant.normalization, channels_last=variant.exact)
    return run_file(read_model(variant), variant.graph, pictures, source)


def read_model(variant: BuildVariant) -> onnx.ModelProto:
    """Returns a variant's model as onnxruntime runs it; raises OnnxRunError where it cannot be read any more."""
    if variant.opened is not None:
        return variant.opened.form.file
    path = variant.onnx
    try:
        return onnx.load(path)
    except (OSError, DecodeError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        raise OnnxRunError(f"{path}: expected the ONNX file that was imported, cannot read it ({error})") from error


def litert_rung(variant: BuildVariant, pictures: np.ndarray, expected: np.ndarray) -> Rung:
    """Returns the rung of a TFLite file over pictures uint8 [N, H, W, C], whose logits are int32 [N, classes].

    It did not run, and says why, where LiteRT is not there or does not take the file.
    """
    try:
        logits = run_litert(variant.onnx, pictures, variant.normalization)
    except PeerError as error:
        return Rung(variant.name, LITERT, len(expected), 0, 0, 0, needed=0, missing=str(error))
    return make_rung(variant.name, LITERT, logits, expected, math.ceil(FOREIGN_AGREEMENT * len(expected)))


def make_rung(
    variant: str,
    answers: str,
    logits: np.ndarray,
    expected: np.ndarray,
    needed: int | None = None,
    layers: tuple[LayerDifference, ...] = (),
) -> Rung:
    """Returns the rung that compares logits [N, classes] with those of the reference, `expected`.

    needed: pictures that must have the same class, None where all must be equal. Raises VerificationError where there
    are not as many logits on both sides.
    """
    if logits.shape != expected.shape:
        raise VerificationError(
            f"{variant}: {answers}: expected logits {list(expected.shape)}, got {list(logits.shape)}; the file's "
            "output is not what was imported"
        )
    apart = np.abs(logits.astype(np.int64) - expected)
    same_class = int((logits.argmax(1) == expected.argmax(1)).sum())
    largest = int(apart.max(initial=0))
    span = int(expected.max() - expected.min()) if expected.size else 0
    differing = int(np.count_nonzero(apart))
    return Rung(variant, answers, len(expected), expected.size, differing, same_class, needed, largest, span, layers)
