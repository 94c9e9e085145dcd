"""Opens a bundle: a folder with a manifest, whose every file must be there unchanged and fit this machine."""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.abi import aligned_buffer
from runtime.bundle.manifest import Build, Level, Manifest, Variant, parse
from runtime.bundle.weights import read_weights
from runtime.fields import COPY, REBUILD, BundleError
from runtime.machine import cpu, cuda

REBUILD_HERE = "sh lib/rebuild.sh, in the bundle's folder"

# family -> what knows this machine's features and its name for people; a new family is one more row
_PROCESSORS = {"x86": cpu, "arm": cpu, "cuda": cuda}


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder, what its manifest says, and its data."""

    folder: Path
    manifest: Manifest

    @property
    def variants(self) -> tuple[Variant, ...]:
        return self.manifest.variants

    def path(self, name: str) -> Path:
        """Absolute path of one of the bundle's files."""
        return self.folder / name

    def variant(self, name: str) -> Variant:
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(v.name for v in self.variants)
        raise BundleError(f"{self.folder}: expected a variant among {known}; got {name!r}")

    def library(self, variant: Variant) -> Path:
        """The variant's library; raises BundleError for a bundle of source only that nobody has compiled yet."""
        path = self.path(variant.library)
        if not path.is_file():
            raise BundleError(
                f"{self.folder}: expected the library {variant.library}, but this bundle holds source "
                f"only; compile it on this device: {REBUILD_HERE}"
            )
        return path

    def level(self, name: str | None = None) -> Level:
        """The best level that this machine runs, or the one of that name; raises BundleError where it runs none."""
        runs, levels = runnable(self.manifest), self.manifest.target.levels
        found = runs[0] if name is None else next((v for v in levels if v.name == name), None)
        if found is None:
            known = ", ".join(v.name for v in levels)
            raise BundleError(f"{self.folder}: expected a level among {known}; got {name!r}")
        if found not in runs:
            raise BundleError(f"{self.folder}: {_lacking(found, self.manifest.target.family)}; leave the level out")
        return found

    def build(self, variant: Variant, level: Level) -> Build:
        """The variant's code for a level."""
        return variant.builds[self.manifest.target.levels.index(level)]

    def weights(self, build: Build) -> np.ndarray:
        """int8 [n], unpacked as the build's kernels read them, aligned."""
        return read_weights(self.path("weights.bin"), build.segments, build.weights_bytes)

    def table(self, build: Build) -> np.ndarray:
        """int32 [m]: biases, multipliers and shifts, aligned."""
        table = aligned_buffer(build.table_bytes // 4, np.int32)
        table[:] = np.fromfile(self.path("tables.bin"), "<i4", table.size, offset=build.table_offset)
        return table

    def golden(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Pictures uint8 [G, H, W, 3] and, by variant, the exact logits int32 [G, classes] they must give."""
        (pictures,) = self._golden("images")
        count = len(np.atleast_1d(pictures))
        self._require("pictures", pictures, np.dtype(np.uint8), (count, *self.manifest.shape))
        return pictures, self.golden_logits(count)

    def golden_logits(self, count: int | None = None) -> dict[str, np.ndarray]:
        """By variant, the exact logits int32 [G, classes] of the golden pictures; count: the G to expect, if known."""
        names = [v.name for v in self.variants]
        logits = dict(zip(names, self._golden(*(f"logits_{name}" for name in names)), strict=True))
        for name, array in logits.items():
            expected = (len(np.atleast_1d(array)) if count is None else count, len(self.manifest.labels))
            self._require(f"logits of {name}", array, np.dtype(np.int32), expected)
        return logits

    def _golden(self, *names: str) -> list[np.ndarray]:
        try:
            with np.load(self.path(self.manifest.golden), allow_pickle=False) as data:
                return [data[name] for name in names]
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BundleError(
                f"{self.folder}: expected golden pictures and logits of every variant in "
                f"{self.manifest.golden}, got {error}; {REBUILD}"
            ) from error

    def _require(self, what: str, array: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        if array.dtype != dtype or array.shape != shape:
            raise BundleError(
                f"{self.folder}: expected golden {what} {dtype} {list(shape)}, "
                f"got {array.dtype} {list(array.shape)}; {REBUILD}"
            )


def newest_bundle(root: Path = Path("bundles")) -> Path:
    """The bundle under `root` that was completed last; raises BundleError where there is none."""
    found = [p for p in root.glob("*/manifest.json") if not p.parent.name.startswith(".")]
    if not found:
        raise BundleError(
            f"{root.absolute()}: expected a bundle there, found none; make one with "
            "`python -m compile.build`, or name one"
        )
    return max(found, key=lambda p: (p.stat().st_mtime_ns, p)).parent


def open_bundle(path: str | Path, verify: bool = True, here: bool = True) -> Bundle:
    """Reads and checks a bundle; raises BundleError, which says what is wrong, why, and what to do.

    verify: compare the sha256 of every file (about 1 ms per MB), and the labels with the golden logits; otherwise only
    that each file is there with its size.
    here: require that this machine can run it; False to read a bundle that was made for another one.
    """
    folder = Path(path).absolute()
    try:
        text = (folder / "manifest.json").read_bytes()
    except OSError as error:
        raise BundleError(
            f"{folder}: expected a bundle, that is a folder with manifest.json, but there is "
            f"{_what(folder)}; make one with `python -m compile.build`, or name another"
        ) from error
    try:
        manifest = parse(text)
        if here:
            runnable(manifest)
        for name in manifest.files:
            _check_file(folder, name, manifest, verify)
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error.__cause__
    bundle = Bundle(folder, manifest)
    if verify:
        bundle.golden_logits()  # one for each label, which no field tells
    return bundle


def runnable(manifest: Manifest) -> tuple[Level, ...]:
    """The levels whose code this machine can run, best first; raises BundleError where there is none."""
    target = manifest.target
    processor = _PROCESSORS.get(target.family)
    if processor is None:
        raise BundleError(
            f"target {target.name}: expected a family among {', '.join(_PROCESSORS)}, "
            f"got {target.family}; update bitgrade on this device"
        )
    if target.machine != cpu.machine():
        raise BundleError(
            f"target {target.name}: expected a machine of {target.machine}, this one is {cpu.machine()}; "
            "build for this one with `python -m compile.build --target ...`, or, a bundle with lib/*.cu, "
            f"here: {REBUILD_HERE}"
        )
    here = processor.features()
    found = tuple(level for level in target.levels if here.issuperset(level.requires))
    if not found:
        why = "; ".join(_lacking(level, target.family) for level in target.levels)
        raise BundleError(
            f"target {target.name}: {why}; build for a target without them, see `python -m compile.build --help`"
        )
    return found


def _lacking(level: Level, family: str) -> str:
    """What this machine's processor lacks for a level."""
    processor = _PROCESSORS[family]
    missing = sorted(set(level.requires) - processor.features())
    return f"{level.name} needs {', '.join(level.requires)}, {processor.model()} lacks {', '.join(missing)}"


def _check_file(folder: Path, name: str, manifest: Manifest, verify: bool) -> None:
    path, expected = folder / name, manifest.files[name]
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{name}: expected a file inside the bundle, got a link to {path.resolve()}; {COPY}")
    if not path.is_file():
        raise BundleError(f"{name}: expected this file, it is missing; {COPY}")
    if path.stat().st_size != expected.bytes:
        raise BundleError(f"{name}: expected {expected.bytes} bytes, got {path.stat().st_size}; {COPY}")
    if verify and (got := _sha256(path)) != expected.sha256:
        raise BundleError(
            f"{name}: its bytes changed, expected sha256 {expected.sha256[:16]}..., got {got[:16]}...; {COPY}"
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _what(folder: Path) -> str:
    if folder.is_dir():
        return "a folder without it"
    return "a file" if folder.exists() else "nothing"
