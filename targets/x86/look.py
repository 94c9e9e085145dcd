"""Vectors of x86 for a bundle's look: sums of neighbours in one instruction."""

from typing import Any

from tvm.tirx.script import builder as T

from targets import Target
from targets.cpu.look.vectors import Vectors, splat, vector
from targets.x86.epilogue import intrinsic

# bytes of a vector -> LLVM's intrinsic
_MULTIPLY_ADD = {16: "x86.sse2.pmadd.wd", 32: "x86.avx2.pmadd.wd", 64: "x86.avx512.pmaddw.d.512"}
_DIFFERENCES = {16: "x86.sse2.psad.bw", 32: "x86.avx2.psad.bw", 64: "x86.avx512.psad.bw.512"}


def _sum_words(v: Any, lanes: int) -> Any:
    return intrinsic(_MULTIPLY_ADD[2 * lanes], vector("int32", lanes // 2), v, splat(1, "int16", lanes))


def _sum_bytes(v: Any, lanes: int) -> Any:
    """Sums eight bytes in the lower half of every int64, whose upper half is zero."""
    sums = intrinsic(_DIFFERENCES[lanes], vector("int64", lanes // 8), v, splat(0, "uint8", lanes))
    return T.reinterpret(T.bind(sums), dtype=vector("int32", lanes // 4))


def vectors(target: Target) -> Vectors:
    """Returns the vectors of a level."""
    size = 64 if "avx512bw" in target.requires else 32
    return Vectors(size, _sum_words, _sum_bytes)
