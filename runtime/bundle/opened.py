"""Opens a bundle: a folder with a manifest, whose every file must be there unchanged and fit this machine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from runtime.abi import aligned_buffer
from runtime.bundle.contents import Contents, open_regular
from runtime.bundle.golden import MOST_BYTES, GoldenError, GoldenFile, Header
from runtime.bundle.manifest import FILE, TABLES, WEIGHTS, Build, Level, Manifest, Variant, parse
from runtime.bundle.weights import unpack_weights
from runtime.fields import COPY, REBUILD, BundleError
from runtime.machine import cpu, cuda

REBUILD_HERE = "sh lib/rebuild.sh, in the bundle's folder"
BUILD = "make one with `python -m compile.build`"
LARGEST_MANIFEST = 1 << 26  # bytes


class Processor(Protocol):
    """What knows this machine's processor of one family: a module of runtime/machine."""

    def features(self) -> frozenset[str]:
        """Returns what the processor has of the words that levels require."""

    def model(self) -> str:
        """Returns the processor's name for people."""


# family -> its processor on this machine; a new family is one more row
_PROCESSORS: dict[str, Processor] = {"x86": cpu, "arm": cpu, "cuda": cuda}


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder, its manifest, and its files, whose bytes are checked before they are used."""

    folder: Path
    manifest: Manifest
    contents: Contents = field(compare=False, repr=False)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All variants, in the order of the manifest."""
        return self.manifest.variants

    def path(self, name: str) -> Path:
        """Returns the absolute path of one of the bundle's files."""
        return self.folder / name

    def variant(self, name: str) -> Variant:
        """Returns the variant of that name. Raises BundleError, which lists the names, where there is none."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(variant.name for variant in self.variants)
        raise BundleError(f"{self.folder}: expected a variant among {known}; got {name!r}")

    def library(self, variant: Variant) -> bytes:
        """Returns the bytes of the variant's library.

        Raises BundleError for a bundle that holds only the library's source, which nobody has compiled yet.
        """
        if variant.library not in self.manifest.files:
            raise BundleError(
                f"{self.folder}: expected the library {variant.library} among its files, but this bundle holds source "
                f"only; compile it on this device: {REBUILD_HERE}"
            )
        return self._read(variant.library)

    def level(self, name: str | None = None) -> Level:
        """Returns the level of that name, or the best that this machine runs. Raises BundleError where it runs none."""
        runs_here = runnable(self.manifest)
        if name is None:
            return runs_here[0]
        by_name = {level.name: level for level in self.manifest.target.levels}
        if name not in by_name:
            raise BundleError(f"{self.folder}: expected a level among {', '.join(by_name)}; got {name!r}")
        level = by_name[name]
        if level not in runs_here:
            lacking = _describe_lack(level, self.manifest.target.family)
            raise BundleError(f"{self.folder}: {lacking}; leave the level out")
        return level

    def build(self, variant: Variant, level: Level) -> Build:
        """Returns the variant's code for a level."""
        return variant.builds[self.manifest.target.levels.index(level)]

    def weights(self, build: Build) -> np.ndarray:
        """Returns int8 [weights_bytes], aligned: the weights as the build's kernels read them."""
        return unpack_weights(self._read(WEIGHTS), build.segments, build.weights_bytes)

    def table(self, build: Build) -> np.ndarray:
        """Returns int32 [table_bytes / 4], aligned: biases, multipliers and shifts."""
        table = aligned_buffer(build.table_bytes // 4, np.int32)
        table[:] = np.frombuffer(self._read(TABLES), "<i4", table.size, build.table_offset)
        return table

    def golden(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Returns golden pictures uint8 [G, H, W, 3], and by variant the exact logits int32 [G, classes] they give.

        Raises BundleError where the file is damaged.
        """
        self.check_golden()
        names = [variant.name for variant in self.variants]
        pictures, *logits = self._read_golden(["images", *map(_logits_of, names)])
        return pictures, dict(zip(names, logits, strict=True))

    def check_golden(self) -> None:
        """Raises BundleError unless golden data have the right types and shapes: a logit for each label, for one."""
        names = [variant.name for variant in self.variants]
        with self._explained_golden():
            file = GoldenFile(self._read(self.manifest.golden))
            pictures, *logits = [file.header(name) for name in ("images", *map(_logits_of, names))]
        count = pictures.shape[0] if pictures.shape else 0
        self._require_golden("pictures", pictures, np.dtype(np.uint8), (max(1, count), *self.manifest.shape))
        for name, header in zip(names, logits, strict=True):
            self._require_golden(f"logits of {name}", header, np.dtype(np.int32), (count, len(self.manifest.labels)))
        total = sum(header.bytes for header in (pictures, *logits))
        if total > MOST_BYTES:
            raise BundleError(
                f"{self.folder}: expected golden data of {MOST_BYTES} bytes at most, got {total}; {REBUILD}"
            )

    def _read(self, name: str) -> bytes:
        try:
            return self.contents.read(name)
        except BundleError as error:
            raise BundleError(f"{self.folder}: {error}") from error.__cause__

    def _read_golden(self, names: Sequence[str]) -> list[np.ndarray]:
        with self._explained_golden():
            file = GoldenFile(self._read(self.manifest.golden))
            return [file.read(name) for name in names]

    @contextmanager
    def _explained_golden(self) -> Iterator[None]:
        try:
            yield
        except GoldenError as error:
            raise BundleError(
                f"{self.folder}: expected golden pictures and logits of every variant in "
                f"{self.manifest.golden}, got {error}; {REBUILD}"
            ) from error

    def _require_golden(self, what: str, header: Header, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        if header.dtype != dtype or header.shape != shape:
            raise BundleError(
                f"{self.folder}: expected golden {what} {dtype} {list(shape)}, "
                f"got {header.dtype} {list(header.shape)}; {REBUILD}"
            )


def _logits_of(variant: str) -> str:
    """Returns the name of a variant's logits in golden data."""
    return f"logits_{variant}"


def newest_bundle(root: Path = Path("bundles")) -> Path:
    """Returns the bundle under `root` that was completed last. Raises BundleError where there is none."""
    manifests = [path for path in root.glob(f"*/{FILE}") if not path.parent.name.startswith(".")]
    if not manifests:
        raise BundleError(f"{root.absolute()}: expected a bundle there, found none; {BUILD}, or name one")
    return max(manifests, key=lambda path: (path.stat().st_mtime_ns, path)).parent


def open_bundle(path: str | Path, verify: bool = True, here: bool = True) -> Bundle:
    """Reads and checks a bundle. Raises BundleError, which says what was expected, what is there and what to do.

    verify: compare the sha256 of every file (about 1 ms per MB), and the labels with the golden logits; otherwise only
    require each file with its size. here: require that this machine can run it; False reads one made for another.
    """
    folder = Path(path).absolute()
    text = _read_manifest(folder)
    try:
        manifest = parse(text)
        if here:
            runnable(manifest)
        contents = Contents(folder, manifest.files)
        if verify:
            contents.check(keep=manifest.used)
        else:
            contents.check_sizes()
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error.__cause__
    except MemoryError as error:
        raise BundleError(f"{folder}: expected a bundle that fits into memory, this one does not") from error
    bundle = Bundle(folder, manifest, contents)
    if verify:
        bundle.check_golden()  # the only way to see that there is a label for each logit
    return bundle


def _read_manifest(folder: Path) -> bytes:
    """Returns the text of a bundle's manifest. Raises BundleError where there is none that can be read."""
    try:
        with open_regular(folder / FILE) as file:
            text = file.read(LARGEST_MANIFEST + 1)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{folder}: expected a bundle, which is a folder with {FILE}, but {_describe_other(folder, error)}; "
            f"{BUILD}, or name another"
        ) from error
    if len(text) > LARGEST_MANIFEST:
        raise BundleError(f"{folder}: expected {FILE} of {LARGEST_MANIFEST} bytes at most, got more; {COPY}")
    return text


def runnable(manifest: Manifest) -> tuple[Level, ...]:
    """Returns the levels whose code this machine can run, best first. Raises BundleError where there is none."""
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
    features = processor.features()
    levels = tuple(level for level in target.levels if features.issuperset(level.requires))
    if not levels:
        lacks = "; ".join(_describe_lack(level, target.family) for level in target.levels)
        raise BundleError(
            f"target {target.name}: {lacks}; build for a target without them, see `python -m compile.build --help`"
        )
    return levels


def _describe_lack(level: Level, family: str) -> str:
    """Says what a level needs and this machine's processor lacks of it."""
    processor = _PROCESSORS[family]
    missing = sorted(set(level.requires) - processor.features())
    return f"{level.name} needs {', '.join(level.requires)}, {processor.model()} lacks {', '.join(missing)}"


def _describe_other(folder: Path, error: Exception) -> str:
    """Says what is there instead of a bundle."""
    if isinstance(error, FileNotFoundError):
        return (
            "this is a folder without it"
            if folder.is_dir()
            else "this path is missing: there is no such file or folder"
        )
    if isinstance(error, NotADirectoryError):
        return "this is a file"
    return f"it cannot be read ({error})"
