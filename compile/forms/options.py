"""What a file may leave open, and the command line says."""

from dataclasses import dataclass

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class FormOptions:
    """output: the name of the logits among several outputs; size: of a picture whose height and width are free."""

    output: str | None = None
    size: Size | None = None


NOTHING_OPEN = FormOptions()
