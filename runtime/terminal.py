"""Gives every command the same manners at a terminal: printing, Ctrl-C, closed pipes and one-line errors."""

import argparse
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it: 128 + SIGINT


@contextmanager
def terminal(interrupted: str = "") -> Iterator[None]:
    """Wraps a whole command so that it ends politely at any terminal.

    Letters that the terminal cannot show are escaped. A reader that has closed the pipe (`| head`) is no error, output
    that cannot be written for another reason is one. Ctrl-C prints "interrupted" and the text `interrupted`, and exits
    with INTERRUPTED. All other exceptions pass.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted{interrupted}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        error = _flush()
    if error is not None and not isinstance(error, BrokenPipeError):
        sys.exit(f"error: expected an output that can be written to, got: {error.strerror}")


def say(text: str) -> None:
    """Prints a line at once, or nothing when the reader has closed the pipe. Raises OSError for any other failure."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _flush()


def _flush() -> OSError | None:
    """Flushes standard output and returns the error, if any; output is then discarded, or Python would fail at exit."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


class OneLineParser(argparse.ArgumentParser):
    """A command-line parser whose errors are one line that names the help, without the usage of every flag."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit status 2 after printing the message."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")
