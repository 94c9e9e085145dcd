"""What a build and a profile are asked to do, checked as far as can be told before any of the work."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compile.bundle.folder import require_place, require_replaceable
from compile.qdq.normalization import Normalization
from targets import Target


class BuildError(ValueError):
    """Settings that cannot be followed; the message says what was expected, what they are and what to do."""


@dataclass(frozen=True)
class BuildSettings:
    """A build: the networks, the target, and where things go.

    sources: a run folder or ONNX files; none: the newest run under runs/. out: the bundle, bundles/<name>-<target>
    where it is left out. dump: a folder for readable files of every stage. source_only: leave out what needs the
    target's own compiler. golden: pictures that the compiled code must reproduce during the build (all of them travel
    with the bundle). times: time kernels where the target's code runs here; times are no part of the bundle. batch:
    pictures that the compiled code takes at once, on a GPU. normalization, labels: of ONNX files, how their float
    picture is made, and a text file with a class a line. every_table: make the table of layers of every variant, not
    only of the first of those that share their code. Raises BuildError for numbers that are too small.
    """

    target: Target
    sources: tuple[Path, ...] = ()
    out: Path | None = None
    dump: Path | None = None
    source_only: bool = False
    golden: int = 4
    times: bool = True
    batch: int = 1
    normalization: Normalization | None = None
    labels: Path | None = None
    every_table: bool = False

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
            raise BuildError(f"--labels {self.labels}: expected a text file, a class a line, but there is no such file")
        if self.dump is not None:
            require_place(self.dump, "--dump")
        if self.out is not None:
            require_place(self.out, "--out")
            require_replaceable(self.out)

    def place_for(self, name: str) -> Path:
        """Returns the folder of the bundle for networks of that name."""
        return self.out or Path("bundles") / f"{name}-{self.target.name.replace(':', '-')}"


def require_sources(paths: Sequence[Path]) -> None:
    """Raises BuildError unless the paths are a run folder, or ONNX files, that are there."""
    for path in paths:
        if not path.exists():
            raise BuildError(
                f"{path}: expected a run folder or .onnx files, but there is no such {_kind_of_name(path)}; "
                "check the path"
            )
        if path.is_dir() and len(paths) > 1:
            raise BuildError(f"{path}: expected one run folder, or .onnx files alone, got a folder among others")
        if path.is_dir() and not (path / "run.json").exists():
            raise BuildError(
                f"{path}: expected a run folder, which holds run.json, got a folder without one; an interrupted run "
                "is finished by `python -m train.run ... --resume`"
            )
        if path.is_file() and path.suffix != ".onnx":
            raise BuildError(f"{path}: expected a run folder or .onnx files, got a file of another kind")


def _kind_of_name(path: Path) -> str:
    return "file" if path.suffix else "folder"


@dataclass(frozen=True)
class ProfileSettings:
    """A profile: the layers to measure, the target and what measures them.

    sources: a run folder or ONNX files whose layers are measured; none: all layers that any target's table knows.
    bits: pairs such as "w4a8" that layers are measured at beside their own. out: the table, the target's own where it
    is left out. again: measure anew what the table has. board: HOST:PORT of an RPC server. core: the processor core
    of this machine to stay on.
    """

    target: Target
    sources: tuple[Path, ...] = ()
    bits: tuple[str, ...] = ()
    out: Path | None = None
    again: bool = False
    board: str | None = None
    core: int | None = None
