"""What tests of training share: a run that writes nothing, a session that holds only what is asked for, and a kill."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from train.loop import checkpoint
from train.loop.parallel import Processes
from train.loop.run import Run
from train.loop.session import Resume, Session
from train.loop.state import CheckpointState
from train.settings.settings import Settings


def quiet_run(folder: Path = Path(), **more) -> Run:
    """The run of a process that writes nothing."""
    return Run(folder, {}, Processes(rank=1), None, Console(quiet=True), **more)


def bare_session(settings: Settings, run: Run | None = None) -> Session:
    """A session without pictures and networks."""
    return Session(settings, quiet_run() if run is None else run, None, None, None, Resume())


class Killed(BaseException):
    """As kill -9 would, a moment after a checkpoint was written."""


@contextmanager
def killed_after_checkpoint(condition: Callable[[CheckpointState], bool]) -> Iterator[None]:
    """Inside, training is killed after the first checkpoint for which the condition is true; fails where none is."""
    save = checkpoint.save_checkpoint

    def save_and_die(folder, modules, optimizer, names, state):
        path = save(folder, modules, optimizer, names, state)
        if condition(state):
            raise Killed
        return path

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "save_checkpoint", save_and_die)
        yield
