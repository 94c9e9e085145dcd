"""Hand-made TIR modules with the bundle's `main`, for tests of toolchains and emulators: right ones and wrong ones."""

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

NAMES = ("picture", "weights", "table", "workspace", "logits")
DTYPES = ("uint8", "int8", "int32", "uint8", "int32")


def module(sizes, emit, device=None) -> tvm.IRModule:
    """`main` over five flat buffers that calls one private kernel; emit(*buffers) writes the kernel's body."""
    with IRBuilder() as builder:
        with T.prim_func(private=True, s_tir=True):
            T.func_name("kernel")
            if device is None:
                T.func_ret(tvm.ir.PrimType("int32"))  # T.parallel needs it
            pointers = [T.arg(n, T.handle(d)) for n, d in zip(NAMES, DTYPES, strict=True)]
            emit(*(T.decl_buffer((s,), d, data=p, align=64) for p, s, d in zip(pointers, sizes, DTYPES, strict=True)))
            if device is None:
                T.Return(T.int32(0))
    kernel = builder.get() if device is None else builder.get().with_attr("target", device)
    variable = tvm.ir.GlobalVar("kernel")
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("main")
            buffers = [T.arg(n, T.Buffer((s,), d)) for n, s, d in zip(NAMES, sizes, DTYPES, strict=True)]
            pointers = [T.address_of(b[0]) for b in buffers]
            T.evaluate(tvm.ir.Call(variable, pointers, ret_ty="int32" if device is None else "void"))
    return tvm.IRModule({variable: kernel, tvm.ir.GlobalVar("main"): builder.get().with_attr("global_symbol", "main")})


def dots(
    n: int = 64,
    classes: int = 5,
    read: int = 0,
    write: int = 0,
    write_into: str = "logits",
    parallel: bool = False,
    calls: bool = False,
) -> tvm.IRModule:
    """logits[c] = table[c] + sum over i of picture[i] * weights[c * n + i], through a copy in the workspace.

    read, write: offsets that make the kernel leave its buffers; write_into: the buffer it writes; calls: the copy is
    made by the C library.
    """

    def emit(picture, weights, table, workspace, logits):
        target = dict(zip(NAMES, (picture, weights, table, workspace, logits), strict=True))[write_into]
        if calls:
            T.evaluate(T.call_extern("handle", "memset", T.address_of(workspace[0]), 7, T.int64(n)))
            source, count = T.address_of(picture[0]), T.int64(n - 1)
            T.evaluate(T.call_extern("handle", "memcpy", T.address_of(workspace[0]), source, count))
            T.buffer_store(workspace, workspace[n - 1] - T.uint8(7) + picture[n - 1], [n - 1])
        else:
            with T.serial(n) as i:
                T.buffer_store(workspace, picture[i + read], [i])
        with (T.parallel if parallel else T.serial)(classes) as c:
            acc = T.alloc_buffer((1,), "int32", scope="local", annotations={"disable_lower_builtin": True})
            T.buffer_store(acc, table[c], [0])
            with T.serial(n) as i:
                product = T.cast(workspace[i], "int32") * T.cast(weights[c * n + i], "int32")
                T.buffer_store(acc, acc[0] + product, [0])
            T.buffer_store(target, T.cast(acc[0], str(target.dtype)), [c + write])

    return module((n, n * classes, classes, n, classes), emit)


def dot_product(n: int = 64, classes: int = 4) -> tvm.IRModule:
    """The same sums by ARM's sdot, for pictures of at most 127."""

    def emit(picture, weights, table, workspace, logits):
        sdot = T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.sdot.v4i32.v16i8")
        with T.serial(classes) as c:
            acc = T.alloc_buffer((4,), "int32", scope="local", annotations={"disable_lower_builtin": True})
            lanes = T.ramp(0, 1, 4)
            T.buffer_store(acc, T.broadcast(T.int32(0), 4), [lanes])
            with T.serial(n // 16) as k:
                x = T.reinterpret(picture[T.ramp(k * 16, 1, 16)], dtype="int8x16")
                w = weights[T.ramp(c * n + k * 16, 1, 16)]
                T.buffer_store(acc, T.call_llvm_pure_intrin("int32x4", sdot, acc[lanes], x, w), [lanes])
            T.buffer_store(logits, table[c] + acc[0] + acc[1] + acc[2] + acc[3], [c])

    return module((n, n * classes, classes, 1, classes), emit)


def mirror(n: int = 64) -> tvm.IRModule:
    """CUDA: logits[i] = table[i] + picture[n - 1 - i], two blocks, through shared memory and a barrier."""

    def emit(picture, weights, table, workspace, logits):
        with T.launch_thread("blockIdx.x", 2) as block, T.launch_thread("threadIdx.x", n // 2) as thread:
            shared = T.alloc_buffer((n // 2,), "int32", scope="shared")
            T.buffer_store(shared, T.cast(picture[block * (n // 2) + thread], "int32"), [thread])
            to = (1 - block) * (n // 2) + thread
            T.buffer_store(logits, table[to] + shared[n // 2 - 1 - thread], [to])

    return module((n, 1, n, 1, n), emit, device=tvm.target.Target({"kind": "cuda", "arch": "sm_80"}))


def arguments(n: int = 64, classes: int = 5, top: int = 256, seed: int = 0):
    """picture uint8 [n] below `top`, weights int8 [n * classes], table int32 [classes], the sums int32 [classes]."""
    rng = np.random.default_rng(seed)
    x, w = rng.integers(0, top, n, np.uint8), rng.integers(-128, 128, n * classes, np.int8)
    table = rng.integers(-(2**20), 2**20, classes, np.int32)
    return x, w, table, (table + w.reshape(classes, n).astype(np.int32) @ x.astype(np.int32)).astype(np.int32)
