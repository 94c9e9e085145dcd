"""What a calibration is asked to do: the pictures, the widths, how weights are rounded, and what a picture becomes."""

from dataclasses import dataclass
from pathlib import Path

from compile.calibrate.errors import CalibrationError
from compile.calibrate.preprocessing import Preprocessing

ROUNDINGS = ("nearest", "learned")


@dataclass(frozen=True)
class Widths:
    """Bits of weights and activations of all layers but the first and the last, which have 8."""

    name: str
    weights: int
    activations: int


WIDTHS = {"8": Widths("w8a8", 8, 8), "w4a8": Widths("w4a8", 4, 8), "4": Widths("w4a4", 4, 4)}


@dataclass(frozen=True)
class CalibrationSettings:
    """A calibration of float ONNX files.

    pictures: a folder of picture files. bits: a key of WIDTHS. rounding: one of ROUNDINGS. size: height and width of
    the picture, for files that leave them open. Raises CalibrationError for a word that is none of these.
    """

    pictures: Path
    preprocessing: Preprocessing
    bits: str = "8"
    rounding: str = "nearest"
    size: int | None = None

    def __post_init__(self) -> None:
        if self.bits not in WIDTHS:
            raise CalibrationError(f"--bits: expected one of {', '.join(WIDTHS)}, got {self.bits!r}")
        if self.rounding not in ROUNDINGS:
            raise CalibrationError(f"--rounding: expected one of {', '.join(ROUNDINGS)}, got {self.rounding!r}")
        if self.size is not None and self.size < 8:
            raise CalibrationError(f"--size: expected 8 pixels or more, got {self.size}")

    @property
    def widths(self) -> Widths:
        """The bits by name."""
        return WIDTHS[self.bits]

    @property
    def suffix(self) -> str:
        """What the quantized file's name has behind that of the float file."""
        return f"-{self.widths.name}" + ("" if self.rounding == "nearest" else f"-{self.rounding}")

    def require_folder(self) -> None:
        """Raises CalibrationError where the pictures are no folder."""
        if not self.pictures.is_dir():
            raise CalibrationError(
                f"--calibrate {self.pictures}: expected a folder of pictures, but there is no such folder"
            )
