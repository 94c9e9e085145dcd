"""What one phase of training is: which parameters learn how fast, from which pictures, and by which losses."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.data.batches import Batches, Order
from train.network.network import FULL, Network

WARM_UP = 0.05  # share of a phase's steps in which the learning rate rises
BETAS = (0.9, 0.99)  # of Adam
TEMPERATURE = 2.0  # of the distillation
TEACHER_SHARE = 0.5  # of the teacher in the loss, the rest is the labels'


@dataclass
class Phase:
    """Training of one network; every kind of phase says by which losses.

    loss_names: of the losses of a step, in order. lr: the largest learning rate. teacher: the network whose answers are
    learned from beside the labels, or None.
    """

    name: str
    net: nn.Module
    loss_names: tuple[str, ...]
    epochs: int
    lr: float
    teacher: Network | None = None
    fusible = False  # whether every step has the same operations, for few variants

    def __post_init__(self) -> None:
        rates = self.parameters_by_rate()
        self.names = [name for _, named in rates for name, _ in named]
        self.parameters = [parameter for _, named in rates for _, parameter in named]
        groups = [{"params": [parameter for _, parameter in named], "peak": rate} for rate, named in rates]
        self.optimizer = torch.optim.Adam(groups, lr=self.lr, betas=BETAS, fused=True)

    def parameters_by_rate(self) -> list[tuple[float, list[tuple[str, nn.Parameter]]]]:
        """Returns what is trained: (largest learning rate, named parameters) of each part of the network."""
        # Adam needs no momentum for what has no gradient: the full-precision variant of a network of variants rests.
        resting = () if FULL in self.loss_names else (f".variants.{FULL}.",)
        trained = [(n, p) for n, p in self.net.named_parameters() if not any(part in n for part in resting)]
        return [(self.lr, trained)]

    def orders(self, batches: Batches, epoch: int) -> list[Order]:
        """Returns the orders of pictures that an epoch learns from."""
        return [batches.order(self.name, epoch)]

    def losses(self, batches: Batches, orders: list[Order], epoch: int, step: int) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, scalar loss) of one step, each to be differentiated before the next is asked for."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Keeps parameters in their ranges after each step of the optimizer."""

    def measurements(self) -> dict[str, float]:
        """Returns the numbers that the journal gets beside the losses."""
        return {}


@dataclass(frozen=True, eq=False)
class Feed:
    """Variants that learn from the same pictures; own: which views are theirs, bool [F, N], None for all alike."""

    variants: tuple[str, ...]
    own: Tensor | None = None


@dataclass
class VariantsPhase(Phase):
    """Training of a network's variants: the full-precision one from labels, or quantized ones with a teacher as well.

    loss_names: the variants. feeds: which variants learn from which pictures; without any, all from the same.
    """

    net: Network
    feeds: tuple[Feed, ...] = ()
    fusible = True

    def __post_init__(self) -> None:
        self.feeds = self.feeds or (Feed(self.loss_names),)
        super().__post_init__()

    def orders(self, batches: Batches, epoch: int) -> list[Order]:
        """Returns one order of pictures for each feed."""
        return [batches.order(self.name, epoch, feed.own) for feed in self.feeds]

    def losses(self, batches: Batches, orders: list[Order], epoch: int, step: int) -> Iterator[tuple[str, Tensor]]:
        """Yields (variant, scalar loss) of one step: every variant on the batch of its feed."""
        for feed, order in zip(self.feeds, orders, strict=True):
            pictures, labels = batches.get(order, self.name, epoch, step)
            taught = teacher_logits(self.teacher, pictures)
            for variant in feed.variants:
                yield variant, distillation_loss(self.net(pictures, variant), labels, taught) / batches.batch

    def after_step(self) -> None:
        """Keeps the gains of batch norms positive, so that they fold into multipliers."""
        self.net.keep_gains_positive()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Returns the rate of a step out of `steps`: a linear warm-up to the peak, then a cosine to zero."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@torch.no_grad()
def teacher_logits(teacher: Network | None, pictures: Tensor) -> Tensor | None:
    """Returns a teacher's logits float32 [B, classes] of pictures uint8 [B, H, W, 3]; None without a teacher."""
    return None if teacher is None else teacher(pictures)


def distillation_loss(logits: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
    """Returns the scalar loss of logits [B, classes], summed over the batch (Hinton et al. 2015, arXiv 1503.02531).

    It is the cross entropy with labels int64 [B], mixed with the divergence from the teacher's softened answers, where
    the logits `taught` [B, classes] are given.
    """
    loss = F.cross_entropy(logits, labels, reduction="sum")
    if taught is None:
        return loss
    student = F.log_softmax(logits / TEMPERATURE, 1)
    teacher = F.log_softmax(taught / TEMPERATURE, 1)
    # T^2 keeps the gradient's size, which falls with the square of the temperature.
    divergence = F.kl_div(student, teacher, reduction="sum", log_target=True) * TEMPERATURE**2
    return (1 - TEACHER_SHARE) * loss + TEACHER_SHARE * divergence
