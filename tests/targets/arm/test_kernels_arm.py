"""ARM kernels, cross-compiled and run on emulated processors, against the integer reference, bit for bit."""

import numpy as np
import pytest

from compile.lowering.lower import lower, run_compiled
from targets import TargetError, find
from targets.arm import bit_serial, outer_product, toolchain
from targets.arm.epilogue import Short
from targets.arm.kernels import rules
from targets.arm.long_multiply import INT16_MAX, longest_chain
from targets.arm.tile import rows_of
from targets.reference import interpreter
from targets.reference.graph import Graph
from targets.reference.nodes import Conv, Tensor
from targets.reference.scales import requant_from_ratio
from tests.support.graphs import FOREIGN_OPS, OPS, pictures, quantized_to_the_end, random_graph, resnet_like

pytestmark = pytest.mark.slow

TARGETS = ("arm:cortex-a72", "arm:cortex-a76")


@pytest.fixture(scope="module", autouse=True)
def _linker():
    try:
        toolchain.linker()
    except TargetError as error:
        pytest.skip(f"no linker for aarch64: {error}")


def assert_equal(graph, target, folder, seed=0, n=3):
    lowered = lower(graph, find(target))
    toolchain.build([lowered.module], find(target), folder / "net.so", folder)
    x = pictures(graph, n, seed)
    got = run_compiled(lowered, toolchain.runner(folder / "net.so", find(target)), x)
    np.testing.assert_array_equal(got, interpreter.run(graph, x))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", OPS + FOREIGN_OPS)
def test_each_operator(target, op, tmp_path):
    assert_equal(random_graph(0, ops=(op,)), target, tmp_path)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("ops", [OPS[:5], OPS[5:], FOREIGN_OPS[:5], FOREIGN_OPS[5:]], ids="-".join)
def test_operators_with_the_largest_sums(target, ops, tmp_path):
    assert_equal(random_graph(1, ops=ops, extreme=True, size=(17, 13)), target, tmp_path, 1)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(6))
def test_random_networks(target, seed, tmp_path):
    assert_equal(random_graph(seed, tie_free=bool(seed % 2)), target, tmp_path, seed)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits", range(2, 9))
def test_each_width(target, bits, tmp_path):
    assert_equal(resnet_like(((bits, bits), (bits, 8), (8, bits))), target, tmp_path, bits)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(2))
def test_codes_from_picture_to_output(target, seed, tmp_path):
    assert_equal(quantized_to_the_end(seed), target, tmp_path, seed)


@pytest.mark.parametrize("target", TARGETS)
def test_every_rule_is_used(target):
    expected, used = rules(find(target)), set()
    few_bits, more_bits = resnet_like(((2, 2),), width=16), resnet_like(((4, 4),), width=32, size=32)
    for graph in (
        quantized_to_the_end(0),
        few_bits,
        more_bits,
        *(random_graph(1, ops=(op,)) for op in OPS + FOREIGN_OPS),
    ):
        for call in lower(graph, find(target)).calls:
            used.add(next(rule.__name__ for rule in expected if rule(call.step) is not None))
    assert used == {rule.__name__ for rule in expected}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("w_bits,a_bits", [(8, 8), (8, 7), (4, 4), (2, 2), (2, 8), (5, 3)])
def test_largest_accumulators(target, w_bits, a_bits, tmp_path):
    """Weights all at qmin, all at qmax and alternating, codes all at 0 or all at qmax."""
    half, shape = 1 << (w_bits - 1), (9, 3, 3, 17)
    alternating = np.where(np.indices(shape).sum(0) % 2, -half, half - 1)
    weight = np.concatenate([np.full(shape, -half), np.full(shape, half - 1), alternating]).astype(np.int8)
    node = Conv("c", "image", "out", weight, w_bits, np.zeros(27, np.int64), np.ones(27, np.float32), padding=(1,) * 4)
    tensors = {t.name: t for t in (Tensor("image", (5, 6, 17), a_bits), Tensor("out", (5, 6, 27), 32))}
    x = np.zeros((2, 5, 6, 17), np.uint8)
    x[1] = (1 << a_bits) - 1
    run_alone(node, tensors, target, tmp_path, x)


def run_alone(node, tensors, target, folder, x):
    """A graph of one convolution against the reference; the rule that served it."""
    graph = Graph("alone", tensors, (node,), "image", "out")
    lowered = lower(graph, find(target))
    toolchain.build([lowered.module], find(target), folder / "net.so", folder)
    got = run_compiled(lowered, toolchain.runner(folder / "net.so", find(target)), x)
    np.testing.assert_array_equal(got, interpreter.run(graph, x))
    return lowered.calls[-1].kernel.rule


@pytest.mark.parametrize(
    "w_bits,a_bits,channels,size,stride",
    [
        (2, 2, 16, (9, 16), 1),
        (2, 2, 24, (7, 7), 1),
        (2, 2, 37, (5, 18), 1),
        (2, 2, 33, (8, 32), 2),
        (2, 3, 16, (6, 16), 1),
        (3, 2, 16, (8, 32), 2),
        (2, 4, 32, (4, 16), 1),
        (2, 2, 272, (4, 8), 1),
    ],
)
def test_counting_bits_at_every_shape(w_bits, a_bits, channels, size, stride, tmp_path, monkeypatch):
    """Rows, columns, channels and runs of counters that do not fill a tile, with the largest sums."""
    monkeypatch.setattr(bit_serial, "cheaper", lambda step: True)
    rng, half = np.random.default_rng(0), 1 << (w_bits - 1)
    weight = rng.choice([-half, half - 1], (16, 3, 3, channels)).astype(np.int8)
    weight[0], weight[1] = -half, half - 1
    shape = tuple((n - 1) // stride + 1 for n in size)
    node = Conv(
        "c",
        "image",
        "out",
        weight,
        w_bits,
        rng.integers(-99, 99, 16),
        np.ones(16, np.float32),
        stride=(stride, stride),
        padding=(1,) * 4,
    )
    tensors = {t.name: t for t in (Tensor("image", (*size, channels), a_bits), Tensor("out", (*shape, 16), 32))}
    x = rng.integers(0, 1 << a_bits, (2, *size, channels)).astype(np.uint8)
    x[1] = (1 << a_bits) - 1
    assert run_alone(node, tensors, "arm:cortex-a72", tmp_path, x).startswith("bit serial")


@pytest.mark.parametrize(
    "w_bits,a_bits,channels,outputs,size,kernel,stride,rule",
    [
        (4, 4, 24, 16, (3, 3), 1, 1, "throughout"),
        (4, 4, 48, 40, (6, 6), 1, 1, "throughout"),
        (4, 4, 40, 37, (5, 7), 1, 2, "throughout"),
        (2, 7, 144, 16, (2, 2), 1, 1, "chain 128"),
        (5, 5, 21, 32, (4, 9), 3, 2, "chain 64"),
        (4, 6, 352, 16, (3, 5), 1, 1, "chain 64"),
    ],
)
def test_outer_products_at_every_shape(w_bits, a_bits, channels, outputs, size, kernel, stride, rule, tmp_path):
    """Pixels, channels and runs that do not fill a tile, rows that are one run, and the largest sums."""
    rng, half = np.random.default_rng(0), 1 << (w_bits - 1)
    weight = rng.integers(-half, half, (outputs, kernel, kernel, channels)).astype(np.int8)
    weight[0], weight[1] = -half, half - 1
    if rule == "throughout":
        weight[:2] = rng.choice([-half, half - 1], weight[:2].shape)
    shape = tuple((n - 1) // stride + 1 for n in size)
    node = Conv(
        "c",
        "image",
        "out",
        weight,
        w_bits,
        rng.integers(-99, 99, outputs),
        np.ones(outputs, np.float32),
        stride=(stride, stride),
        padding=(kernel // 2,) * 4,
    )
    tensors = {t.name: t for t in (Tensor("image", (*size, channels), a_bits), Tensor("out", (*shape, outputs), 32))}
    x = rng.integers(0, 1 << a_bits, (2, *size, channels)).astype(np.uint8)
    x[1] = (1 << a_bits) - 1
    assert run_alone(node, tensors, "arm:cortex-a72", tmp_path, x) == f"outer product, int16 {rule}"


def test_outer_products_stay_in_int16_exactly_as_long_as_they_can():
    rng = np.random.default_rng(0)
    for w_bits, qmax in ((4, 15), (5, 63), (2, 127)):
        half = 1 << (w_bits - 1)
        weight = rows_of(rng.integers(-half, half, (16, 3, 3, 64)).astype(np.int8), 16, 8)
        run, steps = outer_product.longest_run(weight, qmax), weight.astype(np.int64).reshape(16, -1, 8) * qmax
        sums = [np.maximum(sign * steps, 0).sum(2) for sign in (1, -1)]
        assert _largest(sums, run) <= INT16_MAX
        assert run == steps.shape[1] or _largest(sums, run + 1) > INT16_MAX


def _largest(sums, n):
    """The largest sum of n neighbours, in any of the arrays."""
    return max(np.lib.stride_tricks.sliding_window_view(s, n, axis=1).sum(-1).max() for s in sums)


@pytest.mark.parametrize(
    "bits,zero_point,middle",
    [(2, 0, 0), (3, 0, 0), (4, 0, 0), (6, 0, 0), (7, 0, 0), (3, 4, 0), (4, 8, 128), (2, 2, 128)],
)
def test_short_rescale_gives_every_code(bits, zero_point, middle):
    """(product + offset) >> shift in 16 bits, wherever it is used, for all 256 codes; `middle` is their zero point."""
    qmax, found = (1 << bits) - 1, 0
    for ratio in np.linspace(0.4, 1.6, 13) * qmax / 255:
        requant = requant_from_ratio(np.array([ratio]))
        codes = np.arange(256, dtype=np.int64)[:, None] - middle << requant.left
        expected = interpreter.requantize(codes, requant, zero_point, 0, qmax)[:, 0].astype(np.int64)
        short = Short.find(expected, qmax)
        if short is not None:
            sums = short.products(np.arange(256)) + short.offset
            assert 0 < short.multiplier < 256 and sums.min() >= 0 and sums.max() < 1 << 16 and short.shift >= 8
            np.testing.assert_array_equal(np.minimum(sums >> short.shift, qmax), expected)
            found += 1
    assert found or bits > 5


def test_chain_never_exceeds_int16_and_is_no_shorter_than_it_could_be():
    rng = np.random.default_rng(0)
    for w_bits, largest in ((8, 128), (8, 127), (4, 15), (3, 128), (2, 3)):
        half = 1 << (w_bits - 1)
        weight = rows_of(rng.integers(-half, half, (4, 3, 3, 64)).astype(np.int8), 4, 16)
        chain = longest_chain(weight, largest)
        lanes = np.abs(weight.astype(np.int64)).reshape(-1, weight.shape[3] // 8, 8) * largest
        windows = lambda n: np.lib.stride_tricks.sliding_window_view(lanes, n, axis=1).sum(-1).max()  # noqa: B023, E731
        assert windows(chain) <= INT16_MAX
        assert chain == lanes.shape[1] or windows(chain + 1) > INT16_MAX
