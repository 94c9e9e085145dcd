"""Weights as bit planes of positive and negative digits: CSQ (Xiao et al. 2023, arXiv 2212.02770).

    W = s / (2^N - 1) * sum_j 2^(N-1-j) * gate_j * (f(P_j) - f(M_j)) / tanh(beta * LOGIT / 2),   f(z) = sigmoid(beta z)

over N planes, the most significant first; s per output channel. As the temperature beta grows, digits become bits,
d_j = (P_j > 0) - (M_j > 0), and the leading n planes are an integer of n magnitude bits and a sign, of which 2^(N-n)
folds into the step. The division by tanh is ours: it is what f(P) - f(M) of an untouched digit comes to, so that the
first weights are exact at every beta. So are the constant units 2^(N-1-j) / (2^N - 1), which the public code trains:
trained, they leave the integer grid. Gates come from the widths' shares; how depths are learned, with the paper's
budget (Eq. 4), is in train/search/csq.py.
"""

import math

import torch
from torch import Tensor, nn

from train.network.quantizers import search_step

LOGIT = 0.5  # of a first digit: some LOGIT / learning rate steps turn it over, while f is still near linear


class Planes(nn.Module):
    """N bit planes of weights [O, I, kH, kW] for several stored widths; width b takes the first b - 1 planes.

    widths: ascending, the sign counted; fitted: index of the width whose least-squares step sets the range. Parameters:
    positive, negative [N, O, I, kH, kW], the logits of the digits, and log_scale [O, 1, 1, 1]. Buffers, constants that
    are never trained: units [N], what a digit of each plane is worth, and within [W, N], 1 where a width has a plane.
    """

    units: Tensor
    within: Tensor

    def __init__(self, widths: tuple[int, ...], shape: tuple[int, ...], fitted: int):
        super().__init__()
        self.widths = widths
        self.fitted = fitted
        self.count = widths[-1] - 1
        place = torch.arange(self.count)
        self.register_buffer("units", 2.0 ** (self.count - 1 - place) / (2**self.count - 1))
        self.register_buffer("within", (place < torch.tensor(widths)[:, None] - 1).float())
        self.positive = nn.Parameter(torch.full((self.count, *shape), -LOGIT))
        self.negative = nn.Parameter(torch.full((self.count, *shape), -LOGIT))
        self.log_scale = nn.Parameter(torch.zeros(shape[0], 1, 1, 1))

    def gates(self, y: Tensor) -> Tensor:
        """Returns the share in which each plane takes part, float [N], falling, of shares y [W] of the widths."""
        return y @ self.within

    def forward(self, x: Tensor, y: Tensor, values: list[float], beta: float | None = None) -> Tensor:  # noqa: ARG002
        """Returns weights float [O, I, kH, kW] at shares y [W] of the widths, `values` its numbers.

        x: the layer's weights, which a `Mixed` of learned steps quantizes here and planes do not need; beta: the
        temperature, None for exact bits, where one width has the whole share.
        """
        if beta is None:
            return self.hard(values.index(1.0))
        digits = torch.sigmoid(beta * self.positive) - torch.sigmoid(beta * self.negative)
        mixed = torch.tensordot(self.gates(y) * self.units, digits, 1)
        weight = mixed * (self.log_scale.exp() / math.tanh(beta * LOGIT / 2))
        return weight.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def codes(self, index: int) -> Tensor:
        """Returns the integers of the width at an index, int32 [O, I, kH, kW] in -(2^n - 1) .. 2^n - 1, n = width - 1.

        Raises ValueError for a code that the width cannot hold.
        """
        kept = self.widths[index] - 1
        digits = (self.positive[:kept] > 0).int() - (self.negative[:kept] > 0).int()
        powers = 2 ** torch.arange(kept - 1, -1, -1, device=digits.device)
        codes = (digits * powers.view(-1, 1, 1, 1, 1)).sum(0).int()
        largest = int(codes.abs().max())
        if largest >= 1 << kept:
            raise ValueError(f"planes: expected codes of {kept + 1} bits with their sign, got {largest}")
        return codes

    def log_step(self, index: int) -> Tensor:
        """Returns the logarithm of the step of the codes of a width, [O, 1, 1, 1]."""
        return self.log_scale + math.log(2 ** (self.count + 1 - self.widths[index]) / (2**self.count - 1))

    def hard(self, index: int) -> Tensor:
        """Returns the exact weights of the width at an index, float [O, I, kH, kW]."""
        return (self.codes(index) * self.log_step(index).exp()).contiguous(memory_format=torch.channels_last)

    def overlap(self, beta: float) -> Tensor:
        """Returns the mean of f(P) f(M), a scalar []: 0 where each digit is written in one way (1 - 1 is 0 too)."""
        return (torch.sigmoid(beta * self.positive) * torch.sigmoid(beta * self.negative)).mean()

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Sets digits and scale from weights [O, I, kH, kW]; every width then rounds them rather than truncates.

        For that each digit is the nearest one: 3 is 4 - 1 here, whose leading two planes make 4 of it; of the digits
        0 1 1 they would make 2.
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
