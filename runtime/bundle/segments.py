"""Describes where a kernel's weights lie in a bundle, and how they are transformed when they are loaded."""

import math
from dataclasses import dataclass

from runtime.fields import Fields

BITS = range(2, 9)  # widths of stored integers, sign included
MOST_TAPS = 128
MOST_BLOCK = 1 << 16
# A transform gives at most this many bytes for each stored one, and for the padding of small layers
MOST_GROWTH = 64
MOST_PADDING = 1 << 20


@dataclass(frozen=True)
class Transform:
    """How stored codes [O, T, I] become the weights of a Winograd convolution, one or two bytes each.

    The Kronecker product of `down` and `across`, [P, T], is multiplied by the codes; output channels are padded to
    whole blocks and input channels to whole steps; the result is laid out as [blocks, P, K, block, group], where K is
    the number of groups of input channels.
    """

    LARGEST = 32  # entry of down and across: 32 * 32 times 128 codes of 8 bits are 2**24, which float32 still holds

    shape: tuple[int, int, int]
    down: tuple[tuple[int, ...], ...]
    across: tuple[tuple[int, ...], ...]
    block: int
    step: int
    group: int
    bytes: int

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        outputs, _, inputs = self.shape
        products = len(self.down) * len(self.across)
        return products * self.padded(outputs, self.block) * self.padded(inputs, self.step) * self.bytes

    @staticmethod
    def padded(count: int, multiple: int) -> int:
        """Returns the smallest multiple that is at least `count`."""
        return -(-count // multiple) * multiple


@dataclass(frozen=True)
class Segment:
    """A run of `count` codes of `bits` bits: from byte `offset` of weights.bin to byte `at` of the unpacked buffer."""

    offset: int
    count: int
    bits: int
    at: int
    transform: Transform | None = None

    @property
    def size(self) -> int:
        """Bytes in the unpacked buffer."""
        return self.count if self.transform is None else self.transform.size

    @property
    def stored(self) -> int:
        """Bytes in the file."""
        return -(-self.count * self.bits // 8)


def parse_segment(fields: Fields, total: int, stored: int) -> Segment:
    """Reads a segment that lies within `total` unpacked bytes and `stored` bytes of the file. Raises BundleError."""
    segment = Segment(
        bits=fields.whole("bits", BITS.start, BITS.stop - 1),
        offset=fields.whole("offset", 0, step=64),
        count=fields.whole("count", 1),
        at=fields.whole("at", 0),
        transform=_parse_transform(fields.object("transform")) if "transform" in fields.data else None,
    )
    codes = segment.count if segment.transform is None else math.prod(segment.transform.shape)
    fields.require(segment.count == codes, f"the {codes} codes that the transform takes", segment.count)
    fields.require(segment.offset + segment.stored <= stored, f"a segment within {stored} bytes", fields.data)
    most = MOST_GROWTH * segment.stored + MOST_PADDING
    fields.require(segment.size <= most, f"weights of {most} bytes at most of {segment.stored} stored", segment.size)
    fields.require(segment.at + segment.size <= total, f"weights within {total} unpacked bytes", fields.data)
    return segment


def _parse_transform(fields: Fields) -> Transform:
    transform = Transform(
        shape=_parse_shape(fields),
        down=_parse_matrix(fields, "down"),
        across=_parse_matrix(fields, "across"),
        block=fields.whole("block", 1, MOST_BLOCK),
        step=fields.whole("step", 1, MOST_BLOCK),
        group=fields.whole("group", 1, MOST_BLOCK),
        bytes=fields.whole("bytes", 1, 2),
    )
    taps = len(transform.down[0]) * len(transform.across[0])
    fields.require(
        transform.shape[1] == taps <= MOST_TAPS,
        f"the {taps} taps of down and across, at most {MOST_TAPS}",
        list(transform.shape),
    )
    whole_groups = transform.step % transform.group == 0
    fields.require(whole_groups, f"a step of whole groups of {transform.group}", transform.step)
    return transform


def _parse_shape(fields: Fields) -> tuple[int, int, int]:
    shape = fields.get("shape", list, "a list")
    whole = all(type(n) is int and 1 <= n <= MOST_BLOCK for n in shape)
    fields.require(len(shape) == 3 and whole, "a shape [O, T, I]", shape)
    outputs, taps, inputs = shape
    return outputs, taps, inputs


def _parse_matrix(fields: Fields, name: str) -> tuple[tuple[int, ...], ...]:
    rows = fields.get(name, list, "a list of rows")
    fields.require(0 < len(rows) <= MOST_TAPS and all(map(_is_row, rows)), f"rows of small integers in {name}", rows)
    fields.require(len({len(row) for row in rows}) == 1, f"equally long rows in {name}", rows)
    return tuple(tuple(row) for row in rows)


def _is_row(row: object) -> bool:
    """Whether this is a list of integers that a transform may have, one at least."""
    if not isinstance(row, list) or not row:
        return False
    return all(type(entry) is int and abs(entry) <= Transform.LARGEST for entry in row)
