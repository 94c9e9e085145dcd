"""Where the weights of one kernel lie in a bundle, and what is made of them where they are loaded."""

import math
from dataclasses import dataclass

from runtime.fields import Fields

BITS = range(2, 9)


@dataclass(frozen=True)
class Transform:
    """How codes [O, T, I] become weights: the Kronecker product of down and across, [P, T], times them, then padded to
    whole blocks and steps, and laid out as [blocks, P, K, block, group], one or two bytes each."""

    LARGEST = 32  # entry: 32 * 32 times 128 codes of 8 bits are 2**24, which float32 still holds

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
        o, _, i = self.shape
        return len(self.down) * len(self.across) * self.padded(o, self.block) * self.padded(i, self.step) * self.bytes

    @staticmethod
    def padded(count: int, multiple: int) -> int:
        return -(-count // multiple) * multiple


@dataclass(frozen=True)
class Segment:
    """`count` codes of `bits` bits from byte `offset` of weights.bin, for byte `at` of the unpacked buffer."""

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


def parse_segment(f: Fields, total: int, stored: int) -> Segment:
    """Of its JSON object, within `total` unpacked bytes and `stored` bytes of the file; raises BundleError."""
    bits = f.whole("bits", BITS.start, BITS.stop - 1)
    transform = _transform(f.object("transform")) if "transform" in f.data else None
    s = Segment(f.whole("offset", 0, step=64), f.whole("count", 1), bits, f.whole("at", 0), transform)
    codes = s.count if transform is None else math.prod(transform.shape)
    f.require(s.count == codes, f"the {codes} codes that the transform takes", s.count)
    f.require(s.offset + s.stored <= stored, f"a segment within {stored} bytes", f.data)
    f.require(s.at + s.size <= total, f"weights within {total} unpacked bytes", f.data)
    return s


def _transform(f: Fields) -> Transform:
    shape, most = f.get("shape", list, "a list"), 1 << 16
    f.require(len(shape) == 3 and all(type(n) is int and 1 <= n <= most for n in shape), "a shape [O, T, I]", shape)
    t = Transform(
        tuple(shape),
        _form(f, "down"),
        _form(f, "across"),
        f.whole("block", 1, most),
        f.whole("step", 1, most),
        f.whole("group", 1, most),
        f.whole("bytes", 1, 2),
    )
    taps = len(t.down[0]) * len(t.across[0])
    f.require(shape[1] == taps <= 128, f"the {taps} taps of down and across, at most 128", shape)
    f.require(t.step % t.group == 0, f"a step of whole groups of {t.group}", t.step)
    return t


def _form(f: Fields, name: str) -> tuple[tuple[int, ...], ...]:
    rows = f.get(name, list, "a list of rows")
    small = all(
        isinstance(r, list) and r and all(type(x) is int and abs(x) <= Transform.LARGEST for x in r) for r in rows
    )
    f.require(0 < len(rows) <= 128 and small and len({len(r) for r in rows}) == 1, f"equal rows in {name}", rows)
    return tuple(map(tuple, rows))
