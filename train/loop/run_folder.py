"""The folder that a run is written into: an empty one or an earlier run's, whose parts go before new ones come."""

import json
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from runtime.files import alone_in
from train.settings.options import SettingsError

SETTINGS = "settings.json"
CONFIG = "settings.toml"  # the same settings, for --config
KNOWN = {"dataset", "arch", "hold_out", "budget"}  # settings that every run's file has, and hardly another program's
EVALUATION = "evaluation"  # folder of the parts of an evaluation that are done
CHECKPOINT_FILE = "checkpoint/last.safetensors"
PARTS = ("checkpoint", EVALUATION, "run.json", "results.json", "configs.json", "outcomes.npz")


class CheckpointError(ValueError):
    """There is no checkpoint to go on from, or it belongs to another run; the message says what to do."""


def require_checkpoint(folder: Path, flag: str) -> None:
    """Raises CheckpointError, which names the flag that asked for it, where a run's folder holds no checkpoint."""
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        raise CheckpointError(f"{flag}: there is no {path}; start without {flag}, or give the folder of an earlier run")


def clear(folder: Path, keep: Collection[str] = ()) -> None:
    """Deletes the files that make an earlier run's folder a run, all but some of PARTS."""
    for path in (*(folder / name for name in PARTS if name not in keep), *folder.glob("*.onnx")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def check_own(folder: Path) -> None:
    """Raises SettingsError unless the folder is missing, empty, or an earlier run's; touches nothing."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SettingsError(f"--out {folder}: expected a folder, got a file; name another")
    names = sorted(p.name for p in folder.iterdir())
    if names and not _is_settings_of_a_run(folder / SETTINGS):
        raise SettingsError(
            f"--out {folder}: expected no such folder, an empty one, or that of an earlier run with its {SETTINGS}, "
            f"got one with {', '.join(names[:3])}; name another, whose files a run may replace"
        )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps a second run out of the folder, which must exist. Raises SettingsError where one is at work in it."""
    with ExitStack() as lock:
        try:
            lock.enter_context(alone_in(folder))
        except BlockingIOError as error:
            raise SettingsError(
                f"--out {folder}: expected a folder that nobody writes into, got one in which another run is at work; "
                "wait for it, or name another"
            ) from error
        yield


@contextmanager
def without_traces(folder: Path) -> Iterator[None]:
    """Deletes the folder, and those above it, after an error where the block has made them and left them empty."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):  # one that is not empty ends it
            for place in missing:
                place.rmdir()
        raise


def check_writable(flag: str, folder: Path) -> None:
    """Makes the folder where there is none. Raises SettingsError where no files can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingsError(f"{flag} {folder}: expected a folder to write into ({error}); name another") from error


def _is_settings_of_a_run(path: Path) -> bool:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and settings.keys() >= KNOWN
