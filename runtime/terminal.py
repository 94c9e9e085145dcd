"""What all commands do at a terminal: print to any, end quietly with its reader, and with one line at Ctrl-C."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

INTERRUPTED = 130  # exit status, as shells tell of Ctrl-C


@contextmanager
def terminal(interrupted: str = "") -> Iterator[None]:
    """Around a whole command.

    Letters that the terminal lacks are escaped. A reader that has gone (`| head`) is no error; what could not be
    printed for another reason is one. Ctrl-C exits with 130 and says so, and `interrupted`. Other errors pass.
    """
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted{interrupted}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        lost = _flush()
    if lost is not None and not isinstance(lost, BrokenPipeError):
        sys.exit(f"error: expected an output that takes what is printed, got: {lost.strerror}")


def say(text: str) -> None:
    """Prints a line now; nothing any more once the reader has gone. Raises OSError where it cannot be printed."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _flush()


def _flush() -> OSError | None:
    """Empties the buffer; what cannot be printed goes nowhere, since Python would try again, and fail, at its end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


class OneLineParser(argparse.ArgumentParser):
    """A parser of command lines whose errors are one line that names the help, without the usage of every flag."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with status 2 and the message."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")
