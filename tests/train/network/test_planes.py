"""Bit planes of weights: soft, exact, and how they begin; against plain numpy."""

import numpy as np
import pytest
import torch

from tests.support.searches import chance
from train.network.planes import Planes
from train.network.quantizers import code_range

WIDTHS = tuple(range(2, 9))
SHARP = 200.0


def drawn(widths=WIDTHS, shape=(5, 3, 3, 3), seed=0) -> Planes:
    """Planes of random digits, every combination of P and M included, well away from 0."""
    planes = Planes(widths, shape, 0)
    with torch.no_grad():
        for logits, k in ((planes.positive, 0), (planes.negative, 1)):
            signs = torch.randint(2, logits.shape, generator=chance(2 * seed + k)) * 2 - 1
            logits.copy_(signs * (0.1 + torch.rand(logits.shape, generator=chance(9 + seed + k))))
        planes.log_scale.uniform_(-2, 1, generator=chance(seed))
    return planes


def weights_by_hand(planes: Planes, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(codes, step) in plain numpy: bits of P less bits of M, most significant first; what is dropped in the step."""
    p, m = (t.detach().numpy() > 0 for t in (planes.positive, planes.negative))
    codes = sum((p[j].astype(np.int64) - m[j]) * 2 ** (width - 2 - j) for j in range(width - 1))
    most = planes.widths[-1] - 1
    return codes, np.exp(planes.log_scale.detach().numpy()) * 2.0 ** (most - width + 1) / (2**most - 1)


@pytest.mark.parametrize("widths", [WIDTHS, (2, 3, 4, 8), (3, 5)])
def test_exact_weights_are_those_of_plain_numpy_and_fit_their_width(widths):
    planes = drawn(widths)
    for k, width in enumerate(widths):
        codes, step = weights_by_hand(planes, width)
        assert np.array_equal(planes.codes(k).numpy(), codes)
        assert np.abs(codes).max() < 2 ** (width - 1) and np.abs(codes).max() <= code_range(width, True)[1]
        y = torch.eye(len(widths))[k]
        np.testing.assert_allclose(planes(None, y, y.tolist()).detach(), codes * step, rtol=1e-6)


def test_largest_codes_fit():
    planes = Planes(WIDTHS, (2, 1, 1, 1), 0)
    with torch.no_grad():
        planes.positive[:, 0] = planes.negative[:, 1] = 1.0
    for k, width in enumerate(WIDTHS):
        assert planes.codes(k).flatten().tolist() == [2 ** (width - 1) - 1, 1 - 2 ** (width - 1)]


def test_soft_weights_become_the_exact_ones():
    planes, soft = drawn(), {}
    for k in range(len(WIDTHS)):
        y = torch.eye(len(WIDTHS))[k]
        wanted = planes.hard(k)
        for beta in (1.0, 20.0, SHARP):
            with torch.no_grad():
                soft.setdefault(beta, []).append(float((planes(None, y, y.tolist(), beta) - wanted).abs().max()))
    # Logits of at least 0.1: sigmoid(20) is within 2.1e-9 of 1, below float32's own rounding of the sum.
    assert max(soft[SHARP]) < 1e-6 < min(soft[20.0]) < min(soft[1.0])


def test_first_weights_are_exact_at_every_temperature_and_round_at_every_width():
    x, planes = torch.randn(6, 4, 3, 3, generator=chance()), Planes(WIDTHS, (6, 4, 3, 3), 3)
    planes.fit(x)
    for k, width in enumerate(WIDTHS):
        y = torch.eye(len(WIDTHS))[k]
        for beta in (1.0, 7.0, SHARP):
            assert torch.allclose(planes(None, y, y.tolist(), beta), planes.hard(k), rtol=1e-4, atol=1e-6)
        top, widest = 2 ** (width - 1) - 1, planes.hard(len(WIDTHS) - 1)
        off = ((planes.hard(k) - widest).abs() / planes.log_step(k).exp()).detach()
        inside = (widest / planes.log_step(k).exp()).abs() <= top
        assert float(off[inside].max()) <= 0.5 + 1e-5  # a rounding: truncation would be off by up to 1
    assert float(planes.overlap(SHARP).detach()) < 1e-6


def test_exact_weights_do_not_depend_on_how_soft_the_planes_are():
    planes, y = drawn(), torch.eye(len(WIDTHS))[3]
    before, soft = planes.hard(3), planes(None, y, y.tolist(), 2.0)
    with torch.no_grad():
        planes.positive.mul_(3)
        planes.negative.mul_(0.2)
        assert torch.equal(planes.hard(3), before) and not torch.allclose(planes(None, y, y.tolist(), 2.0), soft)


def test_gradients_of_shares_are_those_of_each_width_alone():
    """As of learned steps: d loss / d y_b = <grad, W_b>, widths of no share included."""
    planes, upstream = drawn(), torch.randn(5, 3, 3, 3, generator=chance())
    y = torch.eye(len(WIDTHS))[2].requires_grad_()
    planes(None, y, y.tolist(), 3.0).backward(upstream)
    for k, row in enumerate(torch.eye(len(WIDTHS))):
        alone = (planes(None, row, row.tolist(), 3.0).detach() * upstream).sum()
        assert float(y.grad[k]) == pytest.approx(float(alone), rel=1e-4, abs=1e-5)
