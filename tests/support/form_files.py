"""What tests of compile/forms share: static quantization, and a form held against the file that it was made of."""

from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from compile.forms.normal_form import NormalForm, normal_form
from compile.qdq.importer import from_model
from compile.qdq.normalization import Normalization
from targets.reference import interpreter
from tests.support.onnx_ladder import LEVELS, session

ZERO_TO_ONE = Normalization((0.0,), (1.0,))


class Rows(CalibrationDataReader):
    """Pictures float32 [N, ...] one by one, as the quantizer's calibration reads them."""

    def __init__(self, x: np.ndarray):
        self.rows = iter([{"x": x[i : i + 1]} for i in range(len(x))])

    def get_next(self):
        return next(self.rows, None)


def quantized(folder: Path, model: onnx.ModelProto, x: np.ndarray, quant_format=QuantFormat.QDQ, **options):
    """Returns a float model quantized by onnxruntime over pictures float32 [N, ...]."""
    onnx.save(model, folder / "float.onnx")
    quantize_static(
        str(folder / "float.onnx"), str(folder / "quantized.onnx"), Rows(x), quant_format=quant_format, **options
    )
    return onnx.load(folder / "quantized.onnx")


def random_pictures(shape, count: int = 24, seed: int = 0) -> np.ndarray:
    """uint8 [count, H, W, C], of different brightness."""
    rng = np.random.default_rng(seed)
    low, high = rng.integers(0, 100, (count, 1, 1, 1)), rng.integers(140, 257, (count, 1, 1, 1))
    return rng.integers(low, high, (count, *shape)).astype(np.uint8)


def outputs(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Returns what onnxruntime with optimizations off computes of each row of x alone: float [N, everything]."""
    opened = session(model, LEVELS[0])
    entry = opened.get_inputs()[0]
    rows = [opened.run(None, {entry.name: x[i : i + 1]})[0] for i in range(len(x))]
    return np.stack(rows).reshape(len(x), -1)


def kinds(model: onnx.ModelProto) -> list[str]:
    """The operators of a model in order."""
    return [node.op_type for node in model.graph.node]


def checked_form(model: onnx.ModelProto, *options) -> NormalForm:
    """Returns the normal form, which onnx's full check accepts."""
    form = normal_form(model, *options)
    onnx.checker.check_model(form.qdq, full_check=True)
    return form


def steps_apart(form: NormalForm, u8: np.ndarray, x: np.ndarray, normalization=ZERO_TO_ONE) -> np.ndarray:
    """Returns by how many steps the integers differ from onnxruntime's logits of the file, int64 [N, classes].

    u8: pictures [N, H, W, C]; x: the same as the file takes them.
    """
    graph = from_model(form.qdq, normalization=normalization)
    logits = interpreter.run(graph, u8).astype(np.int64)
    return logits - np.rint(outputs(form.file, x) / graph.tensors[graph.output].scale).astype(np.int64)


def require_near(apart: np.ndarray, share: float = 0.02) -> None:
    """Float32 rounds sums next to a tie the other way: a step here and there, and no more."""
    assert np.abs(apart).max() <= 1 and (apart != 0).mean() <= share, (np.abs(apart).max(), (apart != 0).mean())
