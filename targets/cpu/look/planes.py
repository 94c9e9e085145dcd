"""The planes of a picture that its features are sums over, made in one pass over its bytes."""

from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as T

from runtime.abi import SLACK, aligned
from runtime.choice.quality import LUMA_WEIGHTS
from targets.cpu.look.vectors import Vectors, load, run, splat, store, vector

PIXELS = 32  # taken apart at a time; the smallest picture has 64
MOST_BYTES = 255  # ones that are added up in a byte


@dataclass(frozen=True)
class PlaneSizes:
    """How the planes of a picture of height x width lie in a workspace of `total` bytes, without a border.

    codes: bytes of luma with 255 behind them up to whole `chunks` of `steps` vectors; luma, redness and half: where
    their int16 begin, in elements.
    """

    height: int
    width: int
    lanes: int  # of the vectors that go over all codes
    steps: int
    chunks: int
    luma: int
    redness: int
    half: int
    total: int

    @property
    def pixels(self) -> int:
        """Pixels of the picture."""
        return self.height * self.width

    @property
    def codes(self) -> int:
        """Bytes of luma with what is behind them."""
        return self.lanes * self.steps * self.chunks


def place_planes(vectors: Vectors, height: int, width: int) -> PlaneSizes:
    """Returns where the planes of pictures of that size lie."""
    pixels = height * width
    lanes = vectors.bytes(pixels)
    blocks = -(-pixels // lanes)
    chunks = -(-blocks // MOST_BYTES)
    steps = -(-blocks // chunks)
    starts = [aligned(lanes * steps * chunks) + SLACK]
    for count in (pixels, pixels, (height // 2) * (width // 2)):
        starts.append(starts[-1] + aligned(2 * count) + 2 * SLACK)
    luma, redness, half = (start // 2 for start in starts[:3])
    return PlaneSizes(height, width, lanes, steps, chunks, luma, redness, half, starts[-1])


@dataclass(frozen=True, eq=False)
class Planes:
    """The planes as buffers: luma as codes uint8 and as int16, red less green, and sums of 2x2 pixels of luma."""

    sizes: PlaneSizes
    codes: Any
    luma: Any
    redness: Any
    half: Any

    @classmethod
    def within(cls, workspace: Any, sizes: PlaneSizes) -> "Planes":
        """Returns them as parts of a buffer of `sizes.total` bytes."""

        def words(start: int, end: int) -> Any:
            return T.decl_buffer((end - start,), "int16", data=workspace.data, elem_offset=start)

        luma = words(sizes.luma, sizes.redness)
        redness = words(sizes.redness, sizes.half)
        return cls(sizes, workspace, luma, redness, words(sizes.half, sizes.total // 2))


def make_planes(vectors: Vectors, picture: Any, planes: Planes) -> None:
    """Fills the planes from a picture's bytes, red, green and blue in turn."""
    pixels = planes.sizes.pixels
    if vectors.size == 1:
        with T.serial(pixels) as i:
            _put_pixels(planes, i, [T.cast(picture[3 * i + c], "uint16") for c in range(3)], 1)
    else:
        with T.serial(-(-pixels // PIXELS)) as block:
            begin = T.bind(T.min(block * PIXELS, pixels - PIXELS))
            triples = T.bind(picture[run(3 * begin, 3 * PIXELS)])
            colors = [T.Shuffle([triples], list(range(c, 3 * PIXELS, 3))) for c in range(3)]
            _put_pixels(planes, begin, [T.cast(T.bind(c), vector("uint16", PIXELS)) for c in colors], PIXELS)
    _pad_codes(planes)
    _make_half(vectors, planes)


def _put_pixels(planes: Planes, begin: Any, colors: list[Any], lanes: int) -> None:
    """Stores the planes of `lanes` pixels of colors uint16; luma needs all 16 bits of its products."""
    weighted = [T.bind(c) * splat(w, "uint16", lanes) for c, w in zip(colors, LUMA_WEIGHTS, strict=True)]
    rounded = weighted[0] + weighted[1] + weighted[2] + splat(128, "uint16", lanes)
    luma = T.bind(
        T.cast(
            T.shift_right(T.cast(rounded, vector("uint16", lanes)), splat(8, "uint16", lanes)), vector("uint16", lanes)
        )
    )
    store(planes.codes, begin, T.cast(luma, vector("uint8", lanes)), lanes)
    store(planes.luma, begin, T.cast(luma, vector("int16", lanes)), lanes)
    red, green = (T.cast(c, vector("int16", lanes)) for c in colors[:2])
    store(planes.redness, begin, red - green, lanes)


def _pad_codes(planes: Planes) -> None:
    sizes = planes.sizes
    if sizes.codes > sizes.pixels:
        with T.serial(sizes.codes - sizes.pixels) as i:
            T.buffer_store(planes.codes, T.uint8(255), [sizes.pixels + i])


def _make_half(vectors: Vectors, planes: Planes) -> None:
    """Adds up luma in squares of 2x2 pixels; a last odd row or column is left out."""
    height, width = planes.sizes.height // 2, planes.sizes.width // 2
    lanes = vectors.words(width)

    def pairs(row: Any, x: Any) -> Any:
        begin = row * planes.sizes.width + 2 * x
        if lanes == 1:
            return planes.luma[begin] + planes.luma[begin + 1]
        two = T.bind(T.reinterpret(load(planes.codes, begin, 2 * lanes), dtype=vector("int16", lanes)))
        low = T.bitwise_and(two, splat(255, "int16", lanes))
        return low + T.bitwise_and(T.shift_right(two, splat(8, "int16", lanes)), splat(255, "int16", lanes))

    with T.grid(height, -(-width // lanes)) as (y, block):
        x = T.bind(block * lanes)
        # a last vector that is too long writes into the next row, which follows
        store(planes.half, y * width + x, pairs(2 * y, x) + pairs(2 * y + 1, x), lanes)
