"""What a build and a profile are asked to do, checked as far as can be told before any of the work."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compile.bundle.folder import require_place, require_replaceable
from compile.calibrate.settings import CalibrationSettings
from compile.forms.options import NOTHING_OPEN, FormOptions
from compile.qdq.normalization import Normalization
from targets import Target

NETWORK_FILES = (".onnx", ".tflite")


class BuildError(ValueError):
    """Settings that cannot be followed; the message says what was expected, what they are and what to do."""


@dataclass(frozen=True)
class BuildSettings:
    """A build: the networks, the target, and where things go. Raises BuildError for numbers that are too small."""

    target: Target
    sources: tuple[Path, ...] = ()  # a run folder, or ONNX or TFLite files; none: the newest run under runs/
    out: Path | None = None  # the bundle; None: bundles/<name>-<target>
    dump: Path | None = None  # a folder for readable files of every stage
    source_only: bool = False  # leave out what needs the target's own compiler
    golden: int = 4  # pictures that the compiled code must reproduce now; all of them travel with the bundle
    times: bool = True  # time kernels where the target's code runs here; times are no part of the bundle
    batch: int = 1  # pictures that the compiled code takes at once, on a GPU; fewer cost as much
    normalization: Normalization | None = None  # of files whose picture is float, or int8 of another range
    form: FormOptions = NOTHING_OPEN  # what ONNX files leave open
    labels: Path | None = None  # of files: a text file with a class per line
    report: Path | None = None  # an HTML page of what came of it
    calibration: CalibrationSettings | None = None  # of float ONNX files, which are quantized first
    every_table: bool = False  # make tables of layers for every variant, not only for each distinct code

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise BuildError(f"--batch: expected at least 1 picture, got {self.batch}")
        if self.golden < 1:
            raise BuildError(
                f"--golden: expected at least 1 picture to check the compiled code with, got {self.golden}"
            )

    def require_files(self) -> None:
        """Raises BuildError or OSError where a source is missing or a place cannot be written."""
        require_sources(self.sources)
        if self.labels is not None and not self.labels.is_file():
            raise BuildError(
                f"--labels {self.labels}: expected a text file, one class per line, but there is no such file"
            )
        if self.calibration is not None:
            self.calibration.require_folder()
            require_place(self.quantized_files, "--out")
        if self.dump is not None:
            require_place(self.dump, "--dump")
        if self.report is not None:
            require_place(self.report.parent, "--report")
            if self.report.is_dir():
                raise BuildError(f"--report {self.report}: expected the name of an HTML file, got a folder")
        if self.out is not None:
            require_place(self.out, "--out")
            require_replaceable(self.out)

    @property
    def quantized_files(self) -> Path:
        """The folder of files that calibration makes, beside the bundle."""
        return self.out.parent if self.out is not None else Path("bundles")

    def place_for(self, name: str) -> Path:
        """Returns the folder of the bundle for networks of that name."""
        return self.out or Path("bundles") / f"{name}-{self.target.name.replace(':', '-')}"


def require_sources(paths: Sequence[Path]) -> None:
    """Raises BuildError unless the paths are a run folder, or ONNX or TFLite files, that are there."""
    for path in paths:
        if not path.exists():
            raise BuildError(
                f"{path}: expected a run folder, .onnx or .tflite files, but there is no such {_kind_of_name(path)}; "
                "check the path"
            )
        if path.is_dir() and len(paths) > 1:
            raise BuildError(f"{path}: expected one run folder, or files alone, got a folder among others")
        if path.is_dir() and not (path / "run.json").exists():
            raise BuildError(
                f"{path}: expected a run folder, which holds run.json, got a folder without one; if this is an "
                "interrupted run, finish it with `python -m train.run ... --resume`"
            )
        if path.is_file() and path.suffix not in NETWORK_FILES:
            raise BuildError(f"{path}: expected a run folder, .onnx or .tflite files, got a file of another kind")


def _kind_of_name(path: Path) -> str:
    return "file" if path.suffix else "folder"


@dataclass(frozen=True)
class ProfileSettings:
    """A profile: the layers to measure, the target, and what measures them."""

    target: Target
    sources: tuple[
        Path, ...
    ] = ()  # a run folder, or ONNX or TFLite files; none: all layers that any target's table knows
    bits: tuple[str, ...] = ()  # pairs such as "w4a8" that layers are measured at beside their own
    out: Path | None = None  # the table; None: the target's own
    again: bool = False  # measure anew what the table has
    board: str | None = None  # HOST:PORT of an RPC server
    core: int | None = None  # the processor core of this machine to stay on
