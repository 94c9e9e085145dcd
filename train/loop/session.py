"""What every phase of a run works with, and where a run that was interrupted goes on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from train.data.batches import Batches, Held
from train.loop import checkpoint
from train.loop.phase import Phase
from train.loop.run import Run
from train.loop.state import PHASES, CheckpointState, Position
from train.loop.training import train_phase
from train.network.network import Network
from train.settings.settings import Settings


@dataclass(frozen=True, eq=False)
class Resume:
    """Where a run goes on: the state and the tensors [...] of a checkpoint; without a state it begins anew."""

    state: CheckpointState | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_folder(cls, folder: Path) -> "Resume":
        """Returns what the last checkpoint of a run's folder holds. Raises CheckpointError where there is none."""
        tensors, state = checkpoint.load_checkpoint(folder)
        return cls(state, tensors)

    def inside(self, phase: str) -> bool:
        """Returns whether the checkpoint was taken in the midst of this phase."""
        return self.state is not None and self.state.phase == phase and self.state.position is not None

    def past(self, phase: str) -> bool:
        """Returns whether this phase had ended when the checkpoint was taken."""
        if self.state is None:
            return False
        if self.state.phase == phase:
            return self.state.position is None
        return PHASES.index(self.state.phase) > PHASES.index(phase)

    def fill_module(self, module: nn.Module, name: str) -> None:
        """Puts the checkpoint's tensors of a network into it. Raises CheckpointError where they do not fit."""
        checkpoint.fill_module(module, self.tensors, name)

    def restore(self, phase: Phase) -> Position | None:
        """Gives a phase its optimizer's saved state and returns where it goes on; None where it begins."""
        if self.state is None or not self.inside(phase.name):
            return None
        checkpoint.restore_optimizer(phase.optimizer, phase.names, self.tensors)
        return self.state.position


@dataclass(frozen=True, eq=False)
class Networks:
    """The networks that all others come from: the full-precision one, and the teacher, which may be the same."""

    full_precision: Network
    teacher: Network


@dataclass(frozen=True, eq=False)
class Session:
    """What every phase of a run works with; held: pictures of mixed quality that training is watched by."""

    settings: Settings
    run: Run
    batches: Batches
    held: Held
    networks: Networks
    resume: Resume

    def train(self, phase: Phase, validate: Callable[[], dict[str, float]]) -> None:
        """Trains a phase from its beginning, or from where the checkpoint was taken inside it.

        validate: measures what the journal gets after each epoch. Raises TrainingError for a loss that is not finite.
        """
        train_phase(phase, self.run, self.batches, self.resume.restore(phase), validate)
