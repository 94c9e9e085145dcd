"""A bundle's look: the library that resizes pictures, chooses for them and ranks logits, and what proves it right."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compile.bundle.libraries import Libraries
from compile.source.opened import Source
from runtime.abi import filter_words, price_words
from runtime.bundle.look import digest
from runtime.choice import quality
from runtime.choice.escalation import MOST, margin
from runtime.choice.selector import Selector
from runtime.pictures.arrays import resize
from targets import Target
from targets.cpu.look.module import Look
from targets.cpu.look.table import make_table
from targets.family import Caller, load

PRICES = (0.0, 0.2, 5.0)  # of cost, at which choices are compared
SIZES = ((7, 50), (61, 40))  # of pictures that are resized


@dataclass(frozen=True, eq=False)
class CompiledLook:
    """A look with its library, relative to the bundle."""

    look: Look
    source: Source
    target: Target
    library: str

    def to_dict(self, table_offset: int) -> dict[str, Any]:
        """Returns the JSON object of the manifest; table_offset: of the table of `choose` in the file of tables."""
        builds = []
        for level in self.target.compiled_for:
            names = {name: name + self.target.suffix(level) for name in ("plan", "resize", "rank", "choose")}
            if self.look.selector is None:
                names["choose"] = ""
            if not self.look.resizes:
                names |= {"plan": "", "resize": ""}
            workspace = self.look.workspace(load(self.target.family).vectors(level))
            builds.append({"level": level.name, **names, "workspace": workspace})
        return {
            "library": self.library,
            "selector": digest(self.source.selector),
            "table": {"offset": table_offset, "bytes": int(self.look.table.nbytes)},
            "builds": builds,
        }


def compile_look(source: Source, libraries: Libraries) -> CompiledLook:
    """Compiles the look of the networks of a source into one more library; raises what the toolchain raises."""
    table = None if source.selector is None else make_table(Selector.from_dict(source.selector))
    height, width, channels = source.pictures.shape[1:]
    look = Look((height, width, channels), source.variants[0].logits.shape[1], table)
    target = libraries.target
    modules = [look.module(load(target.family).vectors(level)) for level in target.compiled_for]
    return CompiledLook(look, source, target, libraries.add_look(modules))


def differences(compiled: CompiledLook, library: Path, level: Target, suffix: str, count: int) -> tuple[int, int]:
    """Returns how many integers of a level's code were compared with numpy's over `count` golden pictures, and differ.

    Raises TargetError where nothing here can run the code.
    """
    call = load(level.family).open_look(library, level)
    pairs = list(_pairs(compiled, lambda name, arrays: call(name + suffix, arrays), level, count))
    return sum(a.size for a, _ in pairs), sum(int((a != b).sum()) for a, b in pairs)


Pair = tuple[npt.NDArray[Any], npt.NDArray[Any]]  # integers of compiled code, and the same of numpy


def _pairs(compiled: CompiledLook, call: Caller, level: Target, count: int) -> Iterator[Pair]:
    look, source = compiled.look, compiled.source
    pictures = source.pictures[:count]
    for picture in _resized(pictures) if look.resizes else ():
        yield resized_by(call, picture, look.shape[:2]), resize(picture, look.shape[:2])
    for logits in (rows for variant in source.variants for rows in variant.logits[:count]):
        expected = [logits.argmax(), margin(logits[None])[0]] if logits.size > 1 else [0, MOST - 1]
        yield call("rank", [logits.astype(np.int32), np.zeros(2, np.int64)])[1], np.array(expected)
    if look.selector is not None:
        workspace = look.workspace(load(level.family).vectors(level))
        for picture in pictures:
            features = quality.features(picture)
            for lam in PRICES:
                expected = [*look.selector.selector.choose(features, lam), *features[0]]
                yield chosen_by(call, look, workspace, picture, lam), np.array(expected)


def _resized(pictures: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
    """Returns one picture in other sizes."""
    return [resize(pictures[0], size) for size in SIZES]


def resized_by(call: Caller, picture: npt.NDArray[np.uint8], shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Returns a picture uint8 [h, w, 3] resized to [*shape, 3] by compiled code."""
    height, width = shape
    size = np.array(picture.shape[:2], np.int32)
    words = [new * filter_words(int(old), new) for old, new in zip(size, shape, strict=True)]
    _, filters = call("plan", [size, np.zeros(sum(words), np.int32)])
    row = np.zeros(3 * picture.shape[1] + 1, np.int32)
    resized = call("resize", [picture.reshape(-1), size, filters, row, np.zeros(height * width * 3, np.uint8)])[4]
    return resized.reshape(height, width, 3)


def chosen_by(
    call: Caller, look: Look, workspace: int, picture: npt.NDArray[np.uint8], lam: float
) -> npt.NDArray[np.int64]:
    """Returns int64 [1 + D]: the variant and the features of a picture uint8 [H, W, 3], by compiled code."""
    table = look.table.copy()
    table[:2] = price_words(lam)
    stale = np.full(workspace, 0xA5, np.uint8)  # the code must not count on zeros
    return call("choose", [picture.reshape(-1), table, stale, np.zeros(1 + quality.D, np.int64)])[3]
