"""How many bit planes of each layer's weights count in CSQ: gates over a real depth, sharpened by a temperature."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.bits.cost import CostTable
from train.network.relaxed import Mixture, RelaxedNetwork
from train.search.shared import common_offsets

ANNEALED = 0.9  # share of the steps in which the temperatures rise
SHARPEST = 200.0  # temperature beta of digits in the end, 1 in the beginning
SHARPEST_GATES = 20.0  # temperature beta_g of gates in the end: a depth moves in whole bits


class Depths(nn.Module):
    """A real depth for every open layer: how many magnitude bits of its weights count.

    depth: parameter float32 [L]. ranks: buffer [W - 1], the depth at which the planes of each next width begin to
    count. ends: buffer [2], least and largest depth. progress: buffer float64 scalar, share of the steps that are done.
    first: stored width, sign included, that all layers start with.
    """

    ranks: Tensor
    ends: Tensor
    progress: Tensor

    def __init__(self, layers: int, widths: tuple[int, ...], first: float):
        super().__init__()
        stored = torch.tensor(widths, dtype=torch.float32)
        self.register_buffer("ranks", (stored[:-1] + stored[1:]) / 2 - 1)
        self.register_buffer("ends", stored[[0, -1]] - 1)
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self.depth = nn.Parameter(torch.full((layers,), first - 1.0))

    def forward(self, beta: float) -> Tensor:
        """Returns shares [L, W] of the widths: what the gates of each one's planes pass beyond those of the next."""
        gates = torch.sigmoid(beta * (self.depth[:, None] - self.ranks))
        return F.pad(gates, (1, 0), value=1.0) - F.pad(gates, (0, 1))

    def round(self, table: CostTable, a_index: int, budget: float) -> Tensor:
        """Returns indices int64 [L, 2] of the nearest widths after the largest common offset within the budget.

        a_index: of the width of all activations.
        """
        ranks = self.ranks.cpu().double()
        offsets = common_offsets(float(self.ends[1] - self.ends[0]))
        weights = torch.bucketize(self.depth.detach().cpu().double() + offsets[:, None], ranks)
        indices = torch.stack([weights, torch.full_like(weights, a_index)], -1)
        return table.first_within(budget, indices, table.widths[a_index])


def temperatures(progress: float) -> tuple[float, float]:
    """Returns (beta, beta_g) after a share of the steps, 0..1: both rise exponentially until ANNEALED."""
    risen = min(progress / ANNEALED, 1.0)
    return SHARPEST**risen, SHARPEST_GATES**risen


def mix_weights(shares: Tensor, a_index: int, beta: float | None) -> Mixture:
    """Returns the mixture of shares [L, W] of the weights' widths, and one width of all activations.

    beta: temperature of the digits, None for exact bits.
    """
    a = F.one_hot(torch.tensor(a_index), shares.shape[1]).to(shares)
    a_values = a.tolist()
    rows = tuple(row for w in shares.unbind(0) for row in (w, a))
    return Mixture(rows, [[w_values, a_values] for w_values in shares.tolist()], beta=beta)


def mix_exactly(indices: Tensor, net: RelaxedNetwork, beta: float | None = None) -> Mixture:
    """Returns the mixture of a single configuration, indices int64 [L, 2]; of exact bits where no beta is given."""
    weights = F.one_hot(indices[:, 0], len(net.widths)).float().to(net.zero_point.device)
    return mix_weights(weights, int(indices[0, 1]), beta)
