"""Looks to be compiled in tests: selectors of every kind, pictures of every kind, and libraries of a level."""

from pathlib import Path

import numpy as np

from runtime.choice.quality import D
from runtime.choice.selector import NEVER, ONE, Selector
from targets import Target
from targets.cpu.look.module import Look
from targets.cpu.look.table import make_table
from targets.family import Caller, load


def make_selector(seed: int = 0, variants: int = 5, groups: int = 3, units: int = 7, wide: bool = False) -> Selector:
    """Returns a selector of random integers, that decides by all features; wide: with weights that leave int32."""
    rng = np.random.default_rng(seed)
    scale = 1 << 30 if wide else 1
    integers = lambda low, high, *shape: rng.integers(low, high, shape, np.int64)  # noqa: E731
    fallback = integers(0, ONE, variants)
    fallback[1::2] = NEVER
    return Selector(
        offset=integers(-2000, 20000, D),
        multiplier=integers(1000, 8000, D),
        shift=integers(8, 14, D),
        hidden_weight=integers(-9000, 9000, units, D) * scale,
        hidden_bias=integers(-(1 << 23), 1 << 23, units) * scale,
        hidden_shift=np.array(18 if wide else 9, np.int64),
        output_weight=integers(-3000, 3000, groups, units),
        output_bias=integers(-(1 << 20), 1 << 20, groups) * scale,
        output_shift=np.array(40 if wide else 18, np.int64),
        group_accuracy=integers(20000, ONE, groups, variants),
        group_weight=integers(-3000, 3000, groups, D, D),
        group_offset=integers(-(1 << 21), 1 << 21, groups, D),
        threshold=integers(1 << 27, 1 << 34, variants),
        fallback=fallback,
        costs=np.repeat(integers(1000, ONE, variants), 2)[:variants],  # some cost the same
    )


def make_pictures(shape: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Returns pictures uint8 [H, W, 3]: noise, every extreme, stripes, checkerboards, slopes, a single bright pixel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    grey = lambda plane: np.repeat(plane.astype(np.uint8)[..., None], 3, 2)  # noqa: E731
    spot = np.zeros(shape)
    spot[-1, -1] = 255
    return [
        rng.integers(0, 256, (*shape, 3), np.uint8),
        np.clip(rng.normal(90, 12, (*shape, 3)), 0, 255).astype(np.uint8),
        grey(np.zeros(shape)),
        grey(np.full(shape, 255)),
        grey((x + y) % 2 * 255),
        grey((x // 8 + y // 8) % 2 * 255),
        grey(x % 2 * 255),
        grey(y % 2 * 255),
        grey(spot),
        grey(255 - spot),
        np.stack([x * 5 % 256, y * 7 % 256, x * y % 256], -1).astype(np.uint8),
        np.stack([(x + y) % 2 * 255, (x + y + 1) % 2 * 255, x * 0], -1).astype(np.uint8),
    ]


def make_look(shape: tuple[int, int], selector: Selector | None = None, classes: int = 10) -> Look:
    """Returns a look of a network with that input."""
    return Look((*shape, 3), classes, None if selector is None else make_table(selector))


def compile_for(look: Look, target: Target, folder: Path) -> Caller:
    """Returns what calls the functions of a look, compiled for a target without levels."""
    family = load(target.family)
    library = folder / "look.so"
    family.build_look([look.module(family.vectors(target))], target, library)
    return family.open_look(library, target)
