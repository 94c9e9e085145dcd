"""The time of single kernels: each is called many times in a loop of its own, on this machine or on a board over RPC.

A kernel finds its operands where a network would leave them: in the second-level cache, not in the first. So the calls
go round through copies of all that it reads and writes, as many as fill FOOTPRINT; the copies hold real codes.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
import tvm_ffi
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T
from tvm_ffi import StructuralKey

from compile.lowering.lower import Lowered
from runtime.abi import SLACK, aligned, aligned_buffer
from runtime.machine import cpu
from targets import Target, TargetError
from targets.family import load
from targets.kernel import Call
from targets.library import llvm
from targets.library.module import kernel_function

FOOTPRINT = 512 << 10  # bytes; within the second-level cache of the processors in question, well beyond the first
LOOP_US = 60.0  # a loop lasts at least this long, beside which calling it is nothing
BUDGET_US = 30_000.0  # of loops, for each distinct kernel
ROUNDS = 6  # visits to each kernel, in turn, so that all meet the same noise


def missing(target: Target) -> str:
    """What this machine lacks to run the target's kernels; "" if nothing."""
    if cpu.machine() != target.machine:
        return f"a processor of {target.machine}"
    return ", ".join(sorted(set(target.requires) - cpu.features()))


def compiled(module: tvm.IRModule, target: Target):
    with tvm.transform.PassContext(config={"tirx.disable_storage_rewrite": True}):  # see targets/library/llvm.py
        return tvm.compile(module, target=tvm.target.Target(target.tvm))


def link(module: tvm.IRModule, target: Target, library: Path) -> None:
    """The module as a shared library, by the target's own linker."""
    toolchain, obj = load(target.family), library.with_suffix(".o")
    compiled(module, target).mod.write_to_file(str(obj))
    llvm.run([*toolchain.linker(), "-o", str(library), str(obj)])


class Local:
    """This machine."""

    unit = "us"

    def __init__(self, target: Target):
        if lacking := missing(target):
            raise TargetError(
                f"{target.name}: expected a machine that runs it, but this one lacks {lacking}; "
                "measure on the board with --rpc HOST:PORT"
            )
        self.target, self.name, self.device = target, cpu.model(), tvm.cpu()

    def times(self, calls: Sequence[Call], budget_us: float = BUDGET_US) -> list[float]:
        return kernel_times(calls, self, budget_us)

    def load(self, module: tvm.IRModule):
        return compiled(module, self.target).mod


class Board:
    """A machine where `python -m tvm.exec.rpc_server` runs."""

    unit = "us"

    def __init__(self, target: Target, address: str):
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise TargetError(f"expected HOST:PORT of an RPC server, got {address!r}")
        try:
            from tvm import rpc

            self._session = rpc.connect(host, int(port))
        except ImportError as error:
            raise TargetError(f"RPC needs {error.name}: pip install psutil cloudpickle") from error
        except (OSError, RuntimeError) as error:
            raise TargetError(
                f"expected an RPC server at {address} ({error}); start one on the board: "
                f"python -m tvm.exec.rpc_server --host 0.0.0.0 --port {port}"
            ) from error
        self.target, self.name, self.device = target, f"board at {address}", self._session.cpu()
        self._loaded = 0

    def times(self, calls: Sequence[Call], budget_us: float = BUDGET_US) -> list[float]:
        try:
            return kernel_times(calls, self, budget_us)
        except RuntimeError as error:
            raise TargetError(
                f"{self.name} does not answer any more ({error}); look at its server, then run this "
                "again: it goes on where it stopped"
            ) from error

    def load(self, module: tvm.IRModule):
        self._loaded += 1  # a new name: to overwrite a library that is open there would end the server
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / f"layers{self._loaded}.so"
            link(module, self.target, library)
            self._session.upload(str(library))
            return self._session.load_module(library.name)


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
        return self.stride * self.copies


def scratch(call: Call) -> Scratch:
    step, at, offsets = call.step, 0, []
    for layout in (*step.reads, None, *step.writes):
        offsets.append(at)
        size = call.kernel.weights.size if layout is None else layout.size * np.dtype(layout.dtype).itemsize
        at += aligned(size + SLACK)
    count = len(step.reads)
    return Scratch(tuple(offsets[:count]), offsets[count], tuple(offsets[count + 1 :]), at, max(1, FOOTPRINT // at))


def codes(layout, rng: np.random.Generator) -> np.ndarray:
    """uint8 [n] that a tensor of the layout may hold."""
    return rng.integers(0, layout.tensor.qmax + 1, layout.size, np.uint8)


def contents(call: Call) -> np.ndarray:
    """uint8: the copies, with codes in the tensors' ranges (kernels that look values up rely on it) and the weights."""
    where, rng = scratch(call), np.random.default_rng(0)
    one = np.zeros(where.stride, np.uint8)
    for layout, at in zip(call.step.reads, where.reads, strict=True):
        one[at : at + layout.size] = codes(layout, rng)
    one[where.weights : where.weights + call.kernel.weights.size] = call.kernel.weights.view(np.uint8)
    return np.tile(one, where.copies)


def table_of(call: Call) -> np.ndarray:
    """int32 [n], at least one."""
    return call.kernel.table if call.kernel.table.size else np.zeros(1, np.int32)


def timing_module(calls: Sequence[Call]) -> tvm.IRModule:
    """time_0, time_1, ...: (scratch uint8, table int32, repeat) runs the kernel `repeat` times, copy after copy."""
    functions = {}
    for k, call in enumerate(calls):
        kernel = tvm.ir.GlobalVar(f"kernel_{k}")
        functions[kernel] = kernel_function(call, True)
        functions[tvm.ir.GlobalVar(f"time_{k}")] = _loop(call, kernel, f"time_{k}")
    return tvm.IRModule(functions)


def _loop(call: Call, kernel: tvm.ir.GlobalVar, name: str) -> tvm.tirx.PrimFunc:
    where = scratch(call)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            T.func_attr({"tirx.noalias": True})
            memory = T.arg("scratch", T.Buffer((where.size,), "uint8"))
            table = T.arg("table", T.Buffer((table_of(call).size,), "int32"))
            repeat = T.arg("repeat", T.int32())
            with T.serial(repeat) as r:
                base = T.floormod(r, where.copies) * where.stride
                arguments = [T.address_of(memory[base + at]) for at in (*where.reads, where.weights)]
                arguments.append(T.address_of(table[0]))
                arguments += [T.address_of(memory[base + at]) for at in where.writes]
                T.evaluate(tvm.ir.Call(kernel, [*arguments, T.int32(0), T.int32(call.kernel.units)], ret_ty="void"))
    return builder.get().with_attr("global_symbol", name)


def kernel_times(calls: Sequence[Call], machine: Local | Board, budget_us: float = BUDGET_US) -> list[float]:
    """Microseconds of one run of each call's kernel, one thread, the least of many; distinct kernels are visited in
    turn, those that are the same code over the same operands are timed once."""
    distinct: dict[StructuralKey, Call] = {}
    keys = [StructuralKey(kernel_function(call, True)) for call in calls]
    for key, call in zip(keys, calls, strict=True):
        distinct.setdefault(key, call)
    times = dict(zip(distinct, _least(list(distinct.values()), machine, budget_us), strict=True))
    return [times[key] for key in keys]


def _least(calls: list[Call], machine: Local | Board, budget_us: float) -> list[float]:
    library = machine.load(timing_module(calls))
    buffers = [
        [tvm.runtime.tensor(array, device=machine.device) for array in (contents(call), table_of(call))]
        for call in calls
    ]

    def loop(k: int, repeat: int, times: int) -> float:
        """Microseconds of one call."""
        evaluate = library.time_evaluator(f"time_{k}", machine.device, number=1, repeat=times)
        return min(evaluate(*buffers[k], repeat).results) * 1e6 / repeat

    loops = []
    for k, call in enumerate(calls):
        rough = max(0.01, loop(k, 1 + scratch(call).copies // 4, 2))
        repeat = math.ceil(LOOP_US / rough)
        loops.append((repeat, max(1, int(budget_us / ROUNDS / (repeat * rough)))))
    found = [[loop(k, *loops[k]) for k in range(len(calls))] for _ in range(ROUNDS)]
    return [min(times) for times in zip(*found, strict=True)]


def network_time(main, lowered: Lowered, seconds: float = 0.2) -> float:
    """Microseconds of a whole network, the least of as many calls as `seconds` allow (at least 5).

    main: a compiled function of main's buffers.
    """
    sizes, rng = lowered.sizes, np.random.default_rng(0)
    counts = (
        (sizes.picture, "uint8"),
        (sizes.weights, "int8"),
        (sizes.table, "int32"),
        (sizes.workspace, "uint8"),
        (sizes.logits, "int32"),
    )
    arrays = [aligned_buffer(*count) for count in counts]
    values = (rng.integers(0, 256, sizes.picture, np.uint8), lowered.weights(), lowered.table)
    for array, given in zip(arrays, values, strict=False):
        array[:] = given
    tensors, least, end, calls = [tvm_ffi.from_dlpack(a) for a in arrays], math.inf, time.perf_counter() + seconds, 0
    while calls < 5 or time.perf_counter() < end:
        began = time.perf_counter()
        main(*tensors)
        least, calls = min(least, time.perf_counter() - began), calls + 1
    return least * 1e6


def library_time(library: Path, function: str, lowered: Lowered) -> float:
    """network_time() of a function in a shared library."""
    with tempfile.TemporaryDirectory() as folder:  # a new path: dlopen would hand back an older library of this one
        copy = shutil.copy(library, Path(folder) / library.name)
        return network_time(tvm_ffi.load_module(str(copy))[function], lowered)
