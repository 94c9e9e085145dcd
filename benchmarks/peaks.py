"""Most multiply-adds this processor can do in a second, one thread, by each way that x86 kernels multiply.

    python -m benchmarks.peaks

Each loop does the arithmetic of an inner loop and nothing else: codes stay in registers, weights come from a few
kilobytes of the first-level cache.
"""

import time

import numpy as np
import tvm
import tvm_ffi
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from runtime.abi import aligned_buffer
from runtime.machine import cpu
from targets import Target, find
from targets.x86.epilogue import intrinsic

STEPS, REPEATS = 4096, 200  # of a loop; of a measurement, of which the fastest counts
CODES, WEIGHTS = 4, 2  # registers that a step multiplies with one another


def _loop(step, lanes: int, dtype: str) -> tvm.tirx.PrimFunc:
    """main(bytes int8, out int8): STEPS times acc = step(acc, codes, weights) for every pair of registers."""
    size = lanes * np.dtype(dtype).itemsize
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"tirx.noalias": True})
            data, out = T.arg("data", T.Buffer((8192,), "int8")), T.arg("out", T.Buffer((4096,), dtype))
            acc = T.alloc_buffer(
                (CODES * WEIGHTS * lanes,), dtype, scope="local", annotations={"disable_lower_builtin": True}
            )
            codes = [T.bind(data[T.ramp(4096 + p * size, 1, size)]) for p in range(CODES)]
            for v in range(CODES * WEIGHTS):
                T.buffer_store(acc, T.broadcast(T.cast(0, dtype), lanes), [T.ramp(v * lanes, 1, lanes)])
            with T.serial(STEPS) as k:
                weights = [data[T.ramp((k % 16 * WEIGHTS + v) * size, 1, size)] for v in range(WEIGHTS)]
                for v in range(CODES * WEIGHTS):
                    at = T.ramp(v * lanes, 1, lanes)
                    T.buffer_store(acc, step(acc[at], codes[v // WEIGHTS], weights[v % WEIGHTS]), [at])
            for v in range(CODES * WEIGHTS):
                at = T.ramp(v * lanes, 1, lanes)
                T.buffer_store(out, acc[at], [at])
    return builder.get().with_attr("global_symbol", "main")


def _sums(acc, x, w):
    """vpmaddubsw, vpmaddwd, vpaddd."""
    pairs = intrinsic("x86.avx2.pmadd.ub.sw", "int16x16", T.reinterpret(x, dtype="uint8x32"), w)
    return acc + intrinsic("x86.avx2.pmadd.wd", "int32x8", pairs, T.broadcast(T.int16(1), 16))


def _chain(acc, x, w):
    """vpmaddubsw, vpaddw."""
    return acc + intrinsic("x86.avx2.pmadd.ub.sw", "int16x16", T.reinterpret(x, dtype="uint8x32"), w)


def _look_up(acc, x, w):
    """vpshufb, vpaddb: each byte of the table is the sum of two products."""
    return acc + intrinsic("x86.avx2.pshuf.b", "int8x32", x, w)


def _dot(bits: int):
    """vpdpbusd."""
    return lambda acc, x, w: intrinsic(
        f"x86.avx512.vpdpbusd.{bits}", f"int32x{bits // 32}", acc, T.reinterpret(x, dtype=f"uint8x{bits // 8}"), w
    )


# name, target, what a step does, lanes and type of its accumulators, multiply-adds of one instruction
WAYS = (
    ("multiply-add", "x86:avx2", _sums, 8, "int32", 32),
    ("int16 chain", "x86:avx2", _chain, 16, "int16", 32),
    ("look-up", "x86:avx2", _look_up, 32, "int8", 64),
    ("dot product", "x86:avx-vnni", _dot(256), 8, "int32", 32),
    ("dot product", "x86:avx512-vnni", _dot(512), 16, "int32", 64),
)


def measure() -> dict[str, float]:
    """GMAC/s of one core by each way this processor has; the ways take turns, and the fastest of many runs counts."""
    data = aligned_buffer(8192, "int8")
    data[:] = np.random.default_rng(0).integers(-8, 8, data.size)
    ways = [way for way in WAYS if _runs(find(way[1]))]
    loops = [
        (_compiled(find(target), _loop(step, lanes, dtype)), tvm_ffi.from_dlpack(aligned_buffer(4096, dtype)))
        for _, target, step, lanes, dtype, _ in ways
    ]
    codes, seconds = tvm_ffi.from_dlpack(data), [np.inf] * len(ways)
    peaks: dict[str, float] = {}
    for _ in range(REPEATS):
        for i, (main, out) in enumerate(loops):
            begin = time.perf_counter()
            main(codes, out)
            seconds[i] = min(seconds[i], time.perf_counter() - begin)
    for (name, *_, macs), fastest in zip(ways, seconds, strict=True):
        peaks[name] = max(peaks.get(name, 0.0), macs * CODES * WEIGHTS * STEPS / fastest / 1e9)
    return peaks


def _runs(target: Target) -> bool:
    return set(target.requires) <= cpu.features()


def _compiled(target: Target, main: tvm.tirx.PrimFunc):
    with tvm.transform.PassContext(config={"tirx.disable_storage_rewrite": True}):
        return tvm.compile(tvm.IRModule({"main": main}), target=tvm.target.Target(target.tvm)).mod["main"]


if __name__ == "__main__":
    for name, peak in measure().items():
        print(f"{name:17} {peak:6.1f} GMAC/s")
