"""A run at work: its folder, journal and checkpoints, and what its phases have made so far."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from train.bits.configs import Configs
from train.loop import checkpoint
from train.loop.journal import Journal, JournalLine
from train.loop.parallel import Processes
from train.loop.phase import Phase
from train.loop.state import CheckpointState, Position
from train.network.network import Network

# Names of the networks in a checkpoint.
FULL_PRECISION_NETWORK = "full_precision"
SEARCH_NETWORK = "search"
STUDENT_NETWORK = "student"


@dataclass
class Run:
    """Where a run writes, how it computes, and what all its checkpoints hold.

    record: the settings that decide the result. journal: of the writing process, None in all others. operands: type of
    the numbers that convolutions multiply in training, None for the weights' own. fuses: whether networks run as fused
    code. modules: name -> network in every checkpoint. configs: the bits found so far. initialise: gives a student the
    integers that a search has learned, None where it starts from the full-precision weights alone.
    """

    folder: Path
    record: dict[str, Any]
    processes: Processes
    journal: Journal | None
    console: Console
    checkpoint_seconds: float = math.inf
    operands: torch.dtype | None = None
    fuses: bool = False
    modules: dict[str, nn.Module] = field(default_factory=dict)
    configs: Configs | None = None
    initialise: Callable[[Network], None] | None = None
    last_checkpoint: Path | None = None

    def write_line(self, line: JournalLine) -> None:
        """Writes a line of the journal; in the writing process only."""
        if self.journal is not None:
            self.journal.write(line)

    def record_configs(self, configs: Configs) -> None:
        """Makes these the run's configurations, and writes configs.json in the writing process."""
        self.configs = configs
        if self.processes.writes:
            configs.write(self.folder)

    def write_checkpoint(self, phase: Phase, position: Position) -> None:
        """Writes a checkpoint inside a phase; in the writing process only."""
        self._write(phase.name, position, phase.optimizer, phase.names)

    def write_end(self, phase: str) -> None:
        """Writes a checkpoint that says that a phase has ended; in the writing process only."""
        self._write(phase, None, None, [])

    def _write(
        self, phase: str, position: Position | None, optimizer: torch.optim.Optimizer | None, names: list[str]
    ) -> None:
        if self.journal is None:
            return
        state = CheckpointState(phase, position, self.record, self.journal.write_to_disk(), self.configs)
        self.last_checkpoint = checkpoint.save_checkpoint(self.folder, self.modules, optimizer, names, state)
