"""Weights as bit planes of positive and negative digits (CSQ, Xiao et al. 2023, arXiv 2212.02770).

    W = s / (2^N - 1) * sum_j 2^(N-1-j) * gate_j * (f(P_j) - f(M_j)) / tanh(beta * LOGIT / 2),   f(z) = sigmoid(beta z)

over N planes, the most significant first; s per output channel. As beta grows, digits become bits, d_j = (P_j > 0) -
(M_j > 0), and the leading n planes are an integer of n magnitude bits and a sign, of which 2^(N-n) folds into the step.
The tanh is what f(P) - f(M) of an untouched digit comes to: the first weights are exact at every beta.
"""

import math

import torch
from torch import Tensor, nn

from train.network.quantizers import search_step

LOGIT = 0.5  # of a first digit: some LOGIT / learning rate steps turn it over, while f is still near linear


class Planes(nn.Module):
    """Planes of weights [O, I, kH, kW] for stored widths, ascending, the sign counted: width b takes the first b - 1.

    fitted: index of the width whose least-squares step sets the range.
    """

    def __init__(self, widths: tuple[int, ...], shape: tuple[int, ...], fitted: int):
        super().__init__()
        self.widths, self.fitted, self.count = widths, fitted, widths[-1] - 1
        place = torch.arange(self.count)
        self.register_buffer("units", 2.0 ** (self.count - 1 - place) / (2**self.count - 1))  # constants, never trained
        self.register_buffer("within", (place < torch.tensor(widths)[:, None] - 1).float())  # [W, N]
        self.positive = nn.Parameter(torch.full((self.count, *shape), -LOGIT))
        self.negative = nn.Parameter(torch.full((self.count, *shape), -LOGIT))
        self.log_scale = nn.Parameter(torch.zeros(shape[0], 1, 1, 1))

    def gates(self, y: Tensor) -> Tensor:
        """float [N], falling: the share in which each plane takes part, of shares y [W] of the widths."""
        return y @ self.within

    def forward(self, x: Tensor, y: Tensor, values: list[float], beta: float | None = None) -> Tensor:
        """Weights float [O, I, kH, kW] at shares y [W] with `values` its numbers; x is only looked at by `fit`.

        beta None: exact, where one width has the whole share.
        """
        if beta is None:
            return self.hard(values.index(1.0))
        digits = torch.sigmoid(beta * self.positive) - torch.sigmoid(beta * self.negative)
        mixed = torch.tensordot(self.gates(y) * self.units, digits, 1)
        weight = mixed * (self.log_scale.exp() / math.tanh(beta * LOGIT / 2))
        return weight.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def codes(self, index: int) -> Tensor:
        """int32 [O, I, kH, kW] of the width at an index: sum of digits, in -(2^n - 1) .. 2^n - 1 for n = width - 1."""
        kept = self.widths[index] - 1
        digits = (self.positive[:kept] > 0).int() - (self.negative[:kept] > 0).int()
        powers = 2 ** torch.arange(kept - 1, -1, -1, device=digits.device)
        codes = (digits * powers.view(-1, 1, 1, 1, 1)).sum(0).int()
        if int(codes.abs().max()) >= 1 << kept:
            raise ValueError(f"planes: expected codes of {kept + 1} bits with their sign, got {int(codes.abs().max())}")
        return codes

    def log_step(self, index: int) -> Tensor:
        """Logarithm of the step of the codes of that width, [O, 1, 1, 1]."""
        return self.log_scale + math.log(2 ** (self.count + 1 - self.widths[index]) / (2**self.count - 1))

    def hard(self, index: int) -> Tensor:
        """Exact weights of the width at an index, float [O, I, kH, kW]."""
        return (self.codes(index) * self.log_step(index).exp()).contiguous(memory_format=torch.channels_last)

    def overlap(self, beta: float) -> Tensor:
        """Mean of f(P) f(M), which is 0 where a digit is written in one way only (1 - 1 is 0 too)."""
        return (torch.sigmoid(beta * self.positive) * torch.sigmoid(beta * self.negative)).mean()

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Sets digits and scale from weights; each digit the nearest, so that every width rounds rather than truncates.

        (3 is 4 - 1 here: with the digits 0 1 1 the leading two planes would make 2 of it.)
        """
        most = 2**self.count - 1
        top = 2 ** (self.widths[self.fitted] - 1) - 1
        step = search_step(x.flatten(1), -top, top).view(-1, 1, 1, 1)
        scale = step * (most / 2 ** (self.count + 1 - self.widths[self.fitted]))
        self.log_scale.copy_(scale.log())
        rest = (x / scale * most).round().clamp(-most, most)
        for place in range(self.count):
            unit = 2 ** (self.count - 1 - place)
            digit = (rest / unit).round().clamp(-1, 1)
            self.positive[place] = torch.where(digit > 0, LOGIT, -LOGIT)
            self.negative[place] = torch.where(digit < 0, LOGIT, -LOGIT)
            rest = rest - digit * unit
