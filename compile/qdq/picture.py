"""The picture that a file takes: uint8, or float with a normalization that the file itself does not tell."""

from dataclasses import replace

import numpy as np
import onnx

from compile.qdq.emit_conv import UNIT, Output
from compile.qdq.normalization import Normalization
from compile.qdq.patterns import picture_layout
from compile.qdq.reader import Reader
from compile.qdq.values import Codes, MapShape, PendingPicture, refusal, require
from targets.reference.interpreter import requantize
from targets.reference.nodes import Conv, Requant, Tensor
from targets.reference.scales import conv_requant, float32

BIAS_REACH = 4  # units up and down that a bias may move so as to meet more of the float quantizer's codes


def open_picture(reader: Reader) -> str:
    """Gives the reader the value of the model's one input, and returns its name; raises OnnxError."""
    inputs = [i for i in reader.model.graph.input if i.name not in reader.values]
    require(len(inputs) == 1, "model", "one input, the picture", [i.name for i in inputs])
    name = inputs[0].name
    where = f"input tensor {name!r}"
    kind = inputs[0].type.tensor_type
    shape = _shape(reader, name, kind, where)
    layout = picture_layout(reader, name)
    if kind.elem_type == onnx.TensorProto.UINT8:
        expected = "no normalization, since its picture is uint8"
        require(reader.normalization is None, where, expected, "one", "leave --mean and --std out")
        reader.tensors[name] = Tensor(name, shape)
        reader.values[name] = Codes(name, 0, layout)
        reader.unscaled_picture = name
        return name
    require(kind.elem_type == onnx.TensorProto.FLOAT, where, "uint8 or float32", kind.elem_type)
    require(
        reader.normalization is not None,
        where,
        "uint8, or the normalization of a float picture",
        "float32 alone",
        "give --mean and --std (normalization=Normalization(mean, std)) of x = (u8 / 255 - mean) / std: 0 and 1 for x "
        "in 0..1",
    )
    reader.values[name] = PendingPicture(name=name, shape=shape, layout=layout)
    return name


def _shape(reader: Reader, name: str, kind: onnx.TypeProto.Tensor, where: str) -> MapShape:
    """[H, W, C] of the picture."""
    dims = [d.dim_value for d in kind.shape.dim]
    require(
        len(dims) == 4 and min(dims[1:]) >= 1,
        where,
        "[N, H, W, C] or [N, C, H, W] with H, W and C given",
        dims,
        "fix its dimensions (onnxruntime.tools.make_dynamic_shape_fixed)",
    )
    if picture_layout(reader, name) == "NHWC":
        return dims[1], dims[2], dims[3]
    require(dims[1] in (1, 3, 4), where, "1, 3 or 4 channels, or a Transpose after it", dims)
    return dims[2], dims[3], dims[1]


def quantize_picture(reader: Reader, picture: PendingPicture, output: Output) -> str:
    """Returns the name of the tensor of a float picture's codes, which are a function of its uint8 values.

    Raises OnnxError for a second QuantizeLinear on the picture, and for another number of channels.
    """
    where, channels = output.where, picture.shape[2]
    require(picture.name not in reader.tensors, where, "one QuantizeLinear on the picture", "a second one")
    normalization = reader.normalization
    if normalization is None:
        raise refusal(where, "the normalization of a float picture", "none")
    counts = [len(normalization.mean), len(normalization.std)]
    expected = f"a mean and std for each of {channels} channels"
    require(all(n in (1, channels) for n in counts), where, expected, f"{counts[0]} and {counts[1]} of them")
    codes = _float_codes(normalization, output)
    if (codes == np.arange(256)).all():
        reader.tensors[picture.name] = replace(output.tensor, name=picture.name)
        return picture.name
    source = Tensor(picture.name, output.tensor.shape, 8, float32(1 / 255))
    reader.tensors[picture.name] = source
    reader.append([(_normalizing_conv(source, codes, normalization, output), output.tensor)])
    return output.tensor.name


def _float_codes(normalization: Normalization, output: Output) -> np.ndarray:
    """float64 [C, 256]: the code that the float quantizer gives for each uint8 value."""
    mean, std = _per_channel(normalization, output)
    real = ((np.arange(256) / 255 - mean[:, None]) / std[:, None]).astype(np.float32)
    codes = np.rint(real / np.float32(output.tensor.scale)) + output.tensor.zero_point[0]
    return np.clip(codes, output.low, output.high)


def _per_channel(normalization: Normalization, output: Output) -> tuple[np.ndarray, np.ndarray]:
    """(mean, std), float64 [C]."""
    channels = (output.tensor.shape[2],)
    mean = np.broadcast_to(np.asarray(normalization.mean, np.float64), channels)
    std = np.broadcast_to(np.asarray(normalization.std, np.float64), channels)
    return mean, std


def _normalizing_conv(source: Tensor, codes: np.ndarray, normalization: Normalization, output: Output) -> Conv:
    """A 1x1 depthwise convolution from uint8 values to codes [C, 256]; may differ by one where a value is on a tie."""
    out = output.tensor
    mean, std = _per_channel(normalization, output)
    channels = len(mean)
    w_scale = (1 / (UNIT * std)).astype(np.float32)
    requant = conv_requant(source.scale, w_scale, out.scale)
    exact = -mean / std * np.exp2(requant.left) / (source.scale * w_scale.astype(np.float64))
    return Conv(
        name=f"{source.name}/normalize",
        input=source.name,
        output=out.name,
        weight=np.full((channels, 1, 1, 1), UNIT, np.int8),
        w_bits=8,
        bias=_best_bias(np.rint(exact).astype(np.int64), requant, codes, output),
        w_scale=w_scale,
        requant=requant,
        groups=channels,
        qmin=output.low,
        qmax=output.high,
    )


def _best_bias(exact: np.ndarray, requant: Requant, codes: np.ndarray, output: Output) -> np.ndarray:
    """int64 [C]: of the biases next to the exact one [C], that which meets most codes [C, 256]."""
    biases = exact + np.arange(-BIAS_REACH, BIAS_REACH + 1)[:, None]  # [9, C]
    sums = ((np.arange(256)[:, None, None] * UNIT) << requant.left) + biases  # [256, 9, C]
    got = requantize(sums, requant, output.tensor.zero_point[0], output.low, output.high)
    apart = np.abs(got - codes.T[:, None])
    best = (apart.sum(0).argmin(0), np.arange(biases.shape[1]))
    worst = apart.max(0)[best].max()
    expected = "a picture's codes within one of the float quantizer's"
    require(worst <= 1, output.where, expected, f"{worst} apart", "quantize the picture coarser")
    return biases[best]
