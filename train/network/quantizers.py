"""Fake quantization with learned steps: LSQ (Esser et al. 2020, arXiv 1902.08153).

A real value x becomes a code and then a value on the grid of a step s (LSQ Eq. 1 and 2):

    code = clamp(floor(x / s + 1/2), qmin, qmax),   x^ = code * s

Ties go up, as in the integer network, where the paper leaves them open. Steps are parameters, learned as logarithms so
that they stay positive; bits and ranges are constants.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

CANDIDATES = torch.linspace(0.1, 1.0, 46)  # fractions of the largest value that are tried as the clipping point
SAMPLE = 1 << 15  # values that are looked at when a step is searched


def code_range(bits: int, signed: bool) -> tuple[int, int]:
    """Returns (qmin, qmax) of a width, sign included; weights are signed, activations unsigned."""
    if signed:
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1


class _FakeQuantize(torch.autograd.Function):
    """Forward: LSQ Eq. 1 and 2. Backward: LSQ Eq. 3 for the step, straight through for x inside the range.

    Eq. 3: d x^ / d s is code - x / s inside the range, and the code itself, qmin or qmax, outside. The gradient of the
    step is scaled by 1 / sqrt(n * qmax) (section 2.2 of the paper).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, qmin: int, qmax: int) -> Tensor:
        ratio = x / step
        out = (ratio + 0.5).floor_().clamp_(qmin, qmax).mul_(step)
        ctx.save_for_backward(ratio, out, step)
        ctx.range = qmin, qmax
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        ratio, out, step = ctx.saved_tensors
        qmin, qmax = ctx.range
        if grad.dim() == 4:  # gradients of strided skips come in another layout, which would slow down all behind them
            grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = torch.ops.aten.hardtanh_backward(grad, ratio, qmin, qmax)  # zero outside the range
        slope = sum_products(grad, out, step) / step - sum_products(grad_x, ratio, step)
        elements = grad.numel() // (len(grad) if step.numel() == 1 else step.numel())
        return grad_x, slope / math.sqrt(elements * max(qmax, 1)), None, None


def sum_products(a: Tensor, b: Tensor, step: Tensor) -> Tensor:
    """Returns the sums of a * b over all elements that share one step, in the step's shape: [], or [O, 1, 1, 1].

    a, b: float of one shape, [O, I, kH, kW] where there is a step for each output channel.
    """
    if step.numel() == 1:
        # A flat view in the order of channels_last needs no copy.
        order = (0, 2, 3, 1) if a.dim() == 4 else tuple(range(a.dim()))
        return torch.dot(a.permute(order).reshape(-1), b.permute(order).reshape(-1)).reshape(step.shape)
    return (a * b).flatten(1).sum(1).reshape(step.shape)


def fake_quantize(x: Tensor, step: Tensor, qmin: int, qmax: int) -> Tensor:
    """Returns x on the grid of a step, one [] or one per output channel [O, 1, 1, 1], codes clamped to qmin..qmax.

    The gradient of the step carries LSQ's factor 1 / sqrt(n * qmax), n being the elements of one channel of weights, or
    of one picture.
    """
    return _FakeQuantize.apply(x, step, qmin, qmax)


def search_step(x: Tensor, qmin: int, qmax: int) -> Tensor:
    """Returns the step of least squared error for each row of x float [R, n], [R]; 1 where a row is all zero."""
    if qmin == 0:
        x = x.clamp(min=0)
    if x.shape[1] > SAMPLE:
        x = x[:, torch.linspace(0, x.shape[1] - 1, SAMPLE, device=x.device).long()]
    peak = x.abs().amax(1) / qmax
    peak = torch.where(peak > 0, peak, torch.ones_like(peak))
    best = peak.clone()
    least = torch.full_like(peak, math.inf)
    for fraction in CANDIDATES.tolist():
        step = (peak * fraction)[:, None]
        error = ((x / step + 0.5).floor_().clamp_(qmin, qmax).mul_(step) - x).square_().mean(1)
        best = torch.where(error < least, step[:, 0], best)
        least = torch.minimum(error, least)
    return torch.where(least > 0, best, peak)  # several steps may be exact: then the largest


class Quantizer(nn.Module):
    """One learned step for a tensor, or one for each output channel of a weight.

    log_step: parameter, [] or [O, 1, 1, 1]. bits, sign included, and the range of codes are constants.
    """

    def __init__(self, bits: int, signed: bool, channels: int = 1):
        super().__init__()
        self.bits = bits
        self.qmin, self.qmax = code_range(bits, signed)
        shape = (channels, 1, 1, 1) if channels > 1 else ()
        self.log_step = nn.Parameter(torch.zeros(shape))

    def step(self) -> Tensor:
        """Returns the step or steps, [] or [O, 1, 1, 1]."""
        return self.log_step.exp()

    def forward(self, x: Tensor) -> Tensor:
        """Returns x, float [N or O, ...], on the quantizer's grid."""
        return fake_quantize(x, self.step(), self.qmin, self.qmax)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Calibrates the step on x, float [N or O, ...], by a search for the least squared error."""
        rows = x.reshape(self.log_step.numel(), -1)
        self.log_step.copy_(search_step(rows, self.qmin, self.qmax).log().reshape(self.log_step.shape))


class Stream(nn.Module):
    """Quantizes the 8-bit residual stream of a variant: one learned base step times a fixed rational factor per tensor.

    Tensor i has the step base * prod(d[:i+1] / n[:i+1]), so that step[i - 1] / step[i] = n[i] / d[i] with d in {1, 3}:
    a residual operand then adds an exact integer per code (see train/integers/lowering.py). A projected shortcut into
    tensor i has codes of the step step[i] * side_n[i] / 3 and the zero point side_zero[i]. log_base is a parameter [];
    n, d, side_n and side_zero are buffers int64 [tensors], set by calibration.
    """

    QMAX = 255

    n: Tensor
    d: Tensor
    side_n: Tensor
    side_zero: Tensor

    def __init__(self, tensors: int):
        super().__init__()
        self.log_base = nn.Parameter(torch.zeros(()))
        for name in ("n", "d", "side_n", "side_zero"):
            self.register_buffer(name, torch.ones(tensors, dtype=torch.int64))

    def factors(self) -> Tensor:
        """Returns each tensor's step relative to the base, float64 [tensors]."""
        return (self.d.double() / self.n.double()).cumprod(0)

    def step(self, index: int) -> Tensor:
        """Returns the step of tensor `index`, a scalar []."""
        return self.log_base.exp() * self.factors()[index].to(self.log_base.dtype)

    def forward(self, index: int, x: Tensor) -> Tensor:
        """Returns x, float [N, C, H, W], as codes 0..255 of tensor `index` hold it; the clamp at 0 is a ReLU."""
        return fake_quantize(x, self.step(index), 0, self.QMAX)

    def side(self, index: int, x: Tensor) -> Tensor:
        """Returns a projected shortcut into tensor `index`, float [N, C, H, W], on its grid; it may be negative."""
        zero = int(self.side_zero[index])
        return fake_quantize(x, self.step(index) * self.side_n[index] / 3, -zero, self.QMAX - zero)

    @torch.no_grad()
    def fit(self, index: int, x: Tensor) -> None:
        """Calibrates the base (index 0) or the factor of a tensor on its values [N, C, H, W]; call by rising index."""
        wanted = float(search_step(x.reshape(1, -1), 0, self.QMAX))
        if index == 0:
            self.log_base.fill_(math.log(wanted))
            return
        self.n[index], self.d[index] = nearest_skip_ratio(float(self.step(index - 1)) / wanted)

    @torch.no_grad()
    def fit_side(self, index: int, x: Tensor) -> None:
        """Calibrates scale and zero point of a projected shortcut so that all of x, float [N, C, H, W], fits."""
        low = min(float(x.min()), 0.0)
        high = max(float(x.max()), 0.0)
        unit = float(self.step(index)) / 3
        n = max(1, math.ceil((high - low) / (self.QMAX * unit)))
        self.side_n[index] = n
        self.side_zero[index] = min(self.QMAX, round(-low / (n * unit)))


def nearest_skip_ratio(ratio: float) -> tuple[int, int]:
    """Returns (n, d), d in {1, 3} and n / d in lowest terms, nearest to a positive ratio by their quotient."""
    floor = max(1, math.floor(3 * ratio))
    n = min((floor, floor + 1), key=lambda thirds: abs(math.log(thirds / (3 * ratio))))
    return (n // 3, 1) if n % 3 == 0 else (n, 3)
