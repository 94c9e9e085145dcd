"""The bit policy: for every open layer a distribution over widths that may depend on the quality of the picture.

    mu_l(q) = b_min + (b_max - b_min) * sigmoid(u_l + v_l . q),   s_l = softplus(t_l) + 0.1
    p_l(b | q) ~ exp(-(b - mu_l(q))**2 / (2 s_l**2)),   b in the candidate widths

There is one such discretised Gaussian for weights and one for activations. v starts at 0: whether quality has to do
with bits, and in which direction, is learned.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_DEVIATION = 0.1  # of a distribution, in bits
FIRST_U = 0.5  # a mean above the middle
FIRST_T = 1.5  # a deviation of some 1.8 bits
OPEN_INTERVAL = (1e-20, 1 - 1e-7)  # that uniform numbers are kept in, for their logarithms


class Policy(nn.Module):
    """Parameters u and t float32 [L, 2], and v float32 [L, 2, D], of the distributions of L layers.

    widths: candidates, ascending; features: length D of the quality vector q.
    """

    widths: Tensor

    def __init__(self, layers: int, widths: tuple[int, ...], features: int):
        super().__init__()
        self.register_buffer("widths", torch.tensor(widths, dtype=torch.float32))
        self.u = nn.Parameter(torch.full((layers, 2), FIRST_U))
        self.v = nn.Parameter(torch.zeros(layers, 2, features))
        self.t = nn.Parameter(torch.full((layers, 2), FIRST_T))

    def mean(self, q: Tensor) -> Tensor:
        """Returns the means mu [..., L, 2] in bits, of quality vectors q [..., D]."""
        low, high = self.widths[0], self.widths[-1]
        return low + (high - low) * torch.sigmoid(self.u + torch.einsum("lhd,...d->...lh", self.v, q))

    def forward(self, q: Tensor) -> Tensor:
        """Returns log p [..., L, 2, W] of quality vectors q [..., D]; head 0 is for weights, 1 for activations."""
        deviation = F.softplus(self.t) + LEAST_DEVIATION
        distance = (self.widths - self.mean(q)[..., None]) / deviation[..., None]
        return F.log_softmax(-0.5 * distance**2, -1)


def sample(log_p: Tensor, temperature: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws a configuration of log p [L, 2, W]: returns one-hot y [L, 2, W] and its indices int64 [L, 2].

    It is drawn by the straight-through Gumbel softmax (Jang et al. 2017, arXiv 1611.01144): y's gradient is that of the
    softmax at the temperature.
    """
    uniform = torch.rand(log_p.shape, generator=rng).clamp(*OPEN_INTERVAL).to(log_p.device)
    gumbel = -(-uniform.log()).log()
    soft = torch.softmax((log_p + gumbel) / temperature, -1)
    indices = soft.argmax(-1)
    hard = F.one_hot(indices, log_p.shape[-1]).to(soft)
    return hard + soft - soft.detach(), indices


def log_probability(log_p: Tensor, indices: Tensor) -> Tensor:
    """Returns the scalar log probability of a configuration, indices int64 [L, 2], under log p [L, 2, W]."""
    return log_p.gather(-1, indices[..., None]).sum()


def entropy(log_p: Tensor) -> Tensor:
    """Returns the scalar entropy of log p [L, 2, W], in nats, as the mean over layers and heads."""
    return -(log_p.exp() * log_p).sum(-1).mean()


def policy_gradient(log_p: Tensor, indices: list[Tensor], rewards: list[float]) -> Tensor:
    """Returns a scalar whose gradient is REINFORCE's for samples int64 [L, 2] of log p [L, 2, W], with their rewards.

    Each sample's baseline is the mean reward of the others (Kool et al. 2019); the gradient is 0 for one sample alone.
    """
    count = len(rewards)
    if count < 2:
        return log_p.sum() * 0
    advantages = [reward - (sum(rewards) - reward) / (count - 1) for reward in rewards]
    terms = [a * log_probability(log_p, drawn) for a, drawn in zip(advantages, indices, strict=True)]
    return -sum(terms[1:], terms[0]) / count
