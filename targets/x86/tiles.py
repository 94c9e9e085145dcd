"""How the pixels of an output fall into tiles: row by row, or running on from row to row where rows are short."""

from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T

from targets.cpu.vector import Emit, fill_borders, over_rows
from targets.kernel import Buffers, Step

LONG = 8  # tiles of a row from which on a short last one costs little

Body = Callable[[list[tuple[Any, Any]]], None]  # of the pixels (y, x) of a tile
Each = Callable[[Body], None]


def over_tiles(step: Step[Any], tile: int, work: Callable[[Buffers, Each], None]) -> tuple[Emit, int]:
    """Returns a kernel's emit and its number of units: rows, or tiles of a small map.

    work(buffers, each) does it; each(body) runs body([(y, x)] * tile) for all tiles of its units. The last tile
    overlaps the one before, in the same unit, instead of being short.
    """
    oh, ow, _ = step.write.tensor.shape
    pixels = oh * ow
    if ow % tile == 0 or ow >= LONG * tile:
        return over_rows(step, lambda buffers, y: _row(ow, tile, work, buffers, y)), oh
    units, rest = divmod(pixels, tile)

    def emit(buffers: Buffers, span: tuple[Any, Any]) -> None:
        first, end = span
        after = T.if_then_else(end == units, units + 1, end) if rest else end

        def each(body: Body) -> None:
            with T.serial(first, after) as t:
                start = T.min(t * tile, pixels - tile)
                body([(T.bind(T.floordiv(start + p, ow)), T.bind(T.floormod(start + p, ow))) for p in range(tile)])

        work(buffers, each)
        fill_borders(step, buffers.writes, first)

    return emit, units


def _row(ow: int, tile: int, work: Callable[[Buffers, Each], None], buffers: Buffers, y: Any) -> None:
    def each(body: Body) -> None:
        with T.serial(-(-ow // tile)) as t:
            x = T.min(t * tile, ow - tile)
            body([(y, x + p) for p in range(tile)])

    work(buffers, each)
