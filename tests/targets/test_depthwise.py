"""Depthwise convolution and the portable kernels beside it, against the integer reference, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest

from compile.lowering.lower import lower, run_compiled
from targets import TargetError, find
from targets.arm import toolchain as arm
from targets.cpu.depthwise import INT16, arrange, fewest_groups, offsets
from targets.kernel import Layout, Step
from targets.library.module import assemble
from targets.reference import interpreter
from targets.reference.checks import output_shape
from targets.reference.graph import Graph
from targets.reference.nodes import AvgPool, Conv, MaxPool, Shortcut, Tensor
from targets.reference.scales import requant_from_ratio
from targets.x86.depthwise import byte_pairs, depthwise, nibbles, word_pairs
from tests.targets.x86.test_kernels_x86 import in_process, target  # noqa: F401

pytestmark = pytest.mark.slow

LIKE = ("normal", "low", "high", "alternating")

# channels, (height, width), kernel, stride, padding, w_bits, a_bits, weights like, rule on AVX2
CASES = (
    (2, (1, 1), 3, 1, (1, 1, 1, 1), 8, 8, "low", "nibbles"),
    (3, (1, 4), 3, 1, (1, 1, 1, 1), 8, 8, "normal", "nibbles"),
    (3, (2, 2), 5, 2, (2, 2, 2, 2), 2, 8, "alternating", "byte pairs, 1 groups"),
    (8, (9, 7), 3, 2, (1, 1, 1, 1), 7, 8, "high", "nibbles"),
    (8, (6, 6), 5, 1, (0, 2, 1, 2), 8, 8, "low", "word pairs"),
    (16, (7, 7), 3, 1, (1, 1, 1, 1), 8, 8, "alternating", "nibbles"),
    (16, (12, 5), 5, 1, (2, 2, 2, 2), 8, 8, "high", "word pairs"),
    (16, (8, 9), 3, 2, (0, 0, 1, 1), 5, 8, "high", "byte pairs, 1 groups"),
    (17, (5, 8), 3, 1, (0, 1, 1, 0), 8, 8, "normal", "nibbles"),
    (17, (7, 11), 5, 2, (2, 1, 0, 2), 4, 4, "low", "byte pairs, 1 groups"),
    (24, (11, 3), 3, 1, (1, 1, 1, 1), 6, 8, "high", "byte pairs, 2 groups"),
    (24, (5, 5), 5, 1, (2, 2, 2, 2), 5, 7, "normal", "byte pairs, 1 groups"),
    (24, (4, 13), 3, 2, (1, 1, 1, 1), 3, 2, "normal", "byte pairs, 1 groups"),
    (40, (6, 10), 3, 1, (1, 1, 1, 1), 8, 8, "low", "nibbles"),
    (40, (9, 9), 5, 1, (2, 2, 2, 2), 8, 7, "low", "nibbles"),
    (40, (3, 6), 3, 2, (0, 1, 1, 1), 8, 6, "high", "byte pairs, 2 groups"),
    (40, (9, 5), 5, 2, (2, 2, 2, 2), 8, 8, "alternating", "nibbles"),
    (144, (5, 7), 3, 1, (1, 1, 1, 1), 8, 8, "normal", "nibbles"),
    (144, (4, 4), 3, 2, (0, 0, 1, 1), 4, 8, "low", "byte pairs, 1 groups"),
    (144, (3, 5), 5, 1, (2, 2, 2, 2), 6, 5, "alternating", "byte pairs, 1 groups"),
    (64, (8, 8), 3, 1, (1, 1, 1, 1), 8, 3, "normal", "byte pairs, 1 groups"),
    (48, (6, 6), 7, 1, (3, 3, 3, 3), 8, 8, "normal", "word pairs"),
)


def weights(shape, bits: int, like: str) -> np.ndarray:
    half = 1 << (bits - 1)
    if like == "normal":
        values = np.random.default_rng(bits).normal(0, half / 2, shape)
        return np.clip(np.rint(values), -half, half - 1).astype(np.int8)
    return {
        "low": np.full(shape, -half),
        "high": np.full(shape, half - 1),
        "alternating": np.where(np.indices(shape).sum(0) % 2, -half, half - 1),
    }[like].astype(np.int8)


def graph_of(node, image: Tensor) -> Graph:
    channels = len(node.weight) if isinstance(node, Conv) else image.shape[2]
    shape = *output_shape(node, image.shape, channels)[:2], channels
    out = Tensor("out", shape, 32 if isinstance(node, Conv) else 8)
    return Graph("single", {"image": image, "out": out}, (node,), "image", "out")


def network(channels, size, kernel, stride, padding, w_bits, a_bits, like, logits=False) -> Graph:
    """One depthwise convolution, to its int32 sums or to codes that use their range."""
    weight = weights((channels, kernel, kernel, 1), w_bits, like)
    spread = np.abs(weight.astype(np.int64)).sum((1, 2, 3)).max() * ((1 << a_bits) - 1) / 2
    node = Conv(
        "dw",
        "image",
        "out",
        weight,
        w_bits,
        np.arange(channels) * 3 - channels,
        np.ones(channels, np.float32),
        None if logits else requant_from_ratio(np.full(channels, 200 / spread), 10),
        (stride, stride),
        padding,
        channels,
    )
    zero_point = (1 << a_bits) // 3
    image = Tensor("image", (*size, channels), a_bits, zero_point=(zero_point,))
    shape = output_shape(node, image.shape, channels)
    out = Tensor("out", shape, 32) if logits else Tensor("out", shape, 8, zero_point=(100,))
    return Graph("depthwise", {"image": image, "out": out}, (node,), "image", "out")


def codes(graph: Graph) -> np.ndarray:
    """Pictures: all 0, all at qmax, 0 and qmax in turn, random."""
    image = graph.tensors["image"]
    out = np.random.default_rng(0).integers(0, image.qmax + 1, (4, *image.shape)).astype(np.uint8)
    out[0], out[1], out[2] = 0, image.qmax, np.indices(image.shape).sum(0) % 2 * image.qmax
    return out


def assert_equal(graph: Graph, lowered, runner) -> None:
    x = codes(graph)
    np.testing.assert_array_equal(run_compiled(lowered, runner, x), interpreter.run(graph, x))


def rule_of(lowered) -> str:
    return next(c.kernel.rule for c in lowered.calls if c.name == "dw")


def step_of(graph: Graph) -> Step:
    return Step(graph.nodes[0], (Layout(graph.tensors["image"]),), Layout(graph.tensors["out"]))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_x86(target, case):  # noqa: F811
    graph = network(*case[:-1], logits=sum(case[1]) % 2 == 1)
    lowered = lower(graph, target)
    assert rule_of(lowered) == f"depthwise, {case[-1] if target.name == 'x86:avx2' else 'dot product'}"
    assert_equal(graph, lowered, in_process(lowered, target))


def test_one_channel_is_a_dense_convolution(target):  # noqa: F811
    graph = network(1, (4, 3), 3, 1, (1, 1, 1, 1), 8, 8, "low")
    lowered = lower(graph, target)
    assert not rule_of(lowered).startswith("depthwise")
    assert_equal(graph, lowered, in_process(lowered, target))


@pytest.mark.parametrize("case", CASES[::2], ids=str)
def test_arm(case, tmp_path):
    try:
        arm.linker()
    except TargetError as error:
        pytest.skip(f"no linker for aarch64: {error}")
    graph, cortex = network(*case[:-1]), find("arm:cortex-a72")
    lowered = lower(graph, cortex)
    assert rule_of(lowered).startswith("depthwise, int16 products")
    arm.build([lowered.module], cortex, tmp_path / "net.so", tmp_path)
    assert_equal(graph, lowered, arm.runner(tmp_path / "net.so", cortex))


def test_sums_that_wrap_round_while_an_offset_is_taken_off():
    """9 * 15 * 255 leaves int16; centred by 128 it does not."""
    route = byte_pairs(step_of(network(16, (8, 9), 3, 2, (0, 0, 1, 1), 5, 8, "high")), 16)
    assert route.offset == 128 and len(route.groups) == 1 and (route.starts == -128 * 9 * 15).all()


@pytest.mark.parametrize("qmax", [255, 127, 15])
def test_groups_fit_int16_and_none_could_be_longer(qmax):
    rng = np.random.default_rng(qmax)
    for w_bits in (8, 6, 4):
        graph = network(24, (5, 5), 5, 1, (2, 2, 2, 2), w_bits, 8, "normal")
        terms = [((dy, dx),) for dx in range(5) for dy in range(5)]
        weight = arrange(step_of(graph), terms, 1) * rng.choice([-1, 1], (len(terms), 24, 1))
        offset, lengths = fewest_groups(weight, qmax, offsets(qmax))
        assert sum(lengths) == len(terms)

        def fits(first, end, weight=weight, offset=offset):
            run = weight[first:end, :, 0]
            ends = np.stack([run * -offset, run * (qmax - offset)])
            return ends.min(0).sum(0).min() >= INT16[0] and ends.max(0).sum(0).max() <= INT16[1]

        first = 0
        for length in lengths:
            assert fits(first, first + length)
            assert first + length == len(terms) or not fits(first, first + length + 1)
            first += length


def test_byte_pairs_only_where_no_pair_saturates_and_nibbles_only_where_sums_fit():
    saturating = step_of(network(16, (7, 7), 3, 1, (1, 1, 1, 1), 8, 8, "low"))
    assert byte_pairs(saturating, 16) is None and nibbles(saturating, 16) is not None
    large = step_of(network(16, (7, 7), 5, 1, (2, 2, 2, 2), 8, 8, "low"))
    assert byte_pairs(large, 16) is None and nibbles(large, 16) is None and word_pairs(large).name == "word pairs"


def test_dense_and_grouped_convolutions_are_left_to_other_rules():
    for groups, channels in ((1, 1), (2, 2)):
        node = Conv(
            "c",
            "image",
            "out",
            np.ones((4, 3, 3, channels), np.int8),
            8,
            np.zeros(4, np.int64),
            np.ones(4, np.float32),
            groups=groups,
        )
        assert depthwise(step_of(graph_of(node, Tensor("image", (5, 5, groups * channels)))), None) is None


NODES = (
    *(AvgPool("n", "image", "out", (h, w), (1, 1), requant_from_ratio(1 / (h * w))) for h, w in ((7, 6), (2, 3))),
    MaxPool("n", "image", "out", (3, 3), (2, 2), (1, 0, 1, 1)),
    MaxPool("n", "image", "out", (2, 2), (2, 2)),
    Shortcut("n", "image", "out", (2, 2), 0),
)


@pytest.mark.parametrize("channels", [1, 23, 40, 112])
def test_units_in_any_order(target, channels):  # noqa: F811
    """Pools and shortcuts whose units are done last to first, a border around what some of them write."""
    for node in NODES:
        graph = graph_of(node, Tensor("image", (7, 6, channels)))
        lowered = lower(graph, target)
        call = next(c for c in lowered.calls if c.name == "n")
        layout = graph.tensors["out"]
        assert call.kernel.units == (
            -(-channels // 16) if layout.shape[:2] == (1, 1) and not isinstance(node, Shortcut) else layout.shape[0]
        )
        calls = [replace(c, kernel=replace(c.kernel, emit=_backwards(c.kernel))) for c in lowered.calls]
        turned = replace(lowered, module=assemble(calls, lowered.sizes))
        assert_equal(graph, turned, in_process(turned, target))


def _backwards(kernel):
    def emit(buffers, _):
        for unit in reversed(range(kernel.units)):
            kernel.emit(buffers, (unit, unit + 1))

    return emit


@pytest.mark.parametrize("channels", [1, 3, 24, 67])
@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 2, 1, 0), (2, 0, 0, 1)])
def test_borders(target, channels, padding):  # noqa: F811
    """Zero points of one value, and of one a channel, around pictures of one row and more."""
    for size, zero_point in (((1, 3), (7,)), ((4, 2), tuple(range(1, channels + 1)))):
        weight = np.random.default_rng(1).integers(-9, 9, (5, 3, 3, channels)).astype(np.int8)
        node = Conv(
            "c",
            "image",
            "out",
            weight,
            8,
            np.zeros(5, np.int64),
            np.ones(5, np.float32),
            padding=tuple(p + 1 for p in padding),
        )
        graph = graph_of(node, Tensor("image", (*size, channels), zero_point=zero_point))
        lowered = lower(graph, target)
        assert_equal(graph, lowered, in_process(lowered, target))
