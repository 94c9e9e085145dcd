"""Fake quantization: its forward pass against the definition, its gradients against LSQ's equations."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.network.quantizers import Quantizer, Stream, code_range, fake_quantize, nearest_skip_ratio, search_step


def test_ranges_count_the_sign():
    assert [code_range(b, True) for b in (2, 8)] == [(-2, 1), (-128, 127)]
    assert [code_range(b, False) for b in (2, 8)] == [(0, 3), (0, 255)]


@given(bits=st.integers(2, 8), signed=st.booleans(), step=st.sampled_from([0.25, 1.0, 2.0]))
@settings(max_examples=30, deadline=None)
def test_ties_go_up_over_the_whole_range(bits, signed, step):
    qmin, qmax = code_range(bits, signed)
    quarters = np.arange(4 * qmin - 9, 4 * qmax + 10)  # every tie, and past both ends
    out = fake_quantize(torch.tensor(quarters * step / 4), torch.tensor(step, dtype=torch.float64), qmin, qmax)
    expected = np.clip((quarters + 2) // 4, qmin, qmax) * step
    assert np.array_equal(out.numpy(), expected)


@pytest.mark.parametrize("shape,per_channel", [((4, 3, 5, 5), False), ((6, 3, 3, 3), True)])
def test_gradients_are_lsq(shape, per_channel):
    generator = torch.Generator().manual_seed(0)
    x = (4 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    step = torch.full((shape[0], 1, 1, 1) if per_channel else (), 0.7, dtype=torch.float64, requires_grad=True)
    qmin, qmax = code_range(3, per_channel)
    upstream = torch.randn(shape, generator=generator, dtype=torch.float64)
    fake_quantize(x, step, qmin, qmax).backward(upstream)
    ratio = x.detach() / 0.7
    inside = (ratio > qmin) & (ratio < qmax)
    assert 0 < inside.sum() < inside.numel()
    assert torch.equal(x.grad, upstream * inside)
    slope = torch.where(inside, (ratio + 0.5).floor() - ratio, ratio.clamp(qmin, qmax))  # LSQ Eq. 3
    total = (upstream * slope).flatten(1).sum(1).view(-1, 1, 1, 1) if per_channel else (upstream * slope).sum()
    elements = x[0].numel()  # of one channel of weights, or of one picture
    # float64 sums in another order: a relative error of 1e-9 is far above theirs
    assert torch.allclose(step.grad, total / (elements * qmax) ** 0.5, rtol=1e-9, atol=1e-12)


def test_search_finds_the_step_of_a_grid():
    codes = torch.tensor([[0.0, 1, 2, 3, 7, 15], [0, 0, 0, 0, 0, 0]])
    step = search_step(codes * 0.125, 0, 15)
    assert float(step[0]) == pytest.approx(0.125, rel=1e-6) and float(step[1]) == 1.0


def test_search_beats_clipping_at_the_peak():
    x = torch.randn(1, 20000, generator=torch.Generator().manual_seed(1))
    step = float(search_step(x, -2, 1))
    steps = (step, float(x.abs().max()))
    error = [float((fake_quantize(x, torch.tensor(s), -2, 1) - x).square().mean()) for s in steps]
    assert error[0] < 0.3 * error[1]


def test_steps_stay_positive_and_shrink_when_asked():
    quantizer = Quantizer(4, False)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        quantizer(torch.full((1, 64), 50.0)).sum().backward()
        optimizer.step()
    assert 0 < float(quantizer.step().detach()) < 0.1


@given(st.floats(0.05, 40))
def test_skip_ratios_are_thirds(ratio):
    n, d = nearest_skip_ratio(ratio)
    assert n >= 1 and d in (1, 3) and (d == 1 or n % 3)
    others = [k / 3 for k in range(1, 130)]
    assert abs(np.log(n / d / ratio)) <= min(abs(np.log(o / ratio)) for o in others) + 1e-9


def test_stream_steps_are_rational_multiples_of_one_base():
    stream = Stream(4)
    for index, top in enumerate((3.0, 5.5, 1.2, 1.3)):
        stream.fit(index, torch.linspace(0, top, 4096).view(1, 1, 64, 64))
    steps = [float(stream.step(i).detach()) for i in range(4)]
    ratios = [a / b for a, b in pairwise(steps)]
    assert ratios == pytest.approx((stream.n / stream.d)[1:].tolist(), rel=1e-6)
    for step, top in zip(steps, (3.0, 5.5, 1.2, 1.3), strict=True):
        assert 0.7 < step * 255 / top < 1.5
    stream.fit_side(2, torch.linspace(-2.0, 0.5, 64).view(1, 1, 8, 8))
    x = torch.linspace(-2.0, 0.5, 100).view(1, 1, 10, 10)
    unit = steps[2] * int(stream.side_n[2]) / 3
    # everything fits, so nothing is off by more than half a step, plus one rounding of the zero point at either end
    assert float((stream.side(2, x).detach() - x).abs().max()) <= unit
