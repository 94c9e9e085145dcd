"""Winograd's convolution on x86's multipliers: bytes where the transformed codes and weights fit them, else int16."""

import numpy as np
from tvm.tirx.script import builder as T

from targets.epilogue import Epilogues
from targets.kernel import Kernel, Step
from targets.vector import LANES
from targets.winograd import Multiplier, applies, arrange, largest, transform, winograd
from targets.x86.multiply_add import intrinsic, longest_chain

ROWS = 6  # tiles by two vectors of sums: 12 of AVX2's 16 registers
INT16_MAX = (1 << 15) - 1


def byte_chain(u: np.ndarray, qmax: int) -> int:
    """How many vpmaddubsw of an arranged U fit one int16 sum, V within 0..4 * qmax; 0: not even one."""
    if np.abs(u).max() > 127 or 4 * qmax > 255:
        return 0
    blocks, positions, steps = u.shape[:3]
    return longest_chain(u.reshape(blocks * positions, 1, steps, 2, 8, 4), 4 * qmax)


def halves_fit(weight: np.ndarray, qmax: int) -> bool:
    """Whether four times the outputs fit int16 when input channels are summed in two halves, 0 1 and 2 3 of each 4."""
    o, i = len(weight), weight.shape[3]
    full = np.zeros((o, 9, -(-i // 4) * 4), np.int64)
    full[:, :, :i] = weight.reshape(o, 9, i)
    halves = full.reshape(o, -1, 2, 2).transpose(0, 2, 1, 3).reshape(o * 2, -1)
    return 4 * largest(halves, qmax) <= INT16_MAX


def multipliers(step: Step, vnni: bool) -> list[Multiplier]:
    """All that compute the step exactly, the fastest first."""
    if not applies(step):
        return []
    weight, qmax = step.node.weight, step.reads[0].tensor.qmax
    u = transform(weight)
    chain, offset = byte_chain(arrange(u, LANES, 4, 4), qmax), (0, 2 * qmax)
    vector = 32 if weight.shape[3] > 16 else 16
    fit = np.abs(u).max() <= 127 and 4 * qmax <= 255
    found = []
    common = dict(block=LANES, rows=ROWS, vector=vector, step=4)
    if vnni and fit:
        found.append(Multiplier("Winograd, dot product", "uint8", "int32", offset, products=_dot, **common))
    if not vnni and chain and halves_fit(weight, qmax):
        found.append(Multiplier("Winograd, int16", "uint8", "int16", offset, products=_pairs, widen=_widen, **common))
    if not vnni and chain:
        found.append(Multiplier(f"Winograd, int16 chain {chain}", "uint8", "int32", offset,
                                products=lambda *a: _chained(*a, chain=chain), **common))
    common = dict(block=LANES, rows=ROWS, vector=16, step=2)
    found.append(Multiplier("Winograd, widened", "int16", "int32", (0, 0),
                            products=_wide_dot if vnni else _wide, **common))
    return found


def multiply_add(step: Step, epilogues: Epilogues) -> Kernel | None:
    found = multipliers(step, False)
    return winograd(step, epilogues, found[0]) if found else None


def dot_product(step: Step, epilogues: Epilogues) -> Kernel | None:
    found = multipliers(step, True)
    return winograd(step, epilogues, found[0]) if found else None


def _registers(count: int, dtype: str, lanes: int):
    buffer = T.alloc_buffer((count * lanes,), dtype, scope="local", annotations={"disable_lower_builtin": True})
    for i in range(count):
        T.buffer_store(buffer, T.broadcast(T.cast(0, dtype), lanes), [T.ramp(i * lanes, 1, lanes)])
    return buffer


def _accumulate(acc, lanes: int, v, weights, codes, filters, rows: int, k, product) -> None:
    """acc = product(acc, four bytes of V repeated, 32 bytes of U) for every tile and both vectors."""
    four = 4 if str(v.dtype) == "uint8" else 2
    dtype = "uint8x32" if four == 4 else "int16x16"
    ws = [weights[T.ramp(filters(k) + i * 32, 1, 32)] for i in range(2)]
    if four == 2:
        ws = [T.reinterpret(w, dtype="int16x16") for w in ws]
    ws = [T.bind(w) for w in ws]
    for row in range(rows):
        word = T.reinterpret(v[T.ramp(codes(row, k), 1, four)], dtype="int32")
        x = T.bind(T.reinterpret(T.broadcast(word, 8), dtype=dtype))
        for i in range(2):
            at = T.ramp((row * 2 + i) * lanes, 1, lanes)
            T.buffer_store(acc, product(acc[at], x, ws[i]), [at])


def _whole(product, dtype: str, lanes: int):
    """Products that sum all steps in one run."""

    def products(v, weights, codes, filters, put, rows, steps):
        acc = _registers(rows * 2, dtype, lanes)
        with T.serial(steps) as k:
            _accumulate(acc, lanes, v, weights, codes, filters, rows, k, product)
        for i in range(rows * 2):
            put(i // 2, i % 2, acc[T.ramp(i * lanes, 1, lanes)], lanes)

    return products


def _bytes(acc, x, w):
    return acc + intrinsic("avx2.pmadd.ub.sw", "int16x16", x, w)


def _ones():
    return T.broadcast(T.int16(1), 16)


def _chained(v, weights, codes, filters, put, rows, steps, chain) -> None:
    """Runs of `chain` steps in int16, then in int32."""
    runs = -(-steps // chain)
    acc = _registers(rows * 2, "int32", 8) if runs > 1 else None

    def run(first, count, last):
        sums = _registers(rows * 2, "int16", 16)
        with T.serial(count) as k:
            _accumulate(sums, 16, v, weights, codes, filters, rows, first + k, _bytes)
        for i in range(rows * 2):
            at = T.ramp(i * 8, 1, 8)
            wide = intrinsic("avx2.pmadd.wd", "int32x8", sums[T.ramp(i * 16, 1, 16)], _ones())
            wide = wide if acc is None else wide + acc[at]
            if last:
                put(i // 2, i % 2, wide, 8)
            else:
                T.buffer_store(acc, wide, [at])

    if runs > 1:
        with T.serial(runs - 1) as r:
            run(r * chain, chain, False)
    run((runs - 1) * chain, steps - (runs - 1) * chain, True)


def _widen(pairs):
    """int32x16 of int16x32: neighbours added."""
    sums = [intrinsic("avx2.pmadd.wd", "int32x8", T.Shuffle([pairs], list(range(i, i + 16))), _ones()) for i in (0, 16)]
    return T.Shuffle(sums, list(range(LANES)))


_pairs = _whole(_bytes, "int16", 16)
_dot = _whole(lambda acc, x, w: intrinsic("avx512.vpdpbusd.256", "int32x8", acc, x, w), "int32", 8)
_wide = _whole(lambda acc, x, w: acc + intrinsic("avx2.pmadd.wd", "int32x8", x, w), "int32", 8)
_wide_dot = _whole(lambda acc, x, w: intrinsic("avx512.vpdpwssd.256", "int32x8", acc, x, w), "int32", 8)
