"""The folder of a bundle: complete or not there at all, and never in the place of anything else."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.files import alone_in, sync


def require_place(folder: Path, option: str) -> None:
    """Raises NotADirectoryError unless a folder is there, or can be made; option: the flag that names it."""
    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return
    hindrance = "cannot be written" if above.is_dir() else "is a file"
    raise NotADirectoryError(f"{option} {folder}: expected a folder, or a place to make one, but {above} {hindrance}")


def require_replaceable(out: Path) -> None:
    """Raises FileExistsError where a folder holds more than a bundle, which must not be lost."""
    real = Path(os.path.realpath(out))
    if real.exists() and not _is_only_a_bundle(real):
        raise FileExistsError(
            f"{out}: expected no such folder, or a bundle to replace and nothing else in it; choose another --out"
        )


@contextmanager
def new_bundle(out: Path) -> Iterator[Path]:
    """Gives an empty folder to fill, which becomes the bundle `out` when nothing was raised, or else disappears.

    An older bundle of that name is replaced only when the new one is complete and on disk; one that a killed build was
    about to replace comes back first. A link stays one: the bundle is made where it leads.
    Raises FileExistsError for any other folder there, BlockingIOError where another build is at work.
    """
    require_replaceable(out)
    real = Path(os.path.realpath(out))
    real.parent.mkdir(parents=True, exist_ok=True)
    partial = real.with_name(f".{real.name}.partial")
    partial.mkdir(exist_ok=True)
    try:
        with alone_in(partial):
            _bring_back(real)
            with _removed_unless_complete(partial):
                yield partial
            _replace(real, partial)
    except BlockingIOError as error:
        raise BlockingIOError(
            f"{out}: expected a place that nobody builds into, got one in which another build is at "
            "work; wait for it, or choose another --out"
        ) from error


@contextmanager
def _removed_unless_complete(partial: Path) -> Iterator[None]:
    """Empties a folder that may hold parts of a bundle that was never finished; removes it where this one is not."""
    try:
        for left_over in partial.iterdir():
            if left_over.is_dir():
                shutil.rmtree(left_over)
            else:
                left_over.unlink()
        yield
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _replace(out: Path, partial: Path) -> None:
    for path in (*partial.rglob("*"), partial):
        sync(path)
    old = _old(out)
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)  # a build that is killed now leaves none; the next one brings the old one back
    os.rename(partial, out)
    sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _bring_back(out: Path) -> None:
    """Undoes half of a replacement: where there is no bundle, the old one takes its place again."""
    old = _old(out)
    if not out.exists() and _is_only_a_bundle(old):
        os.rename(old, out)


def _old(out: Path) -> Path:
    """Returns where a bundle lies while another one takes its place."""
    return out.with_name(f".{out.name}.old")


def _is_only_a_bundle(folder: Path) -> bool:
    """Whether every file there is one that its manifest lists: what may be replaced without a loss."""
    try:
        listed = set(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]) | {"manifest.json"}
    except (OSError, KeyError, TypeError, ValueError):
        return False
    return all(str(p.relative_to(folder)) in listed for p in folder.rglob("*") if not p.is_dir())
