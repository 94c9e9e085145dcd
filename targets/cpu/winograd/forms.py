"""Winograd's minimal filtering for 3x3 convolutions, exact in integers: forms, their ranges and their proofs.

A form computes m outputs of a filter of 3 taps from m + 2 inputs with m + 2 multiplications where 3m were
[Winograd 1980; Lavin and Gray 2015, arXiv:1509.09308]; a tiling takes one form down and one across:

    V = B^T d B,  U = G g G^T,  M = sum over input channels of V * U,  factors * outputs = A^T M A

G and A are scaled so that everything is an integer. All sums may wrap around modulo 2**32: the odd part of a factor is
divided out by its inverse there, and the power of two, of which the largest is 4 or 64, by a shift, exact as long as
the output times that power fits 31 bits. Codes of few bits fit bytes even as V, and their weights as U.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from targets.kernel import Step
from targets.reference.nodes import Conv


@dataclass(frozen=True, eq=False)
class Form:
    """Minimal filtering in one dimension, `factors` [m] being what each output comes out multiplied by.

    codes: B^T [n, n]; weights: G [n, 3]; sums: A^T [m, n]. apart and together multiply by B^T and A^T, in a list of
    values, with few additions; `keep` names a value that is used twice.
    """

    codes: np.ndarray
    weights: np.ndarray
    sums: np.ndarray
    factors: np.ndarray
    apart: Callable[[list, Callable], list]
    together: Callable[[list, Callable], list]

    @property
    def outputs(self) -> int:
        """Outputs m of one application."""
        return self.sums.shape[0]

    @property
    def inputs(self) -> int:
        """Codes n that it reads."""
        return self.sums.shape[1]


def _two_apart(d: list, _: Callable) -> list:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _two_together(m: list, _: Callable) -> list:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _twice(x, keep):
    x = keep(x)
    return keep(x + x)


def _four_apart(d: list, keep) -> list:
    double = lambda x: _twice(x, keep)  # noqa: E731
    even, odd = keep(d[4] - double(double(d[2]))), keep(d[3] - double(double(d[1])))
    near, far = keep(d[4] - d[2]), double(d[3] - d[1])
    first, last = double(double(d[0] - d[2])) + near, d[5] - d[3] - double(far)
    return [first, even + odd, even - odd, near + far, near - far, last]


def _four_together(m: list, keep) -> list:
    double = lambda x: _twice(x, keep)  # noqa: E731
    a, b, c, d = keep(m[1] + m[2]), keep(m[1] - m[2]), keep(m[3] + m[4]), keep(m[3] - m[4])
    six = lambda x: double(keep(x + double(x)))  # noqa: E731
    return [six(m[0]) + c - double(double(a)), d - double(b), c - a, double(d) - b + six(m[5])]


TWO = Form(
    codes=np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    weights=np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]),
    sums=np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
    factors=np.array([2, 2]),
    apart=_two_apart,
    together=_two_together,
)
FOUR = Form(
    codes=np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
    ),
    weights=np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [1, -2, 4], [0, 0, 1]]),
    sums=np.array([[6, -4, -4, 1, 1, 0], [0, -2, 2, 1, -1, 0], [0, -1, -1, 1, 1, 0], [0, -1, 1, 2, -2, 6]]),
    factors=np.array([24, 12, 6, 6]),
    apart=_four_apart,
    together=_four_together,
)


@dataclass(frozen=True)
class Tiling:
    """A form down and a form across; positions of V, U and M are counted row by row."""

    down: Form
    across: Form

    @property
    def outputs(self) -> tuple[int, int]:
        """Rows and columns of a tile."""
        return self.down.outputs, self.across.outputs

    @cached_property
    def positions(self) -> int:
        """Elements of V, U and M."""
        return self.down.inputs * self.across.inputs

    @cached_property
    def signs(self) -> np.ndarray:
        """int64 [outputs, positions]: A^T M A as one matrix."""
        return np.kron(self.down.sums, self.across.sums)

    @cached_property
    def factors(self) -> np.ndarray:
        """int64 [outputs]."""
        return np.kron(self.down.factors, self.across.factors)

    @cached_property
    def shifts(self) -> list[int]:
        """The power of two in each factor."""
        return [int(f & -f).bit_length() - 1 for f in self.factors]

    @property
    def inverse(self) -> int:
        """Of the factors' odd part, modulo 2**32, as an int32."""
        (odd,) = {int(f) >> s for f, s in zip(self.factors, self.shifts, strict=True)}
        inverse = pow(odd, -1, 1 << 32)
        return inverse - (1 << 32) if inverse >> 31 else inverse

    @property
    def matrix(self) -> np.ndarray:
        """int64 [positions, 9]: U of weights, G g G^T, as one matrix."""
        return np.kron(self.down.weights, self.across.weights)

    def transform(self, weight: np.ndarray) -> np.ndarray:
        """int64 [positions, O, I]: U of weights [O, 3, 3, I]."""
        o, _, _, i = weight.shape
        return np.einsum("pt,oti->poi", self.matrix, weight.reshape(o, 9, i).astype(np.int64))

    def ranges(self, qmax: int) -> tuple[np.ndarray, np.ndarray]:
        """int64 [positions]: the least and the largest V of codes 0..qmax."""
        matrix = np.kron(self.down.codes, self.across.codes)
        return np.minimum(matrix, 0).sum(1) * qmax, np.maximum(matrix, 0).sum(1) * qmax

    def tiles(self, shape: tuple[int, int, int]) -> tuple[int, int]:
        """Rows and columns of tiles that cover an output; the last ones may overlap those before."""
        return -(-shape[0] // self.outputs[0]), -(-shape[1] // self.outputs[1])

    def applies(self, step: Step) -> bool:
        """A dense 3x3 convolution of stride 1, at least a tile large, whose sums fit."""
        node = step.node
        if not isinstance(node, Conv) or node.groups != 1 or node.weight.shape[1:3] != (3, 3):
            return False
        if node.stride != (1, 1) or not node.is_regular:
            return False
        enough = all(s >= m for s, m in zip(step.write.tensor.shape, self.outputs, strict=False))
        return enough and largest(node.weight, step.reads[0].tensor.qmax) << max(self.shifts) < 1 << 31


def largest(weight: np.ndarray, qmax: int) -> int:
    """Largest |sum| of raw codes 0..qmax times the weights [O, ...], in any output channel."""
    flat = weight.astype(np.int64).reshape(len(weight), -1)
    return qmax * int(max(np.maximum(flat, 0).sum(1).max(), -np.minimum(flat, 0).sum(1).min()))
