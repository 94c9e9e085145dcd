"""Weights by ridge regression: the closed form against a plain least-squares solver, for every kind of layer."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from compile.calibrate.layer_inputs import count_pixels, windows
from compile.calibrate.network import make_node
from train.adapt.ridge import RIDGES, Samples, accumulate, fit_weights

# name -> attributes of the convolution, shape of its weights; None: a Gemm
LAYERS = {
    "dense": ({"pads": [1, 1, 1, 1]}, (4, 3, 3, 3)),
    "strided": ({"pads": [0, 0, 1, 1], "strides": [2, 2]}, (4, 3, 3, 3)),
    "dilated": ({"pads": [2, 2, 2, 2], "dilations": [2, 2]}, (4, 3, 3, 3)),
    "grouped": ({"group": 3, "pads": [1, 1, 1, 1]}, (6, 1, 3, 3)),
    "pointwise": ({}, (5, 3, 1, 1)),
    "gemm": (None, (5, 3)),
}


def layer(name: str):
    attributes, shape = LAYERS[name]
    rng = np.random.default_rng(len(name))
    weight = rng.normal(0, 1, shape)
    if attributes is None:
        return make_node("Gemm", ["x", "w", "b"], "y", transB=1), weight, rng.normal(0, 1, (40, 3))
    return make_node("Conv", ["x", "w", "b"], "y", **attributes), weight, rng.normal(0, 1, (8, 3, 7, 6))


def run(name: str, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    attributes, _ = LAYERS[name]
    w, values = torch.tensor(weight), torch.tensor(x)
    if attributes is None:
        return (values @ w.T).numpy()
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    padded = F.pad(values, (left, right, top, bottom))
    stride, dilation = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    return F.conv2d(padded, w, None, stride, 0, dilation, attributes.get("group", 1)).numpy()


@pytest.mark.parametrize("name", LAYERS)
def test_windows_are_what_a_layer_multiplies(name):
    node, weight, x = layer(name)
    y = run(name, weight, x)
    pixels = count_pixels(node, weight, x)
    assert pixels == (1 if y.ndim == 2 else y[0, 0].size)
    for k in range(3):
        columns = windows(node, weight, x[k], np.arange(pixels))
        groups = columns.shape[0]
        product = weight.reshape(groups, -1, columns.shape[1]) @ columns
        np.testing.assert_allclose(product.reshape(len(weight), pixels), y[k].reshape(len(weight), pixels), atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_the_weights_that_made_the_targets_are_found(name):
    node, weight, x = layer(name)
    offset = np.arange(len(weight)).reshape(-1, *[1] * (x.ndim - 2))
    samples = Samples(x, run(name, weight, x) + offset, np.ones(len(x)))
    other = weight + np.random.default_rng(1).normal(0, 1, weight.shape)
    solved = accumulate(node, weight, samples, 1.0).solve(other, 1e-9)
    np.testing.assert_allclose(solved, weight, atol=1e-4)  # the sums are of float32 products


@pytest.mark.parametrize("ridge", RIDGES)
def test_the_closed_form_is_that_of_augmented_least_squares(ridge):
    """|W x - y|**2 / n + ridge * v * |W - W0|**2 is a plain least-squares problem with K more rows."""
    node, weight, x = layer("dense")
    rng = np.random.default_rng(2)
    y = run("dense", weight, x) + rng.normal(0, 3, (8, 4, 7, 6))
    normal = accumulate(node, weight, Samples(x, y, np.ones(8)), 1.0)
    columns = np.concatenate([windows(node, weight, one, np.arange(42))[0] for one in x], 1).T  # [n, K]
    targets = y.transpose(0, 2, 3, 1).reshape(-1, 4)
    columns, targets = columns - columns.mean(0), targets - targets.mean(0)
    scale = np.sqrt(ridge * columns.var(0).mean() * len(columns))
    left = np.concatenate([columns, scale * np.eye(27)])
    right = np.concatenate([targets, scale * weight.reshape(4, 27).T])
    expected = np.linalg.lstsq(left, right, rcond=None)[0].T.reshape(weight.shape)
    np.testing.assert_allclose(normal.solve(weight, ridge), expected, atol=1e-4)
    residual = columns @ expected.reshape(4, 27).T - targets
    assert normal.error(expected) == pytest.approx((residual.var(0) / targets.var(0)).mean(), rel=1e-4)


def test_a_picture_of_weight_two_counts_as_two():
    node, weight, x = layer("dense")
    y = np.random.default_rng(3).normal(0, 1, (8, 4, 7, 6))
    weights = np.array([2.0, 1, 1, 1, 1, 1, 1, 0])
    twice = Samples(np.concatenate([x[:1], x[:7]]), np.concatenate([y[:1], y[:7]]), np.ones(8))
    first = accumulate(node, weight, Samples(x, y, weights), 1.0).solve(weight, 0.1)
    np.testing.assert_allclose(first, accumulate(node, weight, twice, 1.0).solve(weight, 0.1), atol=1e-5)


def test_held_pictures_pick_the_ridge():
    """Targets that are noise in the fit and the old weights' own sums in the held pictures ask for the strongest."""
    node, weight, x = layer("dense")
    rng = np.random.default_rng(4)
    noise = Samples(x, rng.normal(0, 5, (8, 4, 7, 6)), np.ones(8))
    held = Samples(x, run("dense", weight, x), np.ones(8))
    strongest = accumulate(node, weight, noise, 1.0).solve(weight, max(RIDGES))
    np.testing.assert_array_equal(fit_weights(node, weight, noise, held), strongest.astype(np.float32))
