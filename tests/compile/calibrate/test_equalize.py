"""Equalization keeps the float function and evens out ranges; a Clip acts on no channel that it did not act on."""

import numpy as np
import pytest

from compile.calibrate.calibrate import channel_ranges
from compile.calibrate.equalize import ROOM, equalized
from compile.calibrate.executor import NodeRunner, run_all
from tests.compile.calibrate.networks import SIZE, chain, fire, gated, read, values_of
from tests.support.foreign import float_network

pytestmark = pytest.mark.slow

MODELS = {
    "relu": chain,
    "clip": lambda: chain(1.5),
    "clip that never acts": lambda: chain(1e3),
    "concat": fire,
    "gates": gated,
    "residual": lambda: float_network(3, SIZE),
}


def pictures(n: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (n, 3, SIZE, SIZE)).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_the_function_stays_on_the_pictures_that_were_measured(tmp_path, name):
    network, x = read(tmp_path, MODELS[name]()), pictures()
    even = equalized(network, channel_ranges(network, x, NodeRunner()))
    before = values_of(network, x)
    # float32 sums of other summands
    np.testing.assert_allclose(values_of(even, x), before, rtol=1e-3, atol=1e-4 * np.abs(before).max())


@pytest.mark.parametrize("name", ["relu", "clip that never acts"])
def test_without_limits_it_stays_on_all_pictures(tmp_path, name):
    network = read(tmp_path, MODELS[name]())
    even = equalized(network, channel_ranges(network, pictures(), NodeRunner()))
    x = 2 * pictures(seed=5)
    before = values_of(network, x)
    np.testing.assert_allclose(values_of(even, x), before, rtol=1e-3, atol=1e-4 * np.abs(before).max())


def test_channels_in_front_of_a_depthwise_layer_become_alike(tmp_path):
    network, x = read(tmp_path, chain()), pictures()
    first = network.nodes[1].output[0]  # the Relu between convolution and depthwise convolution
    spreads = []
    for net in (network, equalized(network, channel_ranges(network, x, NodeRunner()))):
        ranges = channel_ranges(net, x, NodeRunner())[first]
        spreads.append(ranges[ranges > 0].max() / ranges[ranges > 0].min())
    assert spreads[0] > 3 and spreads[1] < 1.01


def test_a_limit_acts_on_no_other_value(tmp_path):
    network, x = read(tmp_path, chain(1.5)), pictures()
    even = equalized(network, channel_ranges(network, x, NodeRunner()))
    changed = 0
    clips = [node.output[0] for node in network.nodes if node.op_type == "Clip"]
    values = []
    for net in (network, even):
        kept = {}
        for node, tensors in run_all(net, x, NodeRunner()):
            if node.output[0] in clips:
                kept[node.output[0]] = tensors[node.output[0]]
        values.append(kept)
    for name in clips:
        before, after = values[0][name], values[1][name]
        at_limit = before.max((0, 2, 3)) >= ROOM * 1.5
        np.testing.assert_allclose(after[:, at_limit], before[:, at_limit], rtol=1e-3, atol=1e-4)
        assert after[:, ~at_limit].max(initial=0) < 1.5
        changed += int((np.abs(after - before).max((0, 2, 3)) > 0.01).sum())
    assert changed > 2


def test_weights_reach_the_same_in_both_layers(tmp_path):
    """Eq. 11 at its end: a channel's values and the weights that read it have ranges of one ratio."""
    network, x = read(tmp_path, chain()), pictures()
    even = equalized(network, channel_ranges(network, x, NodeRunner()))
    pointwise = next(n for n in even.nodes if n.op_type == "Conv" and even.weight(n).shape[2:] == (1, 1))
    ranges = channel_ranges(even, x, NodeRunner())[pointwise.input[0]]
    reach = np.abs(even.weight(pointwise)).max((0, 2, 3))
    used = ranges > 0
    ratios = ranges[used] / reach[used]
    assert ratios.max() / ratios.min() < 1.05
