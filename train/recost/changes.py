"""What can change about a run without training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Changes:
    """Settings of a run that can change without training; None for what the run had."""

    cost: str | None = None
    target: str | None = None
    budget: float | None = None
    escalate: bool | None = None
    unseen_loss: float | None = None
