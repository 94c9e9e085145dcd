"""Operators that only move values: what they move is exact, wherever their result goes."""

import numpy as np
import pytest

pytest.importorskip("tflite", reason="no schema: pip install tflite==2.18.0 flatbuffers")

from compile.tflite.errors import TfliteError
from targets.reference.nodes import AvgPool, Concat, Conv, Gather
from tests.support.tflite_cases import S8, SHAPE, Case, picture, quantized
from tests.support.tflite_reference import Quant
from tests.support.tflite_writer import Network

WINDOW = dict(FilterHeight=1, FilterWidth=1, StrideH=1, StrideW=1)


def moved(kind, inputs, shape, expected, **options) -> Case:
    """The moved map behind a max pool of one pixel, which needs it in its new order."""
    net, x, quant = picture()
    result = quantized(net, shape, quant)
    constants = [net.constant(values) for values in inputs]
    net.operator(kind, [x, *constants], result, **options)
    return behind_pool(net, result, quant, expected)


def behind_pool(net: Network, result: int, quant: Quant, expected) -> Case:
    shape = net.tensors[result].shape
    pooled = net.operator("MAX_POOL_2D", [result], quantized(net, shape, quant), **WINDOW)
    net.classifier(pooled)
    return Case(net, pooled, expected, steps=0, share=1)


def padded(codes):
    return np.pad(codes, ((1, 2), (0, 1), (0, 0)), constant_values=S8.zero)


def nearest(size, corners=False, half=False):
    def resize(codes):
        index = []
        for length, target in zip(codes.shape[:2], size, strict=True):
            scale = (length - 1) / (target - 1) if corners else length / target
            at = (np.arange(target) + 0.5 * half) * scale
            index.append(np.minimum(np.floor(at + 0.5 * corners).astype(int), length - 1))
        return codes[index[0]][:, index[1]]

    return resize


CASES = {
    "pad": lambda: moved("PAD", [[[0, 0], [1, 2], [0, 1], [0, 0]]], (1, 10, 7, 3), padded),
    "mirror": lambda: moved(
        "MIRROR_PAD",
        [[[0, 0], [1, 2], [2, 1], [0, 0]]],
        (1, 10, 9, 3),
        lambda x: np.pad(x, ((1, 2), (2, 1), (0, 0)), "reflect"),
        Mode=0,
    ),
    "slice": lambda: moved("SLICE", [[0, 1, 2, 0], [1, 4, -1, 2]], (1, 4, 4, 2), lambda x: x[1:5, 2:, :2]),
    "strided slice": lambda: moved(
        "STRIDED_SLICE",
        [[0, 5, 0, 1], [9, 0, -1, 3], [1, -2, 2, 1]],
        (1, 3, 3, 2),
        lambda x: x[5:0:-2, 0:-1:2, 1:3],
        BeginMask=1,
        EndMask=9,
    ),
    "transpose": lambda: moved("TRANSPOSE", [[0, 1, 2, 3]], (1, *SHAPE), lambda x: x),
    "gather": lambda: moved("GATHER", [[2, 0, 0, 1]], (1, 7, 6, 4), lambda x: x[:, :, [2, 0, 0, 1]], Axis=-1),
    "resize": lambda: moved("RESIZE_NEAREST_NEIGHBOR", [[14, 9]], (1, 14, 9, 3), nearest((14, 9))),
    "resize corners": lambda: moved(
        "RESIZE_NEAREST_NEIGHBOR", [[5, 11]], (1, 5, 11, 3), nearest((5, 11), corners=True), AlignCorners=True
    ),
    "resize centres": lambda: moved(
        "RESIZE_NEAREST_NEIGHBOR", [[4, 12]], (1, 4, 12, 3), nearest((4, 12), half=True), HalfPixelCenters=True
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_move_is_exact(name):
    CASES[name]().check()


def test_a_pad_before_a_valid_convolution_becomes_its_padding():
    net, x, quant = picture()
    wide = quantized(net, (1, 10, 7, 3), quant)
    net.operator("PAD", [x, net.constant([[0, 0], [1, 2], [0, 1], [0, 0]])], wide)
    weights = net.constant(np.random.default_rng(0).integers(-9, 9, (2, 3, 3, 3)), "INT8", 0.1)
    out = quantized(net, (1, 8, 5, 2), Quant(0.1, 0))
    net.classifier(net.operator("CONV_2D", [wide, weights], out, Padding=1, StrideH=1, StrideW=1))
    graph = Case(net, out, padded).graph()
    assert [type(node) for node in graph.nodes] == [Conv, Conv]
    assert graph.nodes[0].padding == (1, 0, 2, 1)


def test_parts_of_a_map_that_are_joined_in_another_order_are_one_gather():
    net, x, quant = picture()
    parts = [quantized(net, (1, 7, 6, 1), quant) for _ in range(3)]
    net.operator("SPLIT", [net.constant(np.array(3)), x], parts, NumSplits=3)
    turned = quantized(net, (1, *SHAPE), quant)
    net.operator("CONCATENATION", parts[::-1], turned, Axis=3)
    case = behind_pool(net, turned, quant, lambda codes: codes[:, :, ::-1])
    case.check()
    assert [n.channels for n in case.graph().nodes if isinstance(n, Gather)] == [(2, 1, 0)]


def test_split_v_takes_what_is_left():
    net, x, quant = picture()
    parts = [quantized(net, (1, 2, 6, 3), quant), quantized(net, (1, 5, 6, 3), quant)]
    net.operator("SPLIT_V", [x, net.constant([2, -1]), net.constant(np.array(1))], parts)
    behind_pool(net, parts[1], quant, lambda codes: codes[2:]).check()


def test_maps_are_joined_along_their_channels_in_one_scale():
    net, x, quant = picture()
    pooled = quantized(net, (1, *SHAPE), quant)
    net.operator("MAX_POOL_2D", [x], pooled, **{**WINDOW, "FilterHeight": 2})
    result = quantized(net, (1, 7, 6, 6), quant)
    net.operator("CONCATENATION", [x, pooled], result, Axis=-1)
    net.classifier(result)

    def expected(codes):
        below = np.concatenate([codes[1:], codes[-1:]])
        return np.concatenate([codes, np.maximum(codes, below)], 2)

    case = Case(net, result, expected, steps=0, share=1)
    case.check()
    assert isinstance(next(n for n in case.graph().nodes if n.output == f"tensor_{result}"), Concat)


def test_shapes_that_are_computed_from_constants_are_folded():
    net, x, quant = picture()
    shape = net.operator("SHAPE", [x], net.tensor((4,), "INT32"))
    batch = net.tensor((), "INT32")
    masks = dict(ShrinkAxisMask=1)
    net.operator("STRIDED_SLICE", [shape, *(net.constant([v]) for v in (0, 1, 1))], batch, **masks)
    packed = net.operator("PACK", [batch, net.constant(np.array(126))], net.tensor((2,), "INT32"), ValuesCount=2)
    flat = net.operator("RESHAPE", [x, packed], quantized(net, (1, 126), quant))
    net.classifier(flat)
    assert [type(node) for node in Case(net, flat, padded).graph().nodes] == [Conv]


def test_a_mean_over_width_of_one_row_is_a_pool():
    net, x, quant = picture()
    row = quantized(net, (1, 1, 6, 3), quant)
    net.operator("SLICE", [x, net.constant([0, 2, 0, 0]), net.constant([1, 1, 6, 3])], row)
    mean = net.operator("MEAN", [row, net.constant([2])], quantized(net, (1, 1, 3), quant))
    net.classifier(mean)
    case = Case(net, mean, lambda codes: codes[2:3].mean(1, keepdims=True).round(), share=0.5)
    case.check()
    assert any(isinstance(node, AvgPool) for node in case.graph().nodes)


def test_values_that_changed_places_across_dimensions_are_refused():
    net, x, quant = picture()
    turned = net.operator("TRANSPOSE", [x, net.constant([0, 3, 1, 2])], quantized(net, (1, 3, 7, 6), quant))
    with pytest.raises(TfliteError, match="rows, columns and channels that keep together"):
        behind_pool(net, turned, quant, padded).graph()


@pytest.mark.parametrize(
    ("kind", "inputs", "shape", "message"),
    [
        ("PAD", [[[0, 0], [1, 2]]], (1, 10, 6, 3), "two pads for each dimension"),
        ("PAD", [[[0, 0], [-1, 2], [0, 0], [0, 0]]], (1, 8, 6, 3), "pads that fit"),
        ("SLICE", [[0, 1, 2, 0], [1, 7, 1, 1]], (1, 7, 1, 1), "a part of"),
        ("STRIDED_SLICE", [[0], [1], [0]], (1, *SHAPE), "begins, ends and strides"),
        ("TRANSPOSE", [[0, 1, 1, 3]], (1, *SHAPE), "a permutation"),
        ("GATHER", [[0, 7]], (1, 2, 6, 3), "places in 0..0"),
        ("RESHAPE", [[1, 125]], (1, 126), "a result"),
        ("RESIZE_NEAREST_NEIGHBOR", [[3, 3]], (1, 3, 4, 3), "a result of size"),
    ],
)
def test_a_move_that_does_not_fit_is_refused_by_name(kind, inputs, shape, message):
    with pytest.raises(TfliteError, match=rf"operator 0 \({kind}\): expected .*{message}"):
        moved(kind, inputs, shape, padded).graph()
