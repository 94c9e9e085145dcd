"""Gives every command the same manners at a terminal: printing, Ctrl-C, closed pipes and one-line errors."""

import argparse
import difflib
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from runtime.version import VERSION

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it: 128 + SIGINT
REFUSED = 2  # exit status of a command that cannot be run as asked, as argparse has it
CONSOLE = "bitgrade "  # begins the names of commands that bitgrade's console command starts


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
        fail(f"expected an output that can be written to, got: {error.strerror}")


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


def fail(message: str) -> NoReturn:
    """Ends the program with exit status 2 after one line on standard error."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(REFUSED)


def fail_with_help(message: str, program: str) -> NoReturn:
    """Ends the program as `fail` does, after naming its help; program: what the user calls it."""
    fail(f"{message}{' See' if message.endswith('?') else '; see'} {program} --help")


def program(module: str) -> str:
    """Returns how the user started a module: "bitgrade run" by the console command, else "python -m runtime"."""
    return sys.argv[0] if sys.argv[0].startswith(CONSOLE) else f"python -m {module}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns "; did you mean X?" for the known word that is nearest to a wrong one, "" where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class OneLineParser(argparse.ArgumentParser):
    """A command-line parser with --version, whose errors are one line that names the help and the nearest option."""

    def __init__(self, add_help: bool = True, **options: Any) -> None:
        super().__init__(add_help=False, **options)
        if add_help:
            self.add_argument("-h", "--help", action="help", help="Shows this help.")
            add_version(self)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Returns the options of a command line; a word that no option takes ends the program."""
        options, left_over = self.parse_known_args(args, namespace)
        if left_over:
            self.refuse(left_over)
        return options

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Ends the program for words that no option takes, and names the option that is nearest to the first flag."""
        flags = [word.partition("=")[0] for word in words if word.startswith("-")]
        near = did_you_mean(flags[0], self._option_string_actions) if flags else ""
        self.error(f"unrecognized arguments: {' '.join(words)}{near}")

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit status 2 after printing the message."""
        fail_with_help(message, self.prog)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuses a value that is not among an option's choices, as argparse does, and names the nearest."""
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            near = did_you_mean(str(value), known)
            raise argparse.ArgumentError(action, f"expected one of {', '.join(known)}, got {value!r}{near}")


def add_version(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds the flag that prints the version and ends the program."""
    parser.add_argument("--version", action="version", version=f"bitgrade {VERSION}", help="Shows bitgrade's version.")
