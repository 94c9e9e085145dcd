"""Quantizers of one tensor at several widths, mixed by shares; gradients reach the shares of all widths."""

from typing import Any

import torch
from torch import Tensor, nn

from train.network.quantizers import Quantizer, sum_products

Range = tuple[int, int | None]  # (qmin, qmax) of a width; qmax None for a tensor that is on that grid already


class _AddShareGradients(torch.autograd.Function):
    """Forward: the mixed tensor as it is. Backward: also d loss / d y_b = <grad, Q_b(x)>, of all widths."""

    @staticmethod
    def forward(ctx: Any, mixed: Tensor, y: Tensor, x: Tensor, ranges: list[Range], *steps: Tensor) -> Tensor:
        ctx.save_for_backward(x, *steps)
        ctx.ranges = ranges
        ctx.like = y
        return mixed.view_as(mixed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *steps = ctx.saved_tensors
        dense = torch.channels_last if x.dim() == 4 else torch.contiguous_format
        x = x.contiguous(memory_format=dense)
        dense_grad = grad.contiguous(memory_format=dense)
        slopes = []
        for (qmin, qmax), step in zip(ctx.ranges, steps, strict=True):
            codes = x if qmax is None else (x / step).add_(0.5).floor_().clamp_(qmin, qmax)
            slopes.append((sum_products(dense_grad, codes, step) * step).sum())
        return grad, torch.stack(slopes).to(ctx.like), None, None, *[None] * len(steps)


class Mixed(nn.Module):
    """Quantizers of one tensor at W widths, each with a learned step (LSQ): x^ = sum_b y_b Q_b(x).

    plain: the tensor is on an 8-bit grid already, so that 8 bits need no quantizer and leave it as it is.
    """

    def __init__(self, widths: tuple[int, ...], signed: bool, channels: int = 1, plain: bool = False):
        super().__init__()
        self.quantizers = nn.ModuleList(
            None if plain and bits == 8 else Quantizer(bits, signed, channels)  # type: ignore[misc]  # torch takes None
            for bits in widths
        )

    def forward(self, x: Tensor, y: Tensor, values: list[float]) -> Tensor:
        """Returns the mixture of x, float [N or O, ...], by shares y [W], `values` its numbers.

        Widths of no share are not computed, yet the gradient of y has them.
        """
        parts = []
        for quantizer, share in zip(self.quantizers, values, strict=True):
            if share:
                parts.append((share, x if quantizer is None else quantizer(x)))
        share, mixed = parts[0]
        if len(parts) > 1:
            mixed = share * mixed
        for share, part in parts[1:]:
            mixed = mixed.add(part, alpha=share)
        if not y.requires_grad:
            return mixed
        ranges: list[Range] = []
        steps: list[Tensor] = []
        for quantizer in self.quantizers:
            if isinstance(quantizer, Quantizer):
                ranges.append((quantizer.qmin, quantizer.qmax))
                steps.append(quantizer.step().detach())
            else:
                ranges.append((0, None))
                steps.append(torch.ones((), device=x.device))
        return _AddShareGradients.apply(mixed, y, x.detach(), ranges, *steps)

    def fit(self, x: Tensor) -> None:
        """Calibrates the step of every width on x, float [N or O, ...]."""
        for quantizer in self.quantizers:
            if isinstance(quantizer, Quantizer):
                quantizer.fit(x)
