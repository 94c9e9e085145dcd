"""Vectors of ARM for a bundle's look: sums of neighbours in one instruction."""

from typing import Any

from tvm.tirx.script import builder as T

from targets import Target
from targets.arm.epilogue import neon
from targets.cpu.look.vectors import Vectors, vector


def _sum_words(v: Any, lanes: int) -> Any:
    return _add_pairs(v, lanes, 16)


def _sum_bytes(v: Any, lanes: int) -> Any:
    return _add_pairs(T.bind(_add_pairs(v, lanes, 8)), lanes // 2, 16)


def _add_pairs(v: Any, lanes: int, bits: int) -> Any:
    """Returns int vectors of twice the bits of one register, whose lanes are nowhere negative."""
    sums = f"v{lanes // 2}i{2 * bits}.v{lanes}i{bits}"
    return neon(f"uaddlp.{sums}", vector(f"int{2 * bits}", lanes // 2), v)


def vectors(target: Target) -> Vectors:  # noqa: ARG001  (all of them have NEON)
    """Returns the vectors of a level."""
    return Vectors(16, _sum_words, _sum_bytes)
