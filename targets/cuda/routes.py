"""Ways to multiply codes of given widths on tensor cores, all exact: which container, which instruction, which masks.

Activations lie in memory as bytes. Weights lie as words of 8-, 4- or 2-bit fields, `fields` to a byte, and are brought
into the instruction's container by a mask that leaves them at its top: sums come out 2**n too large, an exact shift at
the end takes that back. K is a sum's index; its order within a chunk of 8 stored words is the same on both sides:

    K offset 4*fields*j + 4*p + i  is byte i of activation word fields*j + p, and in stored weight word j byte i's field
    p, or for four fields 2*(p % 2) + p // 2

Lane (g, t) = divmod(lane, 4) of a warp holds, of a 16x8 tile, rows g and g + 8, words t and t + 4, columns 2t, 2t + 1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

WORDS = 8  # of a chunk of weights, for each output channel
INT4_UNTIL = 900  # __CUDA_ARCH__ from which u4.s4 is a routine, not an instruction: there pairs of 4 bits go as bytes


@dataclass(frozen=True)
class Route:
    """container: bits of a code inside the instruction, 8 or 4; stored: bits of a weight in memory, 8, 4 or 2."""

    container: int
    stored: int

    @property
    def fields(self) -> int:
        """Weights in a byte, and words that a lane reads at once of an activation row."""
        return 8 // self.stored

    @property
    def chunk(self) -> int:
        """Codes of K in a chunk."""
        return 4 * WORDS * self.fields

    @property
    def name(self) -> str:
        """Of the instruction's operands and of the weights in memory."""
        return f"u{self.container}s{self.container}_w{self.stored}"

    @property
    def scale(self) -> int:
        """Largest power of two by which a sum comes out too large, on any GPU."""
        return 1 << (8 - self.stored)

    def instructions(self) -> int:
        """Returns the m16n8 instructions that one chunk takes where u4.s4 is native."""
        return self.fields * self.container // 8

    def source(self) -> str:
        """Returns CUDA C++ of `multiply_NAME(d0..d3, a.., b0, b1)`: adds a chunk's products of a 16x8 tile to d.

        a: `fields` words each of (row g, words t), (g + 8, t), (g, t + 4), (g + 8, t + 4); b: words t and t + 4.
        """
        a = [f"a{i}" for i in range(4 * self.fields)]
        arguments = ", ".join([f"int& d{i}" for i in range(4)] + [f"unsigned {n}" for n in (*a, "b0", "b1")])
        return _function(f"void multiply_{self.name}({arguments})", self._bytes(a), self._nibbles(a))

    def unscale_source(self) -> str:
        """Returns CUDA C++ of `unscale_NAME(acc)`: the exact sum."""
        return _function(
            f"int unscale_{self.name}(int acc)",
            f"  return acc >> {8 - self.stored};\n",
            f"  return acc >> {4 - self.stored};\n" if self.container == 4 else "",
        )

    def _bytes(self, a: list[str]) -> str:
        n, mask = self.fields, 0x01010101 * (256 - (1 << (8 - self.stored)))
        lines = []
        for p in range(n):
            shift = 8 - self.stored * (_field(p, n) + 1)
            b = [f"(b{i} << {shift}) & {mask:#x}u" if n > 1 else f"b{i}" for i in (0, 1)]
            lines.append(_mma("m16n8k32", "u8", "s8", [a[i * n + p] for i in range(4)], b))
        return "".join(lines)

    def _nibbles(self, a: list[str]) -> str:
        if self.container == 8:
            return ""
        n, lines = self.fields, []
        for q in range(n // 2):
            words = [
                f"({a[i * n + 2 * q]} & 0x0f0f0f0fu) | (({a[i * n + 2 * q + 1]} << 4) & 0xf0f0f0f0u)" for i in range(4)
            ]
            b = [f"(b{i} << {2 - 2 * q}) & 0xccccccccu" if n > 2 else f"b{i}" for i in (0, 1)]
            lines.append(_mma("m16n8k64", "u4", "s4", words, b))
        return "".join(lines)

    def pack(self, weights: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """Returns int8 [bytes] of codes [N, K], N in eighths, K in chunks: words [K / chunk, N / 8, lane, 2]."""
        n, k = weights.shape
        codes = weights.reshape(n // 8, 8, k // self.chunk, 2, 4, self.fields, 4)  # block, g, chunk, half, t, p, i
        words = np.zeros(codes.shape[:5], np.uint32)
        for p in range(self.fields):
            for i in range(4):
                bits = codes[..., p, i].astype(np.int64) & ((1 << self.stored) - 1)
                words |= (bits << (8 * i + self.stored * _field(p, self.fields))).astype(np.uint32)
        return np.ascontiguousarray(words.transpose(2, 0, 1, 4, 3)).view(np.int8).reshape(-1)


ROUTES = tuple(Route(c, s) for c, s in ((4, 2), (4, 4), (8, 2), (8, 4), (8, 8)))


def choose(weight: npt.NDArray[Any], w_bits: int, a_bits: int, k: int, containers: tuple[int, ...] = (4, 8)) -> Route:
    """Returns the route of fewest instructions for sums over k codes, then of the least weight memory.

    weight: codes [O, ...] of w_bits. containers: those that the GPUs have instructions for. Raises ValueError where no
    route's sums fit into int32.
    """
    most = int(np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(1).max()) * ((1 << a_bits) - 1)
    routes = [r for r in ROUTES if r.container in containers and w_bits <= r.stored]
    fit = [r for r in routes if most * r.scale < 1 << 31 and (r.container == 8 or max(w_bits, a_bits) <= 4)]
    if not fit:
        raise ValueError(f"expected sums below 2**31, got {most}")
    return min(fit, key=lambda r: (-(-k // r.chunk) * r.instructions(), r.stored))


def _field(p: int, fields: int) -> int:
    """Where in its byte lies the field that meets activation word p: for four, u4.s4 takes two at a time."""
    return 2 * (p % 2) + p // 2 if fields == 4 else p


def _function(head: str, everywhere: str, int4: str) -> str:
    body = f"#if __CUDA_ARCH__ < {INT4_UNTIL}\n{int4}#else\n{everywhere}#endif\n" if int4 else everywhere
    return f"__forceinline__ __device__ {head} {{\n{body}}}\n"


def _mma(shape: str, a_type: str, b_type: str, a: list[str], b: list[str]) -> str:
    d = "{%0, %1, %2, %3}"
    text = f"mma.sync.aligned.{shape}.row.col.s32.{a_type}.{b_type}.s32 {d}, {{%4, %5, %6, %7}}, {{%8, %9}}, {d};"
    outputs = ", ".join(f'"+r"(d{i})' for i in range(4))
    words = ", ".join(f"w{i} = {value}" for i, value in enumerate((*a, *b)))
    inputs = ", ".join(f'"r"(w{i})' for i in range(6))
    return f'  {{\n    const unsigned {words};\n    asm volatile("{text}" : {outputs} : {inputs});\n  }}\n'
