"""How x86 kernels end: requantization in float32 or int16 where targets/x86/proof.py proves it, or 64-bit products.

A convolution's sums go to float32 as they are: the offset holds the bias. With a residual operand the exact int32 sum
of targets/cpu/epilogue.py is made first. AVX2 narrows with saturating packs, whose order of channels (0-3, 8-11, 4-7,
12-15) is put right in the last register; AVX-512 narrows in one instruction.
"""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx.script import builder as T

from targets import Target
from targets.cpu.epilogue import ConvEpilogue, Epilogues, RatioEpilogue
from targets.cpu.vector import LANES, load, splat, store
from targets.kernel import Buffers, Span, Step
from targets.reference.nodes import Add, AvgPool, Mul
from targets.tables import OFFSETS, folded_bias
from targets.x86.proof import LARGEST, Range, Scaling, float_scaling, fraction

FRACTION = OFFSETS - 1  # place in a ratio's table
PACKED = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15]  # channels as packs leave them; its own inverse


def intrinsic(name: str, dtype: str, *args: Any) -> Any:
    """Returns a call of one of LLVM's intrinsics."""
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(f"llvm.{name}"), *args, dtype=dtype)


def epilogues(target: Target) -> Epilogues:
    """Returns how kernels of a target end."""
    wide = "avx512bw" in target.requires
    return Epilogues(functools.partial(X86Conv, wide=wide), functools.partial(X86Ratio, wide=wide))


class _Scaled:
    """The part of both epilogues that leaves by float32. scaling: the proved constants, or None."""

    scaling: Scaling | None
    wide: bool

    @property
    def note(self) -> str:
        """What a rule's name should say of the epilogue."""
        return "" if self.scaling or self.step.node.requant is None else ", 64-bit codes"

    def sums(self, acc: Any, buffers: Buffers, span: Span) -> Any:
        """Returns the int32 vector that `scaling` was proved for. Raises NotImplementedError here."""
        raise NotImplementedError

    def constants(self, buffers: Buffers, column: Any) -> list[Any]:
        """Returns scale and offset, float32 vectors. Raises NotImplementedError here."""
        raise NotImplementedError

    def ratio(self, step: Step[Any], offsets: npt.NDArray[np.int64], *values: int, base: int = 0) -> "X86Ratio":
        """Returns the epilogue of a copy; offsets: int64 [C]."""
        return X86Ratio(step, offsets, *values, base=base, wide=self.wide)

    def put(self, acc: Any, buffers: Buffers, span: Span) -> None:
        """Stores the codes of a vector of int32 sums, and its copies."""
        if self.scaling is None or span.lanes != LANES:
            super().put(acc, buffers, span)
            return
        sums = T.cast(self.sums(acc, buffers, span), f"float32x{LANES}")
        scaled = intrinsic("fma", f"float32x{LANES}", sums, *self.constants(buffers, span.table_column))
        words = _saturated(T.cast(scaled, f"int32x{LANES}"), self.wide)
        self._leave(words, buffers, span)

    def _leave(self, words: Any, buffers: Buffers, span: Span) -> None:
        """Clamps, stores and hands on int16 codes, in the order of `_saturated`."""
        node, at = self.step.node, self.step.write.at(span.y, span.x, span.channel)
        if self._copies or self.wide:
            words = T.bind(_clamped(words, node.qmin, node.qmax, "int16"))
            store(buffers.writes[0], at, _bytes(words, self.wide), span.count)
        else:
            codes = _clamped(_bytes(words, self.wide), node.qmin, node.qmax, "uint8")
            store(buffers.writes[0], at, codes, span.count)
        for copy, write in zip(self._copies, buffers.writes[1:], strict=True):
            copy.put_words(words, replace(buffers, reads=(), writes=(write,)), replace(span, column=None))


class X86Conv(_Scaled, ConvEpilogue):
    """The end of a convolution. wide: whether to narrow by AVX-512's instructions."""

    def __init__(self, step: Step[Any], groups: int = 1, offset: int = 0, base: int = 0, *, wide: bool):
        self.wide = wide
        self.scaling = _conv_scaling(step, offset)
        super().__init__(step, groups, offset, base)

    def rows(self, step: Step[Any], offset: int) -> list[npt.NDArray[Any]]:
        """Returns rows [O]: what the table holds of a channel."""
        node = step.node
        if self.scaling is None:
            return super().rows(step, offset)
        rows = [*self.scaling.rows()]
        if node.skip is not None:
            rows += [folded_bias(node, step.reads, offset), node.requant.left, node.skip_multiplier]
        return rows

    def constants(self, buffers: Buffers, column: Any) -> list[Any]:
        """Returns scale and offset, float32 vectors."""
        return [T.reinterpret(self.entry(buffers, k, column), dtype=f"float32x{LANES}") for k in (0, 1)]

    def sums(self, acc: Any, buffers: Buffers, span: Span) -> Any:
        """Returns the int32 vector with what the residual operand adds."""
        if self.step.node.skip is None:
            return acc
        bias, left, multiplier = (self.entry(buffers, k, span.table_column) for k in (2, 3, 4))
        skip = load(buffers.reads[-1], self.step.reads[1].at(span.y, span.x, span.channel))
        return T.shift_left(acc, left) + bias + skip * multiplier


def _conv_scaling(step: Step[Any], offset: int) -> Scaling | None:
    node = step.node
    if node.requant is None or step.write.dtype == "int32":
        return None
    codes = Range(step.write.tensor.zero_point[0], node.qmin, node.qmax)
    if node.skip is not None:
        return float_scaling(node.requant, 0, 1 - LARGEST, LARGEST - 1, codes, shifted=False)
    weight, x = node.weight.astype(np.int64), step.reads[0].tensor
    ends = np.stack([weight * -offset, weight * (x.qmax - offset)])
    low, high = ends.min(0).sum((1, 2, 3)), ends.max(0).sum((1, 2, 3))
    return float_scaling(node.requant, folded_bias(node, step.reads, offset), low, high, codes)


class X86Ratio(_Scaled, RatioEpilogue):
    """The end of a node of one ratio. wide: whether to narrow by AVX-512's instructions."""

    def __init__(self, step: Step[Any], offsets: npt.NDArray[np.int64], *values: int, base: int = 0, wide: bool):
        node, codes = step.node, Range(step.write.tensor.zero_point[0], step.node.qmin, step.node.qmax)
        self.wide = wide
        self.scaling = _ratio_scaling(step, offsets, codes)
        zero_point = np.unique(-offsets)
        single = not values and not isinstance(node, AvgPool) and len(zero_point) == 1
        self.fraction = fraction(node.requant, int(zero_point[0]), codes) if single else None
        super().__init__(step, offsets, *values, base=base)

    def head(self, step: Step[Any], offsets: npt.NDArray[np.int64], *values: int) -> npt.NDArray[np.int32]:
        """Returns the epilogue's own part of the table, int32 [n]; offsets: int64 [C]."""
        table = super().head(step, offsets, *values)
        if self.scaling is not None:
            scale, offset = self.scaling.rows()
            table[0], table[OFFSETS : OFFSETS + offset.size] = scale[0], offset
        if self.fraction is not None:
            table[FRACTION] = self.fraction.multiplier * 0x10001  # twice, as int16
        return table

    def constants(self, buffers: Buffers, column: Any) -> list[Any]:
        """Returns scale and offset, float32 vectors."""
        words = splat(self._value(buffers, 0)), load(buffers.table, self.base + OFFSETS + column)
        return [T.reinterpret(w, dtype=f"float32x{LANES}") for w in words]

    def sums(self, acc: Any, buffers: Buffers, span: Span) -> Any:  # noqa: ARG002
        """Returns the sums as they are."""
        return acc

    def put_words(self, words: Any, buffers: Buffers, span: Span) -> None:
        """Stores the node's value of int16 codes in the order of `_saturated`."""
        if self.fraction is None:
            self.put(_ordered(words, self.wide), buffers, span)
            return

        def constant(value: int) -> Any:
            return T.broadcast(T.int16(value), LANES)

        zero_point = -int(self.step.reads[0].tensor.zero_points()[0])
        words = T.shift_left(words + constant(zero_point), constant(self.fraction.left))
        # From the table, so that variants which differ in their steps alone have the same code.
        multiplier = T.reinterpret(splat(self._value(buffers, FRACTION), LANES // 2), dtype=f"int16x{LANES}")
        words = intrinsic("x86.avx2.pmul.hr.sw", f"int16x{LANES}", words, multiplier)
        self._leave(words + constant(self.step.write.tensor.zero_point[0]), buffers, span)


def _ratio_scaling(step: Step[Any], offsets: npt.NDArray[np.int64], codes: Range) -> Scaling | None:
    node = step.node
    only = None
    if isinstance(node, Add):
        products = [np.arange(x.tensor.qmax + 1) * m for x, m in zip(step.reads, node.multipliers, strict=True)]
        only = np.unique(products[0][:, None] + products[1])
        low, high = only[0], only[-1]
    elif isinstance(node, Mul):
        a, b = (np.array([0, x.tensor.qmax]) - x.tensor.zero_point[0] for x in step.reads)
        corners = np.multiply.outer(a, b)
        low, high = corners.min(), corners.max()
    else:
        low, high = 0, step.reads[0].tensor.qmax * (int(np.prod(node.kernel)) if isinstance(node, AvgPool) else 1)
    return float_scaling(node.requant, offsets << node.requant.left, low, high, codes, only=only)


def _saturated(values: Any, wide: bool) -> Any:
    """int16x16 of int32x16: in order if wide, else as PACKED says."""
    if wide:
        return T.cast(_clamped(values, 0, 255, "int32"), f"int16x{LANES}")
    value = T.bind(values)
    halves = [T.Shuffle([value], list(range(i, i + 8))) for i in (0, 8)]
    return intrinsic("x86.avx2.packssdw", f"int16x{LANES}", *halves)


def _bytes(words: Any, wide: bool) -> Any:
    """uint8x16, channels in order, of the result of `_saturated`."""
    if wide:
        return T.cast(words, f"uint8x{LANES}")
    value = T.bind(words)
    halves = [T.Shuffle([value], list(range(i, i + 8))) for i in (0, 8)]
    packed = T.bind(T.reinterpret(intrinsic("x86.sse2.packuswb.128", "int8x16", *halves), dtype="uint8x16"))
    return T.Shuffle([packed], PACKED)


def _ordered(words: Any, wide: bool) -> Any:
    """int32x16, channels in order, of the result of `_saturated`."""
    value = T.cast(words, f"int32x{LANES}")
    return value if wide else T.Shuffle([T.bind(value)], PACKED)


def _clamped(values: Any, qmin: int, qmax: int, dtype: str) -> Any:
    values = values if dtype == "uint8" and qmax == 255 else T.min(values, splat(qmax, LANES, dtype))
    return values if dtype == "uint8" and qmin == 0 else T.max(values, splat(qmin, LANES, dtype))
