"""Resizing by integers: runtime/pictures/arrays.py says which filter, and how its sums are rounded.

The filters of a pair of sizes are made once, by a function of its own. They lie as one record for every new place: the
first old place that it sees, their number, and their weights.
"""

from typing import Any

from tvm.tirx.script import builder as T

from runtime.pictures.arrays import UNIT
from targets.cpu.look.vectors import Registers, Vectors, load, splat, spread, store, vector

_CHANNELS = 3
_ROUND = 32  # bits that a product of two weights has behind the point
_BLOCK = 32  # numbers of a row that are filtered at a time
_PIXEL = 4  # lanes of a pixel: three channels, and one that nobody reads


def emit_filters(old: Any, new: int, record: Any, filters: Any, begin: Any) -> None:
    """Adds code that makes the filters from `old` places (int32) to `new` ones.

    record: words of each; begin: where they lie in the buffer int32 of filters.
    """
    n = T.bind(T.cast(old, "int64"))
    length = T.int64(new)
    wide = T.bind(T.int64(2) * T.max(n, length))
    sums = Registers(3, "int64")  # of triangles: all of a place's, those so far; rounded weights so far
    with T.serial(new) as k:
        middle = T.bind((T.int64(2) * T.cast(k, "int64") + T.int64(1)) * n)
        low = T.bind(T.max(T.int64(0), -T.floordiv(wide + length - middle, T.int64(2 * new))))
        high = T.bind(T.min(n - T.int64(1), T.floordiv(middle + wide - length, T.int64(2 * new))))
        count = T.bind(T.cast(high - low, "int32") + T.int32(1))

        def triangle(i: Any) -> Any:
            place = T.int64(2) * (low + T.cast(i, "int64")) + T.int64(1)
            return T.max(wide - T.abs(place * length - middle), T.int64(0))

        at = T.bind(begin + k * record)
        T.buffer_store(filters, T.cast(low, "int32"), [at])
        T.buffer_store(filters, count, [at + 1])
        for j in range(3):
            sums[j] = T.int64(0)
        with T.serial(count) as i:
            sums.add(0, triangle(i))
        with T.serial(count) as i:
            sums.add(1, triangle(i))
            rounded = T.bind(T.truncdiv(T.int64(2 * UNIT) * sums[1] + sums[0], T.int64(2) * sums[0]))
            T.buffer_store(filters, T.cast(rounded - sums[2], "int32"), [at + 2 + i])
            sums[2] = rounded


def emit_resize(
    vectors: Vectors, buffers: tuple[Any, Any, Any, Any], shape: tuple[int, int], width: Any, records: tuple[Any, Any]
) -> None:
    """Adds code that resizes to `shape` = (height, width).

    buffers: source uint8, filters int32, row int32 [3 * width + 1], picture uint8. width: of the source; records: words
    of a filter of rows and of one of columns.
    """
    source, filters, row, picture = buffers
    height, new_width = shape
    stride = T.bind(width * _CHANNELS)
    columns = T.bind(records[0] * height)
    with T.serial(height) as y:
        _filter_row(vectors, source, filters, row, T.bind(y * records[0]), stride)
        with T.serial(new_width) as x:
            pixel = _filter_pixel(vectors, filters, row, T.bind(columns + x * records[1]))
            for c, code in enumerate(pixel):
                T.buffer_store(picture, code, [(y * new_width + x) * _CHANNELS + c])


def _filter_row(vectors: Vectors, source: Any, filters: Any, row: Any, at: Any, stride: Any) -> None:
    """Sums old rows by the filter at `at`; what is left of a row beside whole blocks goes number by number."""
    top, count = T.bind(filters[at]), T.bind(filters[at + 1])

    def some(x: Any, lanes: int) -> None:
        total = Registers(1, "int32", lanes)
        total.clear()
        with T.serial(count) as i:
            codes = load(source, (T.cast(top + i, "int64") * T.cast(stride, "int64") + T.cast(x, "int64")), lanes)
            total.add(0, T.cast(codes, vector("int32", lanes)) * spread(filters[at + 2 + i], lanes))
        store(row, x, total[0], lanes)

    lanes = 1 if vectors.size == 1 else _BLOCK
    blocks = T.bind(T.truncdiv(stride, T.int32(lanes)))
    with T.serial(blocks) as block:
        some(block * lanes, lanes)
    if lanes > 1:
        with T.serial(stride - blocks * lanes) as i:
            some(blocks * lanes + i, 1)


def _filter_pixel(vectors: Vectors, filters: Any, row: Any, at: Any) -> list[Any]:
    """Returns the three codes of a pixel, uint8, of a filtered row by the filter at `at`."""
    left, count = T.bind(filters[at]), T.bind(filters[at + 1])
    lanes = 1 if vectors.size == 1 else _PIXEL
    totals = Registers(_CHANNELS if lanes == 1 else 1, "int64", lanes)
    for k in range(totals.count):
        totals[k] = splat(1 << (_ROUND - 1), "int64", lanes)
    with T.serial(count) as i:
        weight = T.bind(T.cast(filters[at + 2 + i], "int64"))
        for k in range(totals.count):
            values = load(row, (left + i) * _CHANNELS + k, lanes)
            totals.add(k, T.cast(values, vector("int64", lanes)) * spread(weight, lanes))
    codes = [T.shift_right(totals[k], splat(_ROUND, "int64", lanes)) for k in range(totals.count)]
    if lanes == 1:
        return [T.cast(code, "uint8") for code in codes]
    return [T.Shuffle([T.bind(T.cast(codes[0], vector("uint8", lanes)))], [c]) for c in range(_CHANNELS)]
