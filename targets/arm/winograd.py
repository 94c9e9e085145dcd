"""Winograd's convolution on NEON: bytes where the transformed codes and weights fit them, int16 for the A72's 8 bits.

    dot product (A76, A78AE)   sdot on bytes: 2.25 (2x2 tiles) or 3 (4x2) times fewer of them
    long multiplies (A72)      smlal: bytes into int16, `chain` at a time before they are widened, as many as the real
                               weights allow; or int16 into int32, half as many at once, 4 times fewer with 4x4

Output channels are the lanes, so that no sums are added across them.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from targets.arm.long_multiply import INT16_MAX
from targets.cpu.epilogue import Epilogues
from targets.cpu.vector import LANES
from targets.cpu.winograd.forms import FOUR, TWO, Tiling
from targets.cpu.winograd.kernel import winograd
from targets.cpu.winograd.plan import Multiplier, Operands, Plan
from targets.kernel import Kernel, Step

TILINGS = {"2x2": Tiling(TWO, TWO), "4x2": Tiling(FOUR, TWO), "4x4": Tiling(FOUR, FOUR)}
DOT, LONG = 32, 8  # products of bytes in a cycle
REQUANTIZED = 1.2  # cycles for each sum that becomes, or goes into, a code
SDOT = "llvm.aarch64.neon.sdot.v4i32.v16i8"


def longest_chain(u: np.ndarray, largest: np.ndarray) -> int:
    """Returns how many products of consecutive input channels fit int16; 0: not even one.

    U is [positions, O, I], |V| up to largest [positions].
    """
    products = np.abs(u) * largest[:, None, None]
    sums = np.concatenate([np.zeros_like(products[:, :, :1]), np.cumsum(products, 2)], 2)
    chain = 0
    while chain < u.shape[2] and (sums[:, :, chain + 1 :] - sums[:, :, : -chain - 1]).max() <= INT16_MAX:
        chain += 1
    return chain


def plans(step: Step[Any], dot: bool) -> list[Plan]:
    """Returns all plans that compute the step exactly and could pay."""
    exact = []
    for name, tiling in TILINGS.items():
        if not tiling.applies(step):
            continue
        u, qmax = tiling.transform(step.node.weight), step.reads[0].tensor.qmax
        small = Multiplier(f"Winograd {name} of bytes, dot product", "int8", LANES, 5, 16, 4, 16, _dot)
        offsets = small.offsets(tiling, qmax)
        if offsets is not None and u.min() >= -128 and u.max() <= 127:
            least, most = (r + offsets for r in tiling.ranges(qmax))
            chain = longest_chain(u, np.maximum(-least, most))
            if dot:
                exact.append(Plan(step, tiling, small))
            elif chain >= 4:
                long = replace(
                    small,
                    rule=f"Winograd {name} of bytes, int16 chain {chain}",
                    rows=4,
                    group=1,
                    step=8,
                    products=partial(_long, chain=chain // 4 * 4),
                )
                exact.append(Plan(step, tiling, long))
        if not dot and tiling.outputs == (4, 4):
            exact.append(Plan(step, tiling, Multiplier(f"Winograd {name} of int16", "int16", LANES, 4, 8, 1, 8, _wide)))
    return [plan for plan in exact if plan.fits()]


def winograd_dot_product(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Winograd's convolution by sdot, where it takes less than the direct kernel."""
    return _cheapest(plans(step, True), epilogues, DOT)


def winograd_long_multiply(step: Step[Any], epilogues: Epilogues) -> Kernel | None:
    """Winograd's convolution by long multiplies, where it takes less than the direct kernels."""
    return _cheapest(plans(step, False), epilogues, LONG)


def _cheapest(choices: list[Plan], epilogues: Epilogues, rate: int) -> Kernel | None:
    plan = min(choices, key=lambda p: cost(p, rate), default=None)
    return winograd(plan, epilogues) if plan is not None and cost(plan, rate) < direct_cost(plan.step, rate) else None


def cycles(step: Step[Any]) -> float:
    """Returns about how many cycles the cheapest takes by long multiplies; infinity where none applies."""
    return min((cost(plan, LONG) for plan in plans(step, False)), default=math.inf)


def cost(plan: Plan, rate: int) -> float:
    """Returns about how many cycles a plan takes, `rate` being the products of bytes in one."""
    products, values, sums, size = plan.work()
    each = plan.multiplier.group * plan.multiplier.bytes / rate
    return products * each + values / 4 * plan.multiplier.bytes + REQUANTIZED * sums + size / 16


def direct_cost(step: Step[Any], rate: int) -> float:
    """Returns about how many cycles the direct kernels take, likewise."""
    o, kh, kw, i = step.node.weight.shape
    oh, ow, _ = step.write.tensor.shape
    return (oh * ow * 16 / rate + 1) * (-(-o // 8) * 8) * kh * -(-kw * i // 16) + REQUANTIZED * oh * ow * o


def _registers(count: int, dtype: str, lanes: int) -> Any:
    buffer = T.alloc_buffer((count * lanes,), dtype, scope="local", annotations={"disable_lower_builtin": True})
    for i in range(count):
        T.buffer_store(buffer, T.broadcast(T.cast(0, dtype), lanes), [T.ramp(i * lanes, 1, lanes)])
    return buffer


def _dot(operands: Operands) -> None:
    """Four groups of four channels at a time."""
    v, weights, codes, filters = operands.v, operands.weights, operands.codes, operands.filters
    rows = operands.rows
    acc = _registers(rows * 4, "int32", 4)
    with T.serial(operands.groups // 4) as k:
        xs = [T.bind(T.reinterpret(v[T.ramp(codes(row, k * 4), 1, 16)], dtype="int32x4")) for row in range(rows)]
        for four in range(4):
            for quad in range(4):
                w = T.bind(weights[T.ramp(filters(k * 4 + four) + quad * 16, 1, 16)])
                for row in range(rows):
                    at = T.ramp((row * 4 + quad) * 4, 1, 4)
                    x = T.reinterpret(T.broadcast(T.Shuffle([xs[row]], [four]), 4), dtype="int8x16")
                    sums = T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(SDOT), acc[at], x, w, dtype="int32x4")
                    T.buffer_store(acc, sums, [at])
    for i in range(rows * 4):
        operands.put(i // 4, i % 4, acc[T.ramp(i * 4, 1, 4)], 4)


def _half(x: Any, i: int, lanes: int) -> Any:
    return T.Shuffle([x], list(range(i * lanes, (i + 1) * lanes)))


def _long(operands: Operands, chain: int) -> None:
    """Runs of `chain` channels in int16, a multiple of 4; then in int32."""
    v, weights, codes, filters = operands.v, operands.weights, operands.codes, operands.filters
    rows = operands.rows
    acc = _registers(rows * 2, "int32", 8)

    def run(first: Any, count: int) -> None:
        sums = _registers(rows * 2, "int16", 8)
        with T.serial(count // 4) as k:
            xs = [T.bind(v[T.ramp(codes(row, first + k * 4), 1, 4)]) for row in range(rows)]
            for i in range(4):
                w = T.bind(weights[T.ramp(filters(first + k * 4 + i), 1, 16)])
                halves = [T.bind(T.cast(_half(w, h, 8), "int16x8")) for h in range(2)]
                for row in range(rows):
                    x = T.bind(T.cast(T.broadcast(T.Shuffle([xs[row]], [i]), 8), "int16x8"))
                    for h in range(2):
                        at = T.ramp((row * 2 + h) * 8, 1, 8)
                        T.buffer_store(sums, sums[at] + x * halves[h], [at])
        for i in range(rows * 2):
            at = T.ramp(i * 8, 1, 8)
            T.buffer_store(acc, acc[at] + T.cast(sums[at], "int32x8"), [at])

    whole, rest = divmod(operands.groups, chain)
    if whole:
        with T.serial(whole) as r:
            run(r * chain, chain)
    if rest:
        run(whole * chain, rest)
    for i in range(rows * 2):
        operands.put(i // 2, i % 2, acc[T.ramp(i * 8, 1, 8)], 8)


def _wide(operands: Operands) -> None:
    """int16 by a lane of int16, four channels of the output at a time."""
    v, weights, codes, filters = operands.v, operands.weights, operands.codes, operands.filters
    rows = operands.rows
    acc = _registers(rows * 4, "int32", 4)
    with T.serial(operands.groups // 8) as k:
        xs = [T.bind(v[T.ramp(codes(row, k * 8), 1, 8)]) for row in range(rows)]
        for i in range(8):
            halves = [weights[T.ramp(filters(k * 8 + i) + h * 16, 1, 16)] for h in range(2)]
            words = [T.reinterpret(half, dtype="int16x8") for half in halves]
            ws = [T.bind(T.cast(_half(words[q // 2], q % 2, 4), "int32x4")) for q in range(4)]
            for row in range(rows):
                x = T.bind(T.cast(T.broadcast(T.Shuffle([xs[row]], [i]), 4), "int32x4"))
                for q in range(4):
                    at = T.ramp((row * 4 + q) * 4, 1, 4)
                    T.buffer_store(acc, acc[at] + x * ws[q], [at])
    for i in range(rows * 4):
        operands.put(i // 4, i % 4, acc[T.ramp(i * 4, 1, 4)], 4)
