"""Winograd's convolution on x86's multipliers: bytes where the transformed codes and weights fit them, else int16."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from targets.cpu.epilogue import Epilogues
from targets.cpu.vector import LANES
from targets.cpu.winograd.forms import FOUR, TWO, Tiling
from targets.cpu.winograd.kernel import arrange, winograd
from targets.cpu.winograd.plan import Multiplier, Operands, Plan
from targets.kernel import Kernel, Step
from targets.x86.multiply_add import arrange as arrange_direct
from targets.x86.multiply_add import intrinsic, longest_chain

TILE = 4  # pixels of a direct kernel
ROWS = {16: 6, 32: 8}  # vector registers -> tiles by two vectors of sums
CACHE = 1 << 18  # bytes of weights that stay near
MARGIN = 1.1  # what a larger copy of the weights must gain
TILINGS = {"2x2": Tiling(TWO, TWO), "4x2": Tiling(FOUR, TWO), "4x4": Tiling(FOUR, FOUR)}


def byte_chain(u: np.ndarray, largest: int) -> int:
    """Returns how many vpmaddubsw of an arranged U [blocks, positions, K, 16, 4] fit one int16 sum; 0: not even one.

    V lies within 0..largest.
    """
    blocks, positions, steps = u.shape[:3]
    return longest_chain(u.reshape(blocks * positions, 1, steps, 2, 8, 4), largest)


def plans(step: Step[Any], vnni: bool, registers: int) -> list[Plan]:
    """Returns all plans that compute the step exactly."""
    exact = []
    for name, tiling in TILINGS.items():
        if not tiling.applies(step):
            continue
        weight, qmax = step.node.weight, step.reads[0].tensor.qmax
        u = tiling.transform(weight)
        least, most = tiling.ranges(qmax)
        small = Multiplier("", "uint8", LANES, ROWS[registers], 32 if weight.shape[3] > 16 else 16, 4, 4, _dot)
        large = Multiplier(
            f"Winograd {name} of int16", "int16", LANES, ROWS[registers], 16, 2, 2, _wide_dot if vnni else _wide
        )
        if small.offsets(tiling, qmax) is not None and u.min() >= -128 and u.max() <= 127:
            if vnni:
                exact.append(Plan(step, tiling, replace(small, rule=f"Winograd {name} of bytes, dot product")))
            elif chain := byte_chain(arrange(u, LANES, 4, 4), int((most - least).max())):
                rule = f"Winograd {name} of bytes, int16 chain {chain}"
                chained = replace(small, rule=rule, products=partial(_chained, chain=chain))
                exact.append(Plan(step, tiling, chained))
        if large.offsets(tiling, qmax) is not None:
            exact.append(Plan(step, tiling, large))
    return [plan for plan in exact if plan.fits()]


def cost(plan: Plan) -> float:
    """Returns about what a plan costs, in products of 32 bytes.

    Fitted on 22 shapes at 8, 4 and 2 bits (Zen 4), where choices by it are within 6 % of the best on average. Weights
    beyond CACHE count more, a first pass as if another layer came between.
    """
    products, values, sums, size = plan.work()
    additions = (plan.tiling.down.inputs + plan.tiling.across.inputs) / 8  # compared with 2x2
    beyond = max(0, size - CACHE) / 64
    return products / 8 + (values + sums) / 4 * additions**2 + size / 32 + beyond * (6 + 2 * plan.bands.bands)


def direct_cost(step: Step, vnni: bool) -> float:
    """Returns about what the direct kernel (targets/x86/multiply_add.py) costs, likewise."""
    oh, ow, _ = step.write.tensor.shape
    weight = arrange_direct(step.node.weight)
    chain = 0 if vnni else longest_chain(weight, step.reads[0].tensor.qmax)
    each = 1.0 if vnni else 1.0 + 0.7 / chain if chain else 2.8
    tile = min(TILE, ow)
    return (oh * -(-ow // tile) * tile * each + 1) * weight.size / 32 + 8 * max(0, weight.size - CACHE) / 64


def _cheapest(step: Step, epilogues: Epilogues, vnni: bool, registers: int) -> Kernel | None:
    plan = min(plans(step, vnni, registers), key=cost, default=None)
    return winograd(plan, epilogues) if plan is not None and cost(plan) * MARGIN < direct_cost(step, vnni) else None


def winograd_multiply_add(step: Step, epilogues: Epilogues) -> Kernel | None:
    """Winograd's convolution on AVX2."""
    return _cheapest(step, epilogues, False, 16)


def winograd_dot_product(step: Step, epilogues: Epilogues) -> Kernel | None:
    """Winograd's convolution on AVX-VNNI."""
    return _cheapest(step, epilogues, True, 16)


def winograd_dot_product_32(step: Step, epilogues: Epilogues) -> Kernel | None:
    """Winograd's convolution on AVX-512 VNNI, which has twice the registers."""
    return _cheapest(step, epilogues, True, 32)


def _registers(count: int, dtype: str, lanes: int):
    buffer = T.alloc_buffer((count * lanes,), dtype, scope="local", annotations={"disable_lower_builtin": True})
    for i in range(count):
        T.buffer_store(buffer, T.broadcast(T.cast(0, dtype), lanes), [T.ramp(i * lanes, 1, lanes)])
    return buffer


def _accumulate(acc: Any, lanes: int, operands: Operands, k: Any, product: Callable[[Any, Any, Any], Any]) -> None:
    """acc = product(acc, four bytes of V repeated, 32 bytes of U) for every tile and both vectors."""
    v = operands.v
    four, dtype = (4, "uint8x32") if str(v.dtype) == "uint8" else (2, "int16x16")
    ws = [operands.weights[T.ramp(operands.filters(k) + i * 32, 1, 32)] for i in range(2)]
    ws = [T.bind(w if four == 4 else T.reinterpret(w, dtype=dtype)) for w in ws]
    for row in range(operands.rows):
        word = T.reinterpret(v[T.ramp(operands.codes(row, k), 1, four)], dtype="int32")
        x = T.bind(T.reinterpret(T.broadcast(word, 8), dtype=dtype))
        for i in range(2):
            at = T.ramp((row * 2 + i) * lanes, 1, lanes)
            T.buffer_store(acc, product(acc[at], x, ws[i]), [at])


def _whole(product: Callable[[Any, Any, Any], Any]) -> Callable[[Operands], None]:
    """Products that are summed in int32 at once."""

    def products(operands: Operands) -> None:
        acc = _registers(operands.rows * 2, "int32", 8)
        with T.serial(operands.groups) as k:
            _accumulate(acc, 8, operands, k, product)
        for i in range(operands.rows * 2):
            operands.put(i // 2, i % 2, acc[T.ramp(i * 8, 1, 8)], 8)

    return products


def _chained(operands: Operands, chain: int) -> None:
    """Runs of `chain` steps in int16, then in int32."""
    rows, groups = operands.rows, operands.groups
    runs, ones = -(-groups // chain), T.broadcast(T.int16(1), 16)
    acc = _registers(rows * 2, "int32", 8) if runs > 1 else None

    def product(acc: Any, x: Any, w: Any) -> Any:
        return acc + intrinsic("avx2.pmadd.ub.sw", "int16x16", x, w)

    def run(first: Any, count: int, last: bool) -> None:
        sums = _registers(rows * 2, "int16", 16)
        with T.serial(count) as k:
            _accumulate(sums, 16, operands, first + k, product)
        for i in range(rows * 2):
            at = T.ramp(i * 8, 1, 8)
            wide = intrinsic("avx2.pmadd.wd", "int32x8", sums[T.ramp(i * 16, 1, 16)], ones)
            wide = wide if acc is None else wide + acc[at]
            if last:
                operands.put(i // 2, i % 2, wide, 8)
            else:
                T.buffer_store(acc, wide, [at])

    if runs > 1:
        with T.serial(runs - 1) as r:
            run(r * chain, chain, False)
    run((runs - 1) * chain, groups - (runs - 1) * chain, True)


_dot = _whole(lambda acc, x, w: intrinsic("avx512.vpdpbusd.256", "int32x8", acc, x, w))
_wide = _whole(lambda acc, x, w: acc + intrinsic("avx2.pmadd.wd", "int32x8", x, w))
_wide_dot = _whole(lambda acc, x, w: intrinsic("avx512.vpdpwssd.256", "int32x8", acc, x, w))
