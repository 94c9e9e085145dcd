"""How the pixels of an output fall into tiles: row by row, or running on from row to row where rows are short."""

from tvm.tirx.script import builder as T

from targets.cpu.vector import fill_borders, over_rows
from targets.kernel import Step

LONG = 8  # tiles of a row from which on a short last one costs little


def over_tiles(step: Step, tile: int, work):
    """emit() of a kernel and its number of units: rows, or tiles of a small map.

    work(reads, writes, weights, table, each) does it; each(body) runs body([(y, x)] * tile) for all tiles of its units.
    The last tile overlaps the one before, in the same unit, instead of being short.
    """
    oh, ow, _ = step.write.tensor.shape
    pixels = oh * ow
    if ow % tile == 0 or ow >= LONG * tile:
        return over_rows(step, lambda *buffers_and_row: _row(ow, tile, work, *buffers_and_row)), oh
    units, rest = divmod(pixels, tile)

    def emit(reads, writes, weights, table, units_done):
        first, end = units_done
        after = T.if_then_else(end == units, units + 1, end) if rest else end

        def each(body):
            with T.serial(first, after) as t:
                start = T.min(t * tile, pixels - tile)
                body([(T.bind(T.floordiv(start + p, ow)), T.bind(T.floormod(start + p, ow))) for p in range(tile)])

        work(reads, writes, weights, table, each)
        fill_borders(step, writes, first)

    return emit, units


def _row(ow: int, tile: int, work, reads, writes, weights, table, y) -> None:
    def each(body):
        with T.serial(-(-ow // tile)) as t:
            x = T.min(t * tile, ow - tile)
            body([(y, x + p) for p in range(tile)])

    work(reads, writes, weights, table, each)
