"""The bit policy: for every open layer a distribution over widths that may depend on the quality of the picture.

    mu_l(q) = b_min + (b_max - b_min) * sigmoid(u_l + v_l . q),   s_l = softplus(t_l) + 0.1
    p_l(b | q) ~ exp(-(b - mu_l(q))**2 / (2 s_l**2)),   b in the candidate widths

one such discretised Gaussian for weights and one for activations. v starts at 0: what quality has to do with bits,
and in which direction, is only learned.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_DEVIATION = 0.1  # of a distribution, in bits
FIRST_U, FIRST_T = 0.5, 1.5  # a mean above the middle, and a deviation of some 1.8 bits


class Policy(nn.Module):
    """layers: how many are open; widths: candidates, ascending; features: length of the quality vector q."""

    def __init__(self, layers: int, widths: tuple[int, ...], features: int):
        super().__init__()
        self.register_buffer("widths", torch.tensor(widths, dtype=torch.float32))
        self.u = nn.Parameter(torch.full((layers, 2), FIRST_U))
        self.v = nn.Parameter(torch.zeros(layers, 2, features))
        self.t = nn.Parameter(torch.full((layers, 2), FIRST_T))

    def mean(self, q: Tensor) -> Tensor:
        """mu [..., L, 2] in bits, of q [..., D]."""
        low, high = self.widths[0], self.widths[-1]
        return low + (high - low) * torch.sigmoid(self.u + torch.einsum("lhd,...d->...lh", self.v, q))

    def forward(self, q: Tensor) -> Tensor:
        """log p [..., L, 2, W] of standardized quality q [..., D]; head 0 is for weights, 1 for activations."""
        distance = (self.widths - self.mean(q)[..., None]) / (F.softplus(self.t) + LEAST_DEVIATION)[..., None]
        return F.log_softmax(-0.5 * distance**2, -1)


def sample(log_p: Tensor, temperature: float, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """A configuration by the Gumbel trick: (y [L, 2, W], indices int64 [L, 2]).

    y is one-hot; its gradient is that of the softmax at the temperature (straight through).
    """
    uniform = torch.rand(log_p.shape, generator=chance).clamp(1e-20, 1 - 1e-7).to(log_p.device)
    soft = torch.softmax((log_p - (-uniform.log()).log()) / temperature, -1)
    indices = soft.argmax(-1)
    hard = F.one_hot(indices, log_p.shape[-1]).to(soft)
    return hard + soft - soft.detach(), indices


def log_probability(log_p: Tensor, indices: Tensor) -> Tensor:
    """Of the whole configuration: sum over layers and heads of log p at indices int64 [L, 2]."""
    return log_p.gather(-1, indices[..., None]).sum()


def entropy(log_p: Tensor) -> Tensor:
    """Mean over layers and heads, in nats."""
    return -(log_p.exp() * log_p).sum(-1).mean()


def policy_gradient(log_p: Tensor, indices: list[Tensor], rewards: list[float]) -> Tensor:
    """A loss whose gradient is REINFORCE's, each sample's baseline being the mean reward of the others; 0 for one."""
    count = len(rewards)
    if count < 2:
        return log_p.sum() * 0
    advantages = [reward - (sum(rewards) - reward) / (count - 1) for reward in rewards]
    return -sum(a * log_probability(log_p, i) for a, i in zip(advantages, indices, strict=True)) / count
