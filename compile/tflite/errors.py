"""The error for a .tflite file that cannot be taken."""

from typing import Any


class TfliteError(ValueError):
    """The file cannot be taken; the message names the operator or tensor, what was expected, what it has, what to do.

    It is one line, whatever names the file holds.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def refusal(where: str, expected: str, actual: Any, advice: str = "") -> TfliteError:
    """Returns the error for an operator or tensor (where) that is not as expected; advice: what the user can do."""
    return TfliteError(f"{where}: expected {expected}, got {actual}" + (f"; {advice}" if advice else ""))


def require(fits: bool, where: str, expected: str, actual: Any, advice: str = "") -> None:
    """Raises the TfliteError of `refusal` unless `fits`."""
    if not fits:
        raise refusal(where, expected, actual, advice)
