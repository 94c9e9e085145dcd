"""The quality features of a picture in integers: runtime/choice/quality.py says what each is."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx.script import builder as T

from runtime.choice.quality import BLOCK, DARK, FLOOR, FRACTION, LOGARITHMS, NAMES
from targets.cpu.look.planes import Planes
from targets.cpu.look.vectors import Registers, Vectors, first, load, masked, splat, spread, vector

_LARGEST = 8 * 4 * 255  # of the values that are added up
_MANTISSA = 10  # bits of a logarithm's argument below the first that count


def logarithm_words() -> npt.NDArray[np.int32]:
    """Returns int32 [256]: four of the logarithms of 1 + i / 1024, in 1/256, in each word, the lowest byte first."""
    return LOGARITHMS.astype("<u1").view("<i4").astype(np.int32)


def emit_features(vectors: Vectors, planes: Planes, logarithms: Callable[[Any], Any]) -> Registers:
    """Adds code that computes the features of a picture's planes; returns them, int64, in the order of NAMES.

    logarithms(i): word i of `logarithm_words`.
    """
    height, width = planes.sizes.height, planes.sizes.width
    inner = (height - 2) * (width - 2)
    across_count, down_count = height * (width - 1), (height - 1) * width
    neighbours = across_count + down_count
    on_border = height * ((width - 1) // BLOCK) + width * ((height - 1) // BLOCK)
    noise, detail, chroma = _textures(vectors, planes)
    (detail_half,) = _half_texture(vectors, planes)
    across, down, border, uneven = _slopes(vectors, planes)
    luma, contrast = _luma_totals(vectors, planes)
    dark = _count_below(vectors, planes, [T.int32(DARK)])[0]
    p05, p95 = _percentiles(vectors, planes)
    under_logarithms = [
        (noise, inner),
        (detail, inner),
        (detail_half, 4 * (height // 2 - 2) * (width // 2 - 2)),
        (chroma, inner),
        (border, max(1, on_border)),
        (across + down - border, neighbours - on_border),
        (across, across_count),
        (down, down_count),
        (contrast, height * width),
    ]
    logs = Registers(len(under_logarithms), "int64")
    for k, (total, count) in enumerate(under_logarithms):
        logs[k] = _mean(total, count) + T.int64(FLOOR)
    with T.serial(logs.count) as k:
        logs[k] = _log2(T.bind(logs[k]), logarithms)
    named = {
        "noise": logs[0],
        "detail": logs[1],
        "detail_half": logs[2],
        "luma": _mean(luma, height * width),
        "luma_p05": T.shift_left(p05, T.int64(FRACTION)),
        "luma_p95": T.shift_left(p95, T.int64(FRACTION)),
        "contrast": logs[8],
        "dark": _mean(dark, height * width),
        "blocks": logs[4] - logs[5] if max(height, width) > BLOCK else T.int64(0),
        "flat": _mean(T.int64(neighbours) - uneven, neighbours),
        "direction": logs[6] - logs[7],
        "chroma": logs[3],
    }
    features = Registers(len(NAMES), "int64")
    for k, name in enumerate(NAMES):
        features[k] = named[name]
    return features


def _over_strips(rows: tuple[int, int], width: int, sums: Registers, body: Callable[[Any], None]) -> list[Any]:
    """Adds code that does rows first..end - 1, body(y) each; returns the totals, int64, of what it adds to `sums`.

    Sums are int32 and taken over strips of as many rows as fit that.
    """
    first_row, end = rows
    most = max(1, ((1 << 31) - 1) // (_LARGEST * width))
    totals = Registers(sums.count, "int64")
    totals.clear()
    with T.serial(-(-(end - first_row) // most)) as strip:
        begin = T.bind(first_row + strip * most)
        sums.clear()
        with T.serial(T.min(most, end - begin)) as i:
            body(begin + i)
        for k in range(sums.count):
            totals.add(k, sums.total(k))
    return [T.bind(totals[k]) for k in range(sums.count)]


def _blocks(count: int, lanes: int, body: Callable[[Any, int], None]) -> None:
    """Adds code for a row of `count` places: body(x, number of places from x on) for every vector of `lanes`."""
    whole, rest = divmod(count, lanes)
    if whole == 1:
        body(0, lanes)
    elif whole:
        with T.serial(whole) as block:
            body(block * lanes, lanes)
    if rest:
        body(whole * lanes, rest)


def _textures(vectors: Vectors, planes: Planes) -> Sequence[Any]:
    """Returns the totals of noise, detail and chroma."""
    height, width = planes.sizes.height, planes.sizes.width
    lanes = vectors.words(width - 2)
    sums = Registers(3, "int32", max(1, lanes // 2))

    def row(y: Any) -> None:
        def block(x: Any, count: int) -> None:
            at = T.bind(y * width + 1 + x)
            edges, four = _neighbourhood(planes.luma, at, width, lanes)
            corners = [load(planes.luma, at + dy * width + dx, lanes) for dy in (-1, 1) for dx in (-1, 1)]
            laplacian = T.bind(edges - four)
            noise = corners[0] + corners[1] + corners[2] + corners[3] - edges - laplacian
            edges, four = _neighbourhood(planes.redness, at, width, lanes)
            for k, values in enumerate((noise, laplacian, edges - four)):
                sums.add(k, vectors.sum_words(_size(values, count, lanes), lanes))

        _blocks(width - 2, lanes, block)

    return _over_strips((1, height - 1), width, sums, row)


def _half_texture(vectors: Vectors, planes: Planes) -> Sequence[Any]:
    """Returns the total of detail at half size."""
    height, width = planes.sizes.height // 2, planes.sizes.width // 2
    lanes = vectors.words(width - 2)
    sums = Registers(1, "int32", max(1, lanes // 2))

    def row(y: Any) -> None:
        def block(x: Any, count: int) -> None:
            edges, four = _neighbourhood(planes.half, T.bind(y * width + 1 + x), width, lanes)
            sums.add(0, vectors.sum_words(_size(edges - four, count, lanes), lanes))

        _blocks(width - 2, lanes, block)

    return _over_strips((1, height - 1), width, sums, row)


def _neighbourhood(plane: Any, at: Any, width: int, lanes: int) -> tuple[Any, Any]:
    """Returns the sum of the four next neighbours, and four times the middle, of `lanes` places of an int16 plane."""
    up, left, right, down = (load(plane, at + step, lanes) for step in (-width, -1, 1, width))
    return T.bind(up + left + right + down), T.bind(load(plane, at, lanes) * splat(4, "int16", lanes))


def _size(values: Any, count: int, lanes: int) -> Any:
    """Returns |values| of an int16 vector, zero from place `count` on."""
    values = T.bind(T.cast(values, vector("int16", lanes)))
    sizes = T.max(values, splat(0, "int16", lanes) - values)
    return T.bind(first(T.cast(sizes, vector("int16", lanes)), count, lanes, "int16"))


def _slopes(vectors: Vectors, planes: Planes) -> Sequence[Any]:
    """Returns the totals of |differences| of neighbours, and how many neighbours differ.

    The totals are of horizontal ones, of vertical ones, and of both across the borders of blocks.
    """
    height, width = planes.sizes.height, planes.sizes.width
    lanes = vectors.bytes(width)
    across, down, border, uneven = range(4)
    sums = Registers(4, "int32", max(1, lanes // 4))
    one = splat(1, "uint8", lanes)

    def difference(at: Any, step: int, count: int) -> Any:
        at = T.bind(at)
        a, b = (T.bind(load(planes.codes, place, lanes)) for place in (at, at + step))
        return T.bind(first(T.max(a, b) - T.min(a, b), count, lanes, "uint8"))

    def add(k: int, values: Any) -> None:
        sums.add(k, vectors.sum_bytes(T.bind(T.cast(values, vector("uint8", lanes))), lanes))

    def row(y: Any) -> None:
        def level(x: Any, count: int) -> None:
            slope = difference(y * width + x, 1, count)
            add(across, slope)
            add(border, _on_borders(slope, x, lanes))
            add(uneven, T.min(slope, one))

        def upright(x: Any, count: int) -> None:
            slope = difference(y * width + x, width, count)
            add(down, slope)
            add(uneven, T.min(slope, one))

        _blocks(width - 1, lanes, level)
        with T.If(y < height - 1), T.Then():
            _blocks(width, lanes, upright)

    totals = _over_strips((0, height), width, sums, row)
    if height <= BLOCK:
        return totals
    steps = Registers(1, "int32", max(1, lanes // 4))

    def border_row(k: Any) -> None:
        def upright(x: Any, count: int) -> None:
            slope = difference((k * BLOCK + BLOCK - 1) * width + x, width, count)
            steps.add(0, vectors.sum_bytes(slope, lanes))

        _blocks(width, lanes, upright)

    (below,) = _over_strips((0, (height - 1) // BLOCK), width, steps, border_row)
    return totals[across], totals[down], totals[border] + below, totals[uneven]


def _on_borders(slope: Any, x: Any, lanes: int) -> Any:
    """Returns the differences across vertical borders of blocks, zero elsewhere; x: column of the first."""
    if lanes == 1:
        return T.Select(T.floormod(x, BLOCK) == BLOCK - 1, slope, T.uint8(0))
    return masked(slope, [i % BLOCK == BLOCK - 1 for i in range(lanes)], "uint8")


def _luma_totals(vectors: Vectors, planes: Planes) -> tuple[Any, Any]:
    """Returns the totals of luma and of |luma - its mean|."""
    sizes = planes.sizes
    behind = sizes.codes - sizes.pixels  # codes of 255 that are none of the picture's
    luma = T.bind(_over_codes(vectors, planes, lambda codes: codes) - T.int64(255 * behind))
    mean = T.bind(T.truncdiv(luma, T.int64(sizes.pixels)))
    level = T.bind(spread(T.cast(mean, "uint8"), sizes.lanes))
    total = _over_codes(vectors, planes, lambda codes: T.max(codes, level) - T.min(codes, level))
    return luma, T.bind(total - (T.int64(255) - mean) * T.int64(behind))


def _over_codes(vectors: Vectors, planes: Planes, value: Callable[[Any], Any]) -> Any:
    """Returns the total, int64, of value(uint8 vector) over all codes, those behind the picture's among them."""
    sizes = planes.sizes
    lanes = sizes.lanes
    sums = Registers(1, "int32", max(1, lanes // 4))

    def chunk(k: Any) -> None:
        with T.serial(sizes.steps) as step:
            codes = T.bind(load(planes.codes, (k * sizes.steps + step) * lanes, lanes))
            sums.add(0, vectors.sum_bytes(T.bind(value(codes)), lanes))

    return _over_strips((0, sizes.chunks), sizes.steps * lanes, sums, chunk)[0]


def _count_below(vectors: Vectors, planes: Planes, limits: Sequence[Any]) -> list[Any]:
    """Returns for each limit, int32 in 0..255, how many codes are below it, int64."""
    sizes = planes.sizes
    lanes = sizes.lanes
    sums = Registers(len(limits), "int32", max(1, lanes // 4))
    counts = Registers(len(limits), "uint8", lanes)
    levels = [T.bind(spread(T.cast(limit, "uint8"), lanes)) for limit in limits]

    def chunk(k: Any) -> None:
        counts.clear()
        with T.serial(sizes.steps) as step:
            codes = T.bind(load(planes.codes, (k * sizes.steps + step) * lanes, lanes))
            for i, level in enumerate(levels):
                counts.add(i, T.cast(codes < level, vector("uint8", lanes)))
        for i in range(len(levels)):
            sums.add(i, vectors.sum_bytes(T.bind(counts[i]), lanes))

    return _over_strips((0, sizes.chunks), sizes.steps * lanes, sums, chunk)


def _percentiles(vectors: Vectors, planes: Planes) -> list[Any]:
    """Returns the 5th and the 95th percentile of luma, int64: the largest codes that not more than a rank lie below.

    Eight counts settle their bits from the highest on, which takes the same time for every picture.
    """
    ranks = [planes.sizes.pixels * share // 100 for share in (5, 95)]
    codes = Registers(len(ranks), "int32")
    codes.clear()
    with T.serial(8) as i:
        bit = T.bind(T.shift_right(T.int32(128), i))
        limits = [T.bind(codes[k] + bit) for k in range(len(ranks))]
        for k, (count, rank) in enumerate(zip(_count_below(vectors, planes, limits), ranks, strict=True)):
            codes[k] = T.Select(count <= T.int64(rank), limits[k], codes[k])
    return [T.bind(T.cast(codes[k], "int64")) for k in range(len(ranks))]


def _mean(total: Any, count: int) -> Any:
    """Returns the mean int64, in 1/256, of a total that is not negative."""
    return T.bind(T.truncdiv(T.shift_left(total, T.int64(FRACTION)), T.int64(count)))


def _log2(x: Any, logarithms: Callable[[Any], Any]) -> Any:
    """Returns 256 * log2(x) of int64 x in 1..2**32 - 1, as runtime/choice/quality.py rounds it."""
    exponents = Registers(1, "int64")  # a name for the last one would be replaced by what it stands for, fivefold
    exponents.clear()
    for step in (16, 8, 4, 2, 1):
        higher = exponents[0] + T.int64(step)
        exponents[0] = T.Select(T.shift_right(x, higher) > T.int64(0), higher, exponents[0])
    exponent = T.bind(exponents[0])
    over = T.max(exponent - T.int64(_MANTISSA), T.int64(0))
    under = T.max(T.int64(_MANTISSA) - exponent, T.int64(0))
    index = T.bind(T.cast(T.shift_left(T.shift_right(x, over), under), "int32") - T.int32(1 << _MANTISSA))
    word = logarithms(T.shift_right(index, T.int32(2)))
    byte = T.shift_right(word, T.shift_left(T.bitwise_and(index, T.int32(3)), T.int32(3)))
    return T.shift_left(exponent, T.int64(FRACTION)) + T.cast(T.bitwise_and(byte, T.int32(255)), "int64")
