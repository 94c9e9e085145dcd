"""Code that calls one kernel many times in a loop of its own, and the memory that the kernel works in.

A kernel finds its operands where a network would leave them: in the second-level cache, not in the first. So the calls
go round through copies of all that it reads and writes, as many as fill FOOTPRINT; the copies hold real codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from runtime.abi import SLACK, aligned
from targets.kernel import Call, Layout
from targets.library.module import kernel_function

FOOTPRINT = 512 << 10  # bytes; within the second-level cache of the processors in question, well beyond the first


@dataclass(frozen=True, eq=False)
class Scratch:
    """Memory of one kernel: `copies` times `stride` bytes, each with reads, weights and writes at the given offsets."""

    reads: tuple[int, ...]
    weights: int
    writes: tuple[int, ...]
    stride: int
    copies: int

    @property
    def size(self) -> int:
        """Bytes of all copies."""
        return self.stride * self.copies


def plan_scratch(call: Call) -> Scratch:
    """Returns where a call's operands lie, one after the other at aligned offsets, and how many copies there are."""
    step = call.step
    sizes = [layout.size * np.dtype(layout.dtype).itemsize for layout in step.reads]
    sizes.append(call.kernel.weights.size)
    sizes += [layout.size * np.dtype(layout.dtype).itemsize for layout in step.writes]
    offsets = []
    end = 0
    for size in sizes:
        offsets.append(end)
        end += aligned(size + SLACK)
    count = len(step.reads)
    return Scratch(tuple(offsets[:count]), offsets[count], tuple(offsets[count + 1 :]), end, max(1, FOOTPRINT // end))


def random_codes(layout: Layout, rng: np.random.Generator) -> np.ndarray:
    """Returns uint8 [n] that a tensor of the layout may hold."""
    return rng.integers(0, layout.tensor.qmax + 1, layout.size, np.uint8)


def fill_scratch(call: Call) -> np.ndarray:
    """Returns uint8 [size of the scratch]: in each copy the weights, and codes in the tensors' ranges.

    Kernels that look values up rely on these ranges.
    """
    scratch, rng = plan_scratch(call), np.random.default_rng(0)
    one = np.zeros(scratch.stride, np.uint8)
    for layout, at in zip(call.step.reads, scratch.reads, strict=True):
        one[at : at + layout.size] = random_codes(layout, rng)
    one[scratch.weights : scratch.weights + call.kernel.weights.size] = call.kernel.weights.view(np.uint8)
    return np.tile(one, scratch.copies)


def table_of(call: Call) -> np.ndarray:
    """Returns the call's table, int32 [n] with at least one entry."""
    return call.kernel.table if call.kernel.table.size else np.zeros(1, np.int32)


def timing_module(calls: Sequence[Call]) -> tvm.IRModule:
    """Returns a module with a loop for each call, time_0, time_1 ...: (scratch uint8, table int32, repeat).

    A loop runs its kernel `repeat` times, copy after copy.
    """
    functions = {}
    for k, call in enumerate(calls):
        kernel = tvm.ir.GlobalVar(f"kernel_{k}")
        functions[kernel] = kernel_function(call, True)
        functions[tvm.ir.GlobalVar(f"time_{k}")] = _loop(call, kernel, f"time_{k}")
    return tvm.IRModule(functions)


def _loop(call: Call, kernel: tvm.ir.GlobalVar, name: str) -> tvm.tirx.PrimFunc:
    scratch = plan_scratch(call)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            T.func_attr({"tirx.noalias": True})
            memory = T.arg("scratch", T.Buffer((scratch.size,), "uint8"))
            table = T.arg("table", T.Buffer((table_of(call).size,), "int32"))
            repeat = T.arg("repeat", T.int32())
            with T.serial(repeat) as r:
                base = T.floormod(r, scratch.copies) * scratch.stride
                arguments = [T.address_of(memory[base + at]) for at in (*scratch.reads, scratch.weights)]
                arguments.append(T.address_of(table[0]))
                arguments += [T.address_of(memory[base + at]) for at in scratch.writes]
                T.evaluate(tvm.ir.Call(kernel, [*arguments, T.int32(0), T.int32(call.kernel.units)], ret_ty="void"))
    return builder.get().with_attr("global_symbol", name)
