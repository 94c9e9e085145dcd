"""How x86 kernels end: requantization in float32 or int16 where targets/x86/proof.py proves it, or 64-bit products.

A convolution's sums go to float32 as they are: the offset holds the bias. With a residual operand the exact int32 sum
of targets/cpu/epilogue.py is made first. AVX2 narrows with saturating packs, whose order of channels (0-3, 8-11, 4-7,
12-15) is put right in the last register; AVX-512 narrows in one instruction.
"""

import functools

import numpy as np
from tvm.tirx.script import builder as T

from targets import Target
from targets.cpu.epilogue import OFFSETS, ConvEpilogue, Epilogues, RatioEpilogue
from targets.cpu.vector import LANES, folded_bias, load, splat, store
from targets.kernel import Step
from targets.reference.nodes import Add, AvgPool
from targets.x86.proof import LARGEST, Range, Scaling, float_scaling, fraction

FRACTION = OFFSETS - 1  # place in a ratio's table
PACKED = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15]  # channels as packs leave them; its own inverse


def intrinsic(name: str, dtype: str, *args):
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(f"llvm.{name}"), *args, dtype=dtype)


def epilogues(target: Target) -> Epilogues:
    wide = "avx512bw" in target.requires
    return Epilogues(functools.partial(X86Conv, wide=wide), functools.partial(X86Ratio, wide=wide))


class _Scaled:
    """The part of both epilogues that leaves by float32. scaling: the proved constants, or None."""

    scaling: Scaling | None
    wide: bool

    @property
    def note(self) -> str:
        return "" if self.scaling or self.step.node.requant is None else ", 64-bit codes"

    def sums(self, acc, reads, table, y, x, channel, column):
        """int32 vector that `scaling` was proved for."""
        raise NotImplementedError

    def constants(self, table, column):
        """Scale and offset, float32 vectors."""
        raise NotImplementedError

    def ratio(self, step: Step, offsets: np.ndarray, *values: int, base: int = 0) -> "X86Ratio":
        return X86Ratio(step, offsets, *values, base=base, wide=self.wide)

    def put(self, acc, reads, writes, table, y, x, channel, count: int, column=None, lanes: int = LANES) -> None:
        column = channel if column is None else column
        if self.scaling is None or lanes != LANES:
            super().put(acc, reads, writes, table, y, x, channel, count, column, lanes)
            return
        sums = T.cast(self.sums(acc, reads, table, y, x, channel, column), f"float32x{LANES}")
        scaled = intrinsic("fma", f"float32x{LANES}", sums, *self.constants(table, column))
        words = _saturated(T.cast(scaled, f"int32x{LANES}"), self.wide)
        self._leave(words, writes, table, y, x, channel, count)

    def _leave(self, words, writes, table, y, x, channel, count: int) -> None:
        """Clamps, stores and hands on int16 codes, in the order of `_saturated`."""
        node, layout = self.step.node, self.step.write
        if self._also or self.wide:
            words = T.bind(_clamped(words, node.qmin, node.qmax, "int16"))
            store(writes[0], layout.at(y, x, channel), _bytes(words, self.wide), count)
        else:
            codes = _clamped(_bytes(words, self.wide), node.qmin, node.qmax, "uint8")
            store(writes[0], layout.at(y, x, channel), codes, count)
        for also, write in zip(self._also, writes[1:], strict=True):
            also.put_words(words, write, table, y, x, channel, count)


class X86Conv(_Scaled, ConvEpilogue):
    """wide: whether to narrow by AVX-512's instructions."""

    def __init__(self, step: Step, groups: int = 1, offset: int = 0, base: int = 0, *, wide: bool):
        self.wide = wide
        self.scaling = _conv_scaling(step, offset)
        super().__init__(step, groups, offset, base)

    def rows(self, step: Step, offset: int) -> list:
        node = step.node
        if self.scaling is None:
            return super().rows(step, offset)
        skip = (
            []
            if node.skip is None
            else [folded_bias(node, step.reads, offset), node.requant.left, node.skip_multiplier]
        )
        return [*self.scaling.rows(), *skip]

    def constants(self, table, column):
        return [T.reinterpret(self.entry(table, k, column), dtype=f"float32x{LANES}") for k in (0, 1)]

    def sums(self, acc, reads, table, y, x, channel, column):
        if self.step.node.skip is None:
            return acc
        bias, left, multiplier = (self.entry(table, k, column) for k in (2, 3, 4))
        return T.shift_left(acc, left) + bias + load(reads[-1], self.step.reads[1].at(y, x, channel)) * multiplier


def _conv_scaling(step: Step, offset: int) -> Scaling | None:
    node = step.node
    if node.requant is None:
        return None
    codes = Range(step.write.tensor.zero_point[0], node.qmin, node.qmax)
    if node.skip is not None:
        return float_scaling(node.requant, 0, 1 - LARGEST, LARGEST - 1, codes, shifted=False)
    weight, x = node.weight.astype(np.int64), step.reads[0].tensor
    ends = np.stack([weight * -offset, weight * (x.qmax - offset)])
    low, high = ends.min(0).sum((1, 2, 3)), ends.max(0).sum((1, 2, 3))
    return float_scaling(node.requant, folded_bias(node, step.reads, offset), low, high, codes)


class X86Ratio(_Scaled, RatioEpilogue):
    """wide: whether to narrow by AVX-512's instructions."""

    def __init__(self, step: Step, offsets: np.ndarray, *values: int, base: int = 0, wide: bool):
        node, codes = step.node, Range(step.write.tensor.zero_point[0], step.node.qmin, step.node.qmax)
        self.wide = wide
        self.scaling = _ratio_scaling(step, offsets, codes)
        zero_point = np.unique(-offsets)
        single = not values and not isinstance(node, AvgPool) and len(zero_point) == 1
        self.fraction = fraction(node.requant, int(zero_point[0]), codes) if single else None
        super().__init__(step, offsets, *values, base=base)

    def head(self, step: Step, offsets: np.ndarray, *values: int) -> np.ndarray:
        table = super().head(step, offsets, *values)
        if self.scaling is not None:
            scale, offset = self.scaling.rows()
            table[0], table[OFFSETS : OFFSETS + offset.size] = scale[0], offset
        if self.fraction is not None:
            table[FRACTION] = self.fraction.multiplier * 0x10001  # twice, as int16
        return table

    def constants(self, table, column):
        words = splat(self._value(table, 0)), load(table, self.base + OFFSETS + column)
        return [T.reinterpret(w, dtype=f"float32x{LANES}") for w in words]

    def sums(self, acc, reads, table, y, x, channel, column):
        return acc

    def put_words(self, words, write, table, y, x, channel, count: int) -> None:
        """The node's value of int16 codes in the order of `_saturated`."""
        if self.fraction is None:
            self.put(_ordered(words, self.wide), (), (write,), table, y, x, channel, count)
            return
        constant = lambda value: T.broadcast(T.int16(value), LANES)  # noqa: E731
        zero_point = -int(self.step.reads[0].tensor.zero_points()[0])
        words = T.shift_left(words + constant(zero_point), constant(self.fraction.left))
        # From the table, so that variants which differ in their steps alone have the same code.
        multiplier = T.reinterpret(splat(self._value(table, FRACTION), LANES // 2), dtype=f"int16x{LANES}")
        words = intrinsic("x86.avx2.pmul.hr.sw", f"int16x{LANES}", words, multiplier)
        self._leave(words + constant(self.step.write.tensor.zero_point[0]), (write,), table, y, x, channel, count)


def _ratio_scaling(step: Step, offsets: np.ndarray, codes: Range) -> Scaling | None:
    node, only = step.node, None
    if isinstance(node, Add):
        products = [np.arange(x.tensor.qmax + 1) * m for x, m in zip(step.reads, node.multipliers, strict=True)]
        only = np.unique(products[0][:, None] + products[1])
        low, high = only[0], only[-1]
    else:
        low, high = 0, step.reads[0].tensor.qmax * int(np.prod(getattr(node, "kernel", 1)))
    return float_scaling(node.requant, offsets << node.requant.left, low, high, codes, only=only)


def _saturated(values, wide: bool):
    """int16x16 of int32x16: in order if wide, else as PACKED says."""
    if wide:
        return T.cast(_clamped(values, 0, 255, "int32"), f"int16x{LANES}")
    value = T.bind(values)
    halves = [T.Shuffle([value], list(range(i, i + 8))) for i in (0, 8)]
    return intrinsic("x86.avx2.packssdw", f"int16x{LANES}", *halves)


def _bytes(words, wide: bool):
    """uint8x16, channels in order, of the result of `_saturated`."""
    if wide:
        return T.cast(words, f"uint8x{LANES}")
    value = T.bind(words)
    halves = [T.Shuffle([value], list(range(i, i + 8))) for i in (0, 8)]
    packed = T.bind(T.reinterpret(intrinsic("x86.sse2.packuswb.128", "int8x16", *halves), dtype="uint8x16"))
    return T.Shuffle([packed], PACKED)


def _ordered(words, wide: bool):
    """int32x16, channels in order, of the result of `_saturated`."""
    value = T.cast(words, f"int32x{LANES}")
    return value if wide else T.Shuffle([T.bind(value)], PACKED)


def _clamped(values, qmin: int, qmax: int, dtype: str):
    values = values if dtype == "uint8" and qmax == 255 else T.min(values, splat(qmax, LANES, dtype))
    return values if dtype == "uint8" and qmin == 0 else T.max(values, splat(qmin, LANES, dtype))
