"""Fake quantization with learned steps (LSQ, Esser et al. 2020, arXiv 1902.08153); ties go up, as in the integers."""

import math

import torch
from torch import Tensor, nn

CANDIDATES = torch.linspace(0.1, 1.0, 46)  # fractions of the largest value tried as the clipping point
SAMPLE = 1 << 15  # values looked at when a step is searched


def code_range(bits: int, signed: bool) -> tuple[int, int]:
    """(qmin, qmax): weights are signed, activations unsigned."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


class _FakeQuantize(torch.autograd.Function):
    """Forward: clamp(floor(x / step + 1/2), qmin, qmax) * step. Backward: LSQ Eq. 3, and straight through for x."""

    @staticmethod
    def forward(ctx, x: Tensor, step: Tensor, qmin: int, qmax: int) -> Tensor:
        ratio = x / step
        out = (ratio + 0.5).floor_().clamp_(qmin, qmax).mul_(step)
        ctx.save_for_backward(ratio, out, step)
        ctx.range = qmin, qmax
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        ratio, out, step = ctx.saved_tensors
        qmin, qmax = ctx.range
        if grad.dim() == 4:  # gradients of strided skips come in another layout, which would slow down all behind them
            grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = torch.ops.aten.hardtanh_backward(grad, ratio, qmin, qmax)
        # d out / d step is code - ratio inside the range and the code itself outside, where grad_x is zero.
        slope = inner(grad, out, step) / step - inner(grad_x, ratio, step)
        elements = grad.numel() // (len(grad) if step.numel() == 1 else step.numel())
        return grad_x, slope / math.sqrt(elements * max(qmax, 1)), None, None


def inner(a: Tensor, b: Tensor, step: Tensor) -> Tensor:
    """Sum of a * b over all that shares one step; a flat view in the order of channels_last needs no copy."""
    if step.numel() == 1:
        order = (0, 2, 3, 1) if a.dim() == 4 else tuple(range(a.dim()))
        return torch.dot(a.permute(order).reshape(-1), b.permute(order).reshape(-1)).reshape(step.shape)
    return (a * b).flatten(1).sum(1).reshape(step.shape)


def fake_quantize(x: Tensor, step: Tensor, qmin: int, qmax: int) -> Tensor:
    """x on the grid of `step` (one, or one per output channel as [O, 1, 1, 1]), codes clamped to qmin..qmax.

    The gradient of the step carries LSQ's factor 1 / sqrt(n * qmax), n being the elements of one channel of weights, or
    of one picture.
    """
    return _FakeQuantize.apply(x, step, qmin, qmax)


def search_step(x: Tensor, qmin: int, qmax: int) -> Tensor:
    """Step [R] of least squared error for each row of x float [R, n]; 1 where a row is all zero."""
    if qmin == 0:
        x = x.clamp(min=0)
    if x.shape[1] > SAMPLE:
        x = x[:, torch.linspace(0, x.shape[1] - 1, SAMPLE, device=x.device).long()]
    peak = x.abs().amax(1) / qmax
    peak = torch.where(peak > 0, peak, torch.ones_like(peak))
    best, least = peak.clone(), torch.full_like(peak, math.inf)
    for fraction in CANDIDATES.tolist():
        step = (peak * fraction)[:, None]
        error = ((x / step + 0.5).floor_().clamp_(qmin, qmax).mul_(step) - x).square_().mean(1)
        best, least = torch.where(error < least, step[:, 0], best), torch.minimum(error, least)
    return torch.where(least > 0, best, peak)  # several steps may be exact: then the largest


class Quantizer(nn.Module):
    """One learned step for a tensor, or one per output channel of a weight; as its logarithm, so it stays positive."""

    def __init__(self, bits: int, signed: bool, channels: int = 1):
        super().__init__()
        self.bits, (self.qmin, self.qmax) = bits, code_range(bits, signed)
        shape = (channels, 1, 1, 1) if channels > 1 else ()
        self.log_step = nn.Parameter(torch.zeros(shape))

    def step(self) -> Tensor:
        return self.log_step.exp()

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self.step(), self.qmin, self.qmax)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Sets the step from x by a search for the least squared error."""
        rows = x.reshape(self.log_step.numel(), -1)
        self.log_step.copy_(search_step(rows, self.qmin, self.qmax).log().reshape(self.log_step.shape))


class Stream(nn.Module):
    """The 8-bit residual stream of a variant: one learned base step times a fixed rational factor per tensor.

    Tensor i has the step base * prod(d[:i+1] / n[:i+1]), so that step[i - 1] / step[i] = n[i] / d[i] with d in {1, 3}:
    a residual operand then adds an exact integer per code (see train/integers/lowering.py). A projected shortcut into
    tensor i has codes of the step step[i] * side_n[i] / 3 and a zero point."""

    QMAX = 255

    def __init__(self, tensors: int):
        super().__init__()
        self.log_base = nn.Parameter(torch.zeros(()))
        for name in ("n", "d", "side_n", "side_zero"):
            self.register_buffer(name, torch.ones(tensors, dtype=torch.int64))

    def factors(self) -> Tensor:
        """float64 [tensors]."""
        return (self.d.double() / self.n.double()).cumprod(0)

    def step(self, index: int) -> Tensor:
        return self.log_base.exp() * self.factors()[index].to(self.log_base.dtype)

    def forward(self, index: int, x: Tensor) -> Tensor:
        return fake_quantize(x, self.step(index), 0, self.QMAX)

    def side(self, index: int, x: Tensor) -> Tensor:
        """The projected shortcut into tensor `index`, which may be negative."""
        zero = int(self.side_zero[index])
        return fake_quantize(x, self.step(index) * self.side_n[index] / 3, -zero, self.QMAX - zero)

    @torch.no_grad()
    def fit(self, index: int, x: Tensor) -> None:
        """Sets the base (index 0) or the factor of a tensor from its values; call in order of the index."""
        wanted = float(search_step(x.reshape(1, -1), 0, self.QMAX))
        if index == 0:
            self.log_base.fill_(math.log(wanted))
            return
        n, d = nearest_skip_ratio(float(self.step(index - 1)) / wanted)
        self.n[index], self.d[index] = n, d

    @torch.no_grad()
    def fit_side(self, index: int, x: Tensor) -> None:
        """Sets scale and zero point of a projected shortcut so that all of x fits."""
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        unit = float(self.step(index)) / 3
        n = max(1, math.ceil((high - low) / (self.QMAX * unit)))
        self.side_n[index], self.side_zero[index] = n, min(self.QMAX, round(-low / (n * unit)))


def nearest_skip_ratio(ratio: float) -> tuple[int, int]:
    """(n, d), d in {1, 3} and n / d in lowest terms, nearest to a positive ratio by their quotient."""
    n = max(1, math.floor(3 * ratio))
    n = min((n, n + 1), key=lambda k: abs(math.log(k / (3 * ratio))))
    return (n // 3, 1) if n % 3 == 0 else (n, 3)
