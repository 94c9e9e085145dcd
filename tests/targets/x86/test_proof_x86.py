"""Requantization in float32 and int16 on x86: right wherever it is proved, refused where it would not be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compile.lowering.lower import lower
from targets import find
from targets.kernel import Step
from targets.reference import interpreter
from targets.reference.graph import Graph
from targets.reference.nodes import Add, AvgPool, Conv, Rescale, Tensor
from targets.reference.scales import requant_from_ratio
from targets.x86.epilogue import epilogues
from targets.x86.proof import LARGEST, Range, float_scaling, fraction
from tests.support.graphs import random_graph, resnet_like
from tests.targets.x86.test_kernels_x86 import assert_equal


def in_float32(sums, scaling, codes):
    """What a kernel computes; float64 holds the product of two float32 exactly, as a fused multiply-add does."""
    product = sums.astype(np.float32).astype(np.float64) * scaling.scale
    scaled = (product + scaling.offset).astype(np.float32)
    return np.clip(np.trunc(scaled).astype(np.int64), codes.qmin, codes.qmax)


def around_levels(ratio, left, bias, codes, low, high):
    """Sums int64 [n, C] in low..high on either side of each tie, the extremes, and some in between."""
    real = np.ldexp(ratio.multiplier.astype(np.float64), -31 - ratio.shift)
    ties = (np.arange(codes.qmin - 1, codes.qmax + 2)[:, None] - codes.zero_point - 0.5) / real
    near = np.round((ties - bias) / np.exp2(left)).astype(np.int64)
    rest = np.linspace(low, high, 4097).astype(np.int64)
    return np.clip(np.concatenate([near + d for d in range(-2, 3)] + [rest]), low, high)


RANGES = st.builds(
    lambda bits, zero, low, high: Range(zero % (1 << bits), *sorted((low % (1 << bits), high % (1 << bits)))),
    st.integers(2, 8),
    st.sampled_from([0, 0, 128, 3, 255]),
    st.sampled_from([0, 5]),
    st.sampled_from([255, 200]),
)


@given(
    seed=st.integers(0, 10**6),
    codes=RANGES,
    odd=st.booleans(),
    shifted=st.booleans(),
    magnitude=st.integers(-16, 2),
    reach=st.integers(3, 20),
)
def test_float32_equals_the_reference_wherever_it_is_proved(seed, codes, odd, shifted, magnitude, reach):
    rng = np.random.default_rng(seed)
    real = np.ldexp(rng.uniform(0.5, 1, 5), magnitude)
    ratio = requant_from_ratio(1 / (2 * np.floor(0.5 / real) + 1) if odd else real, 10 if shifted else 1)
    left = ratio.left if shifted else np.zeros(5, np.int64)
    bias = rng.integers(-(1 << 20), 1 << 20, 5) if shifted else np.zeros(5, np.int64)
    high = rng.integers(1, 1 << reach, 5)
    low = -rng.integers(0, 1 << reach, 5)
    if (high.max() - low.min() << left.max()) >= LARGEST - (1 << 20):
        return
    scaling = float_scaling(ratio, bias, low, high, codes, shifted)
    if scaling is not None:
        sums = around_levels(ratio, left, bias, codes, low, high)
        expected = interpreter.requantize((sums << left) + bias, ratio, codes.zero_point, codes.qmin, codes.qmax)
        np.testing.assert_array_equal(in_float32(sums, scaling, codes), expected)


@given(st.integers(0, 511), st.integers(-3000, 3000), st.sampled_from([0, 1, 17, 128]))
def test_one_over_an_odd_integer_is_always_proved(half, bias, zero_point):
    """What training makes: after the shift, a sum is at least 1 / 2046 of a code away from a tie."""
    ratio = requant_from_ratio(np.array([1 / (1025 + 2 * half)]))
    codes = Range(zero_point, 0, 255)
    assert float_scaling(ratio, bias, -(1 << 22), 1 << 22, codes) is not None
    assert float_scaling(ratio, 0, 1 - LARGEST, LARGEST - 1, codes, shifted=False) is not None


def test_what_one_rounding_could_turn_is_refused():
    """Steps of 2**-22 of a code beside a tie at 255 - 1/2 cannot be told apart in float32; steps of 2**-12 can."""
    codes = Range(0, 0, 255)
    assert float_scaling(requant_from_ratio(2.0**-22), 0, 0, LARGEST - 1, codes) is None
    assert float_scaling(requant_from_ratio(2.0**-12), 0, 0, 1 << 20, codes) is not None


def test_sums_that_would_leave_int32_are_refused():
    ratio, codes = requant_from_ratio(np.array([0.75])), Range(0, 0, 15)
    assert float_scaling(ratio, 0, -(1 << 20), 1 << 20, codes, shifted=False) is not None
    assert float_scaling(ratio, 0, -2 * LARGEST, LARGEST - 1, codes, shifted=False) is None


@given(bits=st.integers(2, 8), real=st.floats(2.0**-12, 8), zero_point=st.sampled_from([0, 128, 200]))
def test_int16_equals_the_reference_wherever_it_is_proved(bits, real, zero_point):
    ratio, codes = requant_from_ratio(real), Range(zero_point % (1 << bits), 0, (1 << bits) - 1)
    found = fraction(ratio, zero_point, codes)
    if found is not None:
        centred = np.arange(256) - zero_point
        products = (centred << found.left) * found.multiplier  # vpmulhrsw: 16-bit factors, rounded, ties up
        assert np.abs(centred << found.left).max() < 1 << 15 and found.multiplier < 1 << 15
        expected = interpreter.requantize(centred << ratio.left, ratio, codes.zero_point, codes.qmin, codes.qmax)
        np.testing.assert_array_equal(
            np.clip((products + (1 << 14) >> 15) + codes.zero_point, codes.qmin, codes.qmax), expected
        )


@pytest.mark.parametrize("bits", range(2, 8))
def test_narrower_codes_of_a_stream_are_proved(bits):
    """8-bit codes that meet both ends of a narrower range."""
    assert fraction(requant_from_ratio(((1 << bits) - 1) / 255), 0, Range(0, 0, (1 << bits) - 1)) is not None


def scalings(graph):
    """The float32 constants, or None, of every node with a ratio."""
    target = find("x86:avx2")
    ends = epilogues(target)
    for call in lower(graph, target).calls:
        step: Step = call.step
        if isinstance(step.node, Conv) and step.node.requant is not None:
            yield ends.conv(step).scaling
        elif isinstance(step.node, (AvgPool, Rescale)):
            yield ends.ratio(step, -step.reads[0].tensor.zero_points()).scaling
        elif isinstance(step.node, Add):
            yield ends.ratio(step, np.zeros(step.write.tensor.shape[2], np.int64), *step.node.multipliers).scaling


@pytest.mark.parametrize("seed", range(3))
def test_networks_like_trainings_take_float32(seed):
    assert all(s is not None for s in scalings(resnet_like(((8, 8), (4, 4), (2, 2)), seed)))
    assert all(s is not None for s in scalings(random_graph(seed, ops=("add", "avg_pool", "rescale", "skip"))))


def test_a_layer_without_proof_falls_back_and_is_exact():
    """Ratios of fine steps over a large sum: float32 cannot hold them, 64-bit products can."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (17, 3, 3, 40), np.int8)
    ratio = requant_from_ratio(rng.uniform(0.9, 1.1, 17) * 2.0**-16, 10)
    conv = Conv(
        "c", "image", "codes", weight, 8, np.zeros(17, np.int64), np.ones(17, np.float32), ratio, padding=(1,) * 4
    )
    rest = Conv(
        "linear",
        "codes",
        "out",
        rng.integers(-4, 4, (5, 1, 1, 17), np.int8),
        3,
        np.zeros(5, np.int64),
        np.ones(5, np.float32),
    )
    tensors = (Tensor("image", (6, 7, 40)), Tensor("codes", (6, 7, 17)), Tensor("out", (6, 7, 5), 32))
    graph = Graph("fine", {t.name: t for t in tensors}, (conv, rest), "image", "out")
    assert list(scalings(graph)) == [None]
    assert_equal(graph, find("x86:avx2"))
