"""An ONNX file as onnxruntime runs it: its logits, and the codes between its layers.

Files of other tools run with optimizations off. At level BASIC onnxruntime quantizes float biases and weights and joins
pairs of quantizers, so that it would compute another network than the one in the file.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime

from compile.qdq.normalization import Normalization

LEVELS = onnxruntime.GraphOptimizationLevel
# how onnxruntime names the type of a picture -> what numpy calls it
PICTURE_TYPES = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
}


class OnnxRunError(ValueError):
    """The ladder cannot run a file by onnxruntime; the message has one line, with its words and what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


@dataclass(frozen=True, eq=False)
class PictureInput:
    """How pictures uint8 [N, H, W, C] become a file's input.

    normalization: of a float picture; channels_last: the order where the file's dimensions fit both.
    """

    normalization: Normalization | None = None
    channels_last: bool = True

    def array(self, pictures: np.ndarray, entry: Any) -> np.ndarray:
        """Returns pictures uint8 [N, H, W, C] in the type and order of `entry`, an input as onnxruntime tells it.

        Raises OnnxRunError for a type or shape that no picture has.
        """
        if entry.type not in PICTURE_TYPES:
            raise OnnxRunError(f"input {entry.name!r}: expected a uint8 or float picture, got {entry.type}")
        kind = PICTURE_TYPES[entry.type]
        values = pictures
        if self.normalization is not None:
            values = self.normalization.floats(pictures).transpose(0, 2, 3, 1)
        elif kind == np.int8:
            values = pictures.astype(np.int16) - 128
        order = (0, 1, 2, 3) if self._is_channels_last(pictures.shape[1:], entry) else (0, 3, 1, 2)
        return np.ascontiguousarray(values.transpose(order).astype(kind))

    def _is_channels_last(self, shape: tuple[int, ...], entry: Any) -> bool:
        """Whether the file takes [N, H, W, C]; dimensions without a number fit anything."""
        dims = list(entry.shape[1:])
        last = _fits(dims, list(shape))
        first = _fits(dims, [shape[2], *shape[:2]])
        if not last and not first:
            raise OnnxRunError(f"input {entry.name!r}: expected a picture {list(shape)}, got dimensions {entry.shape}")
        return self.channels_last if last and first else last


def _fits(dims: list[Any], sizes: list[int]) -> bool:
    return len(dims) == len(sizes) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(dims, sizes, strict=True)
    )


class OnnxFile:
    """A session of one thread; `tensors` are the names of inner values that it gives beside the model's output.

    level: onnxruntime's level of optimization. Raises OnnxRunError where onnxruntime does not take the model.
    """

    def __init__(self, model: onnx.ModelProto, level: Any = LEVELS.ORT_DISABLE_ALL, tensors: Iterable[str] = ()):
        computed = {name for node in model.graph.node for name in node.output if name}
        outputs = [value.name for value in model.graph.output]
        self.tensors = [name for name in tensors if name in computed and name not in outputs]
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.tensors)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong is said by the exception
        with onnxruntime_reported("load the file"):
            data = watched.SerializeToString()
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._output = outputs[0]

    def run(self, pictures: np.ndarray, source: PictureInput) -> Iterator[dict[str, np.ndarray]]:
        """Yields for each picture of uint8 [N, H, W, C] the output and `tensors` by name, each [1, ...].

        A file with a batch of its own gets the picture as often as it takes. Raises OnnxRunError.
        """
        entries = self._session.get_inputs()
        if len(entries) != 1:
            raise OnnxRunError(f"expected one input, the picture, got {[entry.name for entry in entries]}")
        entry = entries[0]
        batch = entry.shape[0] if entry.shape and isinstance(entry.shape[0], int) else 1
        names = [self._output, *self.tensors]
        for row in source.array(pictures, entry):
            with onnxruntime_reported("run the file"):
                arrays = self._session.run(names, {entry.name: np.repeat(row[None], max(1, batch), 0)})
            yield {name: _first(array, batch) for name, array in zip(names, arrays, strict=True)}


def _first(array: np.ndarray, batch: int) -> np.ndarray:
    """What belongs to the first picture of a batch [batch * n, ...]: [n, ...]."""
    return array if batch <= 1 or array.ndim == 0 else array[: max(1, len(array) // batch)]


@contextmanager
def onnxruntime_reported(aim: str) -> Iterator[None]:
    """Whatever onnxruntime raises, which has no class in common but Exception, becomes an OnnxRunError."""
    try:
        yield
    except OnnxRunError:
        raise
    except Exception as error:
        raise OnnxRunError(
            f"expected onnxruntime {onnxruntime.__version__} to {aim}, which the integers are checked against; it "
            f"said: {str(error)[:600]}; {_advice(str(error))}"
        ) from error


def _advice(words: str) -> str:
    """What to do about the commonest refusals."""
    known = {
        "IR version": "save the file for an older IR: model.ir_version = 10; onnx.save(model, path)",
        "opset": "convert it to an older opset: onnx.version_converter.convert_version(model, 21)",
        "same node name": "give every node a name of its own",
        "duplicate": "give every node and value a name of its own",
        "Got invalid dimensions": "export it with a batch of 1 or of any size",
    }
    usual = "make the file run in onnxruntime first (onnx.checker.check_model(model, full_check=True) helps)"
    return next((advice for part, advice in known.items() if part in words), usual)
