"""The picture that a file takes: which of its codes, or floats, a uint8 value of a channel becomes."""

from dataclasses import dataclass

import numpy as np

from compile.qdq.normalization import Normalization
from compile.tflite.errors import refusal, require
from compile.tflite.functions import reals_of
from compile.tflite.reader import MapShape, map_shape
from compile.tflite.records import FileModel, FileOperator, FileTensor, Normalized

# Ranges of reals that int8 pictures have where each code is a uint8 value less 128.
PICTURE_RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
NORMALIZATION_ADVICE = (
    "give --mean and --std (normalization=Normalization(mean, std)) of x = (u8 / 255 - mean) / std: 0 and 1 for x in "
    "0..1"
)


@dataclass(frozen=True, eq=False)
class Picture:
    """The file's input, and the quantized tensor that it is or becomes.

    quantizer: the QUANTIZE between the two, of a float picture. table: uint8 [1 or C, 256], the code in 0..255 for each
    uint8 value of a channel. reals: float32 [1 or C, 256], the values of a float picture, None for codes.
    """

    input: FileTensor
    codes: FileTensor
    quantizer: FileOperator | None
    table: np.ndarray
    reals: np.ndarray | None

    @property
    def shape(self) -> MapShape:
        """Height, width and channels."""
        return map_shape(self.input.shape, self.input.where)

    def file_input(self, pictures: np.ndarray) -> np.ndarray:
        """Returns pictures uint8 [N, H, W, C] as the file's own runtime takes them: codes or floats [N, H, W, C]."""
        table = self.table.astype(np.int64) - self.codes.offset if self.reals is None else self.reals
        kind = np.float32 if self.reals is not None else (np.int8 if self.codes.kind == "INT8" else np.uint8)
        channels = pictures.shape[-1]
        return np.broadcast_to(table, (channels, 256))[np.arange(channels), pictures].astype(kind)


def open_picture(file: FileModel, normalization: Normalization | None) -> Picture:
    """Returns what is known of a file's picture; raises TfliteError where neither file nor user say what it is."""
    tensor = file.tensors[file.input]
    require(len(tensor.shape) == 4, tensor.where, "a picture [1, H, W, C]", list(tensor.shape))
    channels = map_shape(tensor.shape, tensor.where)[2]
    require(channels in (1, 3, 4), tensor.where, "a picture of 1, 3 or 4 channels", list(tensor.shape))
    reals = _reals(normalization or file.normalized, channels, tensor.where)
    if tensor.kind == "FLOAT32":
        quantizer = _quantizer(file, tensor)
        codes = file.tensors[quantizer.outputs[0]]
        codes.require_map(quantizer.where)
        require(codes.shape == tensor.shape, quantizer.where, f"a result {list(tensor.shape)}", list(codes.shape))
        if reals is None:
            raise refusal(tensor.where, "the normalization of a float picture", "float32 alone", NORMALIZATION_ADVICE)
        return Picture(tensor, codes, quantizer, _table(reals, codes), reals)
    tensor.require_map("picture")
    if normalization is None and (tensor.kind == "UINT8" or (reals is None and _is_picture(tensor))):
        return Picture(tensor, tensor, None, np.arange(256, dtype=np.uint8)[None], None)
    if reals is None:
        low, high = reals_of(tensor)[[0, 255]]
        actual = f"int8 codes of {low:.4g} .. {high:.4g}"
        raise refusal(tensor.where, "int8 codes of 0..1, -1..1 or 0..255", actual, NORMALIZATION_ADVICE)
    return Picture(tensor, tensor, None, _table(reals, tensor), None)


def _quantizer(file: FileModel, tensor: FileTensor) -> FileOperator:
    readers = [o for o in file.operators if tensor.index in o.inputs]
    fits = len(readers) == 1 and readers[0].kind == "QUANTIZE"
    advice = "float networks are not taken; convert the model to full integers"
    require(fits, tensor.where, "one QUANTIZE that takes the float picture", [o.kind for o in readers], advice)
    return readers[0]


def _is_picture(tensor: FileTensor) -> bool:
    """Whether the real values of the 256 codes span a usual range of pictures, to a step and a half."""
    reals, near = reals_of(tensor), 1.5 * float(tensor.scale[0])
    return any(abs(reals[0] - low) <= near and abs(reals[-1] - high) <= near for low, high in PICTURE_RANGES)


def _reals(normalization: Normalization | Normalized | None, channels: int, where: str) -> np.ndarray | None:
    """float32 [1 or C, 256]; None where nothing says what the values are."""
    if normalization is None:
        return None
    counts = [len(normalization.mean), len(normalization.std)]
    expected = f"a mean and std for each of {channels} channels"
    require(all(n in (1, channels) for n in counts), where, expected, f"{counts[0]} and {counts[1]} of them")
    mean, std = (np.array(v, np.float64)[:, None] for v in (normalization.mean, normalization.std))
    values = np.arange(256) / (255 if isinstance(normalization, Normalization) else 1)
    return ((values - mean) / std).astype(np.float32)


def _table(reals: np.ndarray, tensor: FileTensor) -> np.ndarray:
    """uint8 [1 or C, 256]: what TFLite's quantizer makes of float32 reals, in float32."""
    steps = reals / tensor.scale[0]
    rounded = np.copysign(np.floor(np.abs(steps) + np.float32(0.5)), steps).astype(np.float64)
    return np.clip(rounded + int(tensor.zero_point[0]) + tensor.offset, 0, 255).astype(np.uint8)
