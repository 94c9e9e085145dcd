"""Operators of foreign files that move values, and pools: equal to onnxruntime without its optimizations."""

import numpy as np
import onnx
import pytest

from compile.qdq.importer import OnnxError
from targets.reference.nodes import Concat, Gather, MaxPool, Shortcut
from tests.support.foreign_operators import SIZE, assert_near, exact, ints, kinds, network

MOVES = {
    "slice": lambda n, x: n.op("Slice", x, ints(n, 1, 2), ints(n, 7, 1 << 40), ints(n, 1, -1), ints(n, 2, 1)),
    "slice backwards": lambda n, x: n.op("Slice", x, ints(n, -1), ints(n, -(1 << 62)), ints(n, 3), ints(n, -2)),
    "gather": lambda n, x: n.op("Gather", x, ints(n, 3, 3, 0, -1), axis=1),
    "pad": lambda n, x: n.op("Pad", x, ints(n, 0, 1, 2, 0, 0, 0, 1, 3)),
    "pad of some axes": lambda n, x: n.op("Pad", x, ints(n, 1, 2), n.const(0.0), ints(n, -1)),
    "crop": lambda n, x: n.op("Pad", x, ints(n, 0, 0, -1, -2, 0, 0, 0, 1)),
    "reflect": lambda n, x: n.op("Pad", x, ints(n, 0, 0, 2, 1, 0, 0, 1, 2), mode="reflect"),
    "edge": lambda n, x: n.op("Pad", x, ints(n, 0, 0, 2, 1, 0, 0, 1, 2), mode="edge"),
    "nearest": lambda n, x: n.op("Resize", x, "", n.const([1, 1, 2, 3.0]), mode="nearest"),
    "nearest to sizes": lambda n, x: n.op(
        "Resize", x, "", "", ints(n, 1, 8, 5, 4), mode="nearest", nearest_mode="floor"
    ),
    "nearest, corners": lambda n, x: n.op(
        "Resize", x, "", "", ints(n, 1, 8, 5, 13), coordinate_transformation_mode="align_corners", nearest_mode="ceil"
    ),
    "nearest, asymmetric": lambda n, x: n.op(
        "Resize", x, "", n.const([1, 1, 1.5, 2.5]), coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    ),
}


@pytest.mark.parametrize("form", MOVES)
def test_moves_are_exact(form):
    assert kinds(exact(MOVES[form])) == [Gather]


def test_a_shuffle_of_channels():
    def build(net, x):
        c, h, w = SIZE
        groups = net.op("Reshape", x, ints(net, 0, 2, c // 2, h, w))
        return net.op("Reshape", net.op("Transpose", groups, perm=[0, 2, 1, 3, 4]), ints(net, 0, c, h, -1))

    (node,) = exact(build).nodes[1:]
    assert isinstance(node, Gather) and node.channels == (0, 4, 1, 5, 2, 6, 3, 7)


def test_split_and_shuffle_as_shufflenet_has_it():
    def build(net, x):
        net.nodes.append(onnx.helper.make_node("Split", [x], ["left", "right"], name="halves", axis=1, num_outputs=2))
        right = net.qdq(net.op("Relu", "right"), 1 / 64, 128)
        return net.op("Concat", "left", right, axis=1)

    graph = exact(build)
    assert [type(n) for n in graph.nodes[1:]][-1] is Concat


def test_values_that_move_one_by_one_are_refused():
    doubled = lambda n, x: n.op("DepthToSpace", x, blocksize=2)  # noqa: E731
    halved = lambda n, x: n.op("SpaceToDepth", n.op("Pad", x, ints(n, 0, 0, 0, 0, 0, 0, 1, 1)), blocksize=2)  # noqa: E731
    for build, channels in ((doubled, 2), (halved, 32)):

        def before_a_layer(net, x, build=build, channels=channels):
            return net.op("Conv", net.qdq(build(net, x), 1 / 64, 128), net.weight(np.ones((1, channels, 1, 1)), 0.1))

        with pytest.raises(OnnxError, match="rows, columns and channels that move as wholes"):
            exact(before_a_layer)


def test_every_second_pixel_among_empty_channels_stays_a_shortcut():
    def build(net, x):
        x = net.op("Slice", x, ints(net, 0, 0), ints(net, 7, 9), ints(net, 2, 3), ints(net, 2, 2))
        return net.op("Pad", x, ints(net, 0, 4, 0, 0, 0, 4, 0, 0))

    assert kinds(exact(build)) == [Shortcut]


POOLS = {
    "pads": {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    "pads counted": {"kernel_shape": [3, 3], "pads": [1, 0, 1, 2], "count_include_pad": 1},
    "same": {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "strides": {"kernel_shape": [2, 3], "strides": [2, 1]},
    "ceiling": {"kernel_shape": [3, 3], "strides": [2, 3], "ceil_mode": 1},
    "ceiling and pads": {"kernel_shape": [3, 3], "strides": [3, 2], "pads": [1, 1, 0, 1], "ceil_mode": 1},
}


@pytest.mark.parametrize("form", POOLS)
def test_average_pools(form):
    assert_near(network(lambda net, x: net.op("AveragePool", x, **POOLS[form]), 1 / 70, 120), 0.03)


@pytest.mark.parametrize("form", [k for k in POOLS if k != "pads counted"])
def test_max_pools_with_dilation_and_without(form):
    assert kinds(exact(lambda net, x: net.op("MaxPool", x, **POOLS[form])))[-1] is MaxPool
    if form != "same":  # onnxruntime takes no notice of dilations there
        exact(lambda net, x: net.op("MaxPool", x, **{**POOLS[form], "dilations": [2, 1]}))


def test_pools_of_the_whole_map():
    exact(lambda net, x: net.op("GlobalMaxPool", x))
    exact(lambda net, x: net.op("ReduceMax", x, ints(net, 2, 3)))
    assert_near(network(lambda net, x: net.op("ReduceMean", x, ints(net, -1, -2)), 1 / 200), 0.03)
