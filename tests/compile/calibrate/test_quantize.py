"""Layer by layer: biases take up mean errors, and what is measured is what is written."""

import numpy as np
import onnx
import pytest

from compile.calibrate.calibrate import calibrate
from compile.calibrate.executor import NodeRunner, run_all
from compile.calibrate.front import PICTURE_SCALE, picture_values, with_picture, zero_points
from compile.calibrate.quantize import decibels
from compile.qdq.normalization import Normalization
from tests.compile.calibrate.networks import (
    IMAGENET,
    MODELS,
    SIZE,
    calibrated,
    chain,
    conv,
    fire,
    head,
    photos,
    read,
    settings,
    values_of,
)
from tests.support.foreign import OnnxNet

pytestmark = pytest.mark.slow


def real_layers(c):
    """The network with the weights and biases that its integers stand for."""
    return c.network.with_layers({name: (v.real_weight, v.real_bias) for name, v in c.quantization.layers.items()})


@pytest.mark.parametrize("bits", ["8", "w4a8", "4"])
def test_the_mean_error_of_every_channel_is_gone(tmp_path, bits):
    """Both networks run side by side; a layer's mean, less than a unit of its sum away, is the float one's."""
    c = calibrated(tmp_path, chain(), bits)
    pictures = picture_values(photos(16), IMAGENET)
    floats = {node.output[0]: values[node.output[0]] for node, values in run_all(c.network, pictures, NodeRunner())}
    network, quantizers = real_layers(c), c.quantization.quantizers
    for node, values in run_all(network, pictures, NodeRunner()):
        name = node.output[0]
        if name in c.quantization.layers:
            axes = (0, *range(2, values[name].ndim))
            apart = np.abs(values[name].mean(axes) - floats[name].mean(axes))
            unit = c.quantization.layers[name].unit
            spread = np.abs(floats[name]).max()
            assert (apart <= unit + 1e-5 * spread).all(), name  # half a unit, and float32 sums
        if name in c.placement.written:
            values[name] = quantizers[c.placement.owner[name]].rounded(values[name])


def test_the_first_and_the_last_layer_have_eight_bits(tmp_path):
    for model in (chain, fire):
        c = calibrated(tmp_path, model(), "4")
        layers = [node.output[0] for node in c.network.nodes if node.output[0] in c.quantization.layers]
        bits = [c.quantization.layers[name].bits for name in layers]
        last = 2 if model is fire else 1  # the classifier, and the mean of its maps
        assert bits == [8] + [4] * (len(bits) - 1 - last) + [8] * last


def test_learned_rounding_changes_the_output_less(tmp_path):
    noise = {
        rounding: calibrated(tmp_path, chain(), "w4a8", rounding).quantization.noise
        for rounding in ("nearest", "learned")
    }
    assert sum(v.so_far for v in noise["learned"]) > sum(v.so_far for v in noise["nearest"])
    assert noise["learned"][-1].so_far > noise["nearest"][-1].so_far


@pytest.mark.parametrize("rounding", ["nearest", "learned"])
def test_the_same_pictures_give_the_same_file(tmp_path, rounding):
    files = [calibrated(tmp_path, MODELS["residual"](), "4", rounding).to_onnx({"name": 1}) for _ in range(2)]
    assert files[0].SerializeToString() == files[1].SerializeToString()


def test_noise_is_measured_in_decibels():
    signal = np.random.default_rng(0).normal(0, 1, 1000)
    assert np.isclose(decibels(signal, 0.1 * signal), 20)
    assert decibels(signal, 0 * signal) == decibels(0 * signal, 0 * signal) == 200
    assert decibels(0 * signal, signal) == -200


NORMALIZATIONS = {
    "imagenet": IMAGENET,
    "minus one to one": Normalization((0.5,), (0.5,)),
    "0..255": Normalization((0.0,), (1 / 255,)),
}


def unpadded() -> onnx.ModelProto:
    rng, net = np.random.default_rng(0), OnnxNet((3, SIZE, SIZE))
    x = net.op("Relu", conv(net, rng, "x", 8, 3, pads=[0, 0, 0, 0]))
    return net.model(head(net, rng, x, 8), 6)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_the_normalization_goes_into_the_first_layer(tmp_path, name):
    network, pictures, normalization = read(tmp_path, unpadded()), photos(6), NORMALIZATIONS[name]
    front = with_picture(network, normalization)
    assert len(front.nodes) == len(network.nodes)
    values = values_of(front, picture_values(pictures, normalization))
    np.testing.assert_allclose(values, values_of(network, normalization.floats(pictures)), rtol=1e-4, atol=1e-4)


def test_padded_pixels_are_half_a_code_away_at_most(tmp_path):
    network, pictures = read(tmp_path, chain()), np.zeros((1, SIZE, SIZE, 3), np.uint8)
    pictures[:] = zero_points(IMAGENET)
    values = picture_values(pictures, IMAGENET)
    assert np.array_equal(values, np.zeros_like(values))
    assert np.abs(IMAGENET.floats(pictures)).max() <= 0.5 / 255 / min(IMAGENET.std)
    assert PICTURE_SCALE > 0 and network.picture == "x"


def test_what_is_no_convolution_gets_one_that_normalizes(tmp_path):
    rng, net = np.random.default_rng(0), OnnxNet((3, SIZE, SIZE))
    x = net.op("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Relu", conv(net, rng, x, 8, 3))
    network, pictures = read(tmp_path, net.model(head(net, rng, x, 8), 6)), photos(6)
    front = with_picture(network, IMAGENET)
    assert front.nodes[0].op_type == "Conv"
    values = values_of(front, picture_values(pictures, IMAGENET))
    np.testing.assert_allclose(values, values_of(network, IMAGENET.floats(pictures)), rtol=1e-4, atol=1e-4)
    c = calibrate(network, pictures, IMAGENET, settings(), lambda done, count: None)
    assert c.quantization.layers["normalize"].bits == 8
