"""Writes what a command found as JSON: to a file that is checked before the work, or to standard output."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from runtime.files import write_json
from runtime.terminal import say

STANDARD_OUTPUT = "-"


def require_writable(name: str, bundle: Path) -> None:
    """Raises ValueError where `write_output` could not write there, or would change the bundle; leaves nothing."""
    if name == STANDARD_OUTPUT:
        return
    path = Path(os.path.realpath(name))
    try:
        if not name or path.is_dir():
            shown = "a folder" if name else "nothing"
            raise ValueError(f"--json {name!r}: expected the name of a file, got {shown}")
        if path.is_relative_to(os.path.realpath(bundle)):
            raise ValueError(f"--json {name!r}: expected a file outside the bundle, whose files stay as built")
        if not _is_device(path):
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        raise _unwritable(name, error) from error


def write_output(name: str, content: Any) -> None:
    """Writes JSON to a file, whole or not at all, to a device or pipe, or to standard output ("-").

    Raises ValueError where a file cannot be written.
    """
    if name == STANDARD_OUTPUT:
        say(json.dumps(content, indent=1))
        return
    try:
        if _is_device(Path(name)):
            Path(name).write_text(json.dumps(content, indent=1) + "\n")
        else:
            write_json(name, content)
    except OSError as error:
        raise _unwritable(name, error) from error


def _is_device(path: Path) -> bool:
    """Whether there is something that is no file, such as a pipe: it is written to, never replaced."""
    return path.exists() and not path.is_file()


def _unwritable(name: str, error: OSError) -> ValueError:
    return ValueError(
        f"--json {name!r}: expected a file that can be written in an existing folder, got: {error.strerror}"
    )
