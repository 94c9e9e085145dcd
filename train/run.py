"""Trains a family of integer networks: pictures in, a run folder with one ONNX file per variant out."""

import os
from collections.abc import Sequence
from pathlib import Path

from runtime.terminal import fail, terminal
from train.data.folder import check_folder
from train.data.names import FOLDER
from train.loop.run_folder import check_own, require_checkpoint
from train.settings.command_line import parse
from train.settings.settings import Settings


def check_files(settings: Settings) -> None:
    """Raises ValueError or OSError where what is in the folders that were named shows that the run cannot begin.

    It reads no picture and needs no torch, so that a mistake is told within a second.
    """
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first writes, while others may still look
        check_own(settings.folder)
    if settings.place.resume:
        require_checkpoint(settings.folder, "--resume")
    if settings.training.start is not None:
        require_checkpoint(settings.training.start, "--start")
    if settings.data.dataset.startswith(FOLDER):
        check_folder(Path(settings.data.dataset.removeprefix(FOLDER)))


def run_training(settings: Settings) -> None:
    """Trains, evaluates and exports one run; a process that does not write only trains.

    Raises ValueError (SettingsError, CheckpointError, ...), TrainingError or OSError, each with one line that says what
    to do.
    """
    # Imported here, so that a wrong command line is refused before torch has loaded.
    from train.finish import finish
    from train.learn import learn
    from train.loop.run_folder import alone

    family = learn(settings)
    if family is not None:
        with alone(settings.folder):
            finish(settings, family.dataset, family.full_precision, family.student, family.configs, family.device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line, and ends the program with one line where that fails."""
    settings = parse(arguments)
    try:
        check_files(settings)
    except (ValueError, OSError) as error:
        fail(str(error))
    from train.loop.allocator import keep_freed_memory
    from train.loop.parallel import leave_processes
    from train.loop.training import TrainingError

    try:
        _use_all_cores()
        keep_freed_memory()
        run_training(settings)
    except (TrainingError, ValueError, OSError) as error:
        fail(str(error))
    finally:
        leave_processes()


def _use_all_cores() -> None:
    """Lets torch use all cores of this process, unless the environment says otherwise (torchrun says one)."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    with terminal("; the same command with --resume goes on from the last checkpoint"):
        main()
