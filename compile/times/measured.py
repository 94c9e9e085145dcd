"""The time of single kernels and of whole networks, on this machine or on a board over RPC.

Each kernel is called many times in a loop of its own (compile/times/kernel_loop.py).
"""

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tvm
import tvm_ffi
from tvm_ffi import StructuralKey

from compile.lowering.lower import Lowered
from compile.times.kernel_loop import fill_scratch, plan_scratch, table_of, timing_module
from compile.times.machine import missing_features
from runtime.abi import BUFFERS, aligned_buffer
from runtime.machine import cpu
from targets import Target, TargetError
from targets.family import load
from targets.kernel import Call
from targets.library import llvm
from targets.library.module import kernel_function

LOOP_US = 60.0  # a loop lasts at least this long, beside which calling it is nothing
BUDGET_US = 30_000.0  # of loops, for each distinct kernel
ROUNDS = 6  # visits to each kernel, in turn, so that all meet the same noise
FEWEST_CALLS = 5  # of a whole network


class Loader(Protocol):
    """A machine that loads code: compiled functions run on its device."""

    device: Any

    def load(self, module: tvm.IRModule) -> Any:
        """Returns the compiled module, as TVM has it."""


def compile_module(module: tvm.IRModule, target: Target) -> Any:
    """Returns TVM's executable of a module for a CPU target."""
    with tvm.transform.PassContext(config={"tirx.disable_storage_rewrite": True}):  # see targets/library/llvm.py
        return tvm.compile(module, target=tvm.target.Target(target.tvm))


def link(module: tvm.IRModule, target: Target, library: Path) -> None:
    """Writes the module as a shared library, by the target's own linker."""
    obj = library.with_suffix(".o")
    compile_module(module, target).mod.write_to_file(str(obj))
    llvm.run([*load(target.family).linker(), "-o", str(library), str(obj)])


class Local:
    """This machine; raises TargetError where it cannot run the target's code."""

    unit = "us"

    def __init__(self, target: Target):
        if lacking := missing_features(target):
            raise TargetError(
                f"{target.name}: expected a machine that runs it, but this one lacks {lacking}; "
                "measure on the board with --rpc HOST:PORT"
            )
        self.target = target
        self.name = cpu.model()
        self.device = tvm.cpu()

    def times(self, calls: Sequence[Call], budget_us: float = BUDGET_US) -> list[float]:
        """Returns microseconds of one run of each call's kernel."""
        return kernel_times(calls, self, budget_us)

    def load(self, module: tvm.IRModule) -> Any:
        """Returns the compiled module."""
        return compile_module(module, self.target).mod


class Board:
    """A machine where `python -m tvm.exec.rpc_server` runs; raises TargetError where it does not answer."""

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
        self.target = target
        self.name = f"board at {address}"
        self.device = self._session.cpu()
        self._loaded = 0

    def times(self, calls: Sequence[Call], budget_us: float = BUDGET_US) -> list[float]:
        """Returns microseconds of one run of each call's kernel; raises TargetError where the board is gone."""
        try:
            return kernel_times(calls, self, budget_us)
        except RuntimeError as error:
            raise TargetError(
                f"{self.name} does not answer any more ({error}); look at its server, then run this "
                "again: it goes on where it stopped"
            ) from error

    def load(self, module: tvm.IRModule) -> Any:
        """Returns the module, compiled here and loaded there."""
        self._loaded += 1  # a new name: to overwrite a library that is open there would end the server
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / f"layers{self._loaded}.so"
            link(module, self.target, library)
            self._session.upload(str(library))
            return self._session.load_module(library.name)


def kernel_times(calls: Sequence[Call], machine: Loader, budget_us: float = BUDGET_US) -> list[float]:
    """Returns microseconds of one run of each call's kernel, one thread, the least of many.

    Distinct kernels are visited in turn; those that are the same code over the same operands are timed once.
    """
    distinct: dict[Any, Call] = {}
    keys = [structural_key(kernel_function(call, True)) for call in calls]
    for key, call in zip(keys, calls, strict=True):
        distinct.setdefault(key, call)
    times = dict(zip(distinct, _least_times(list(distinct.values()), machine, budget_us), strict=True))
    return [times[key] for key in keys]


def structural_key(code: Any) -> Any:
    """Returns what is equal for equal TIR, a module or a function, and can be a key of a dict."""
    return StructuralKey(code)  # type: ignore[call-arg]  # tvm_ffi's class makes its __init__ where it is loaded


@dataclass(frozen=True, eq=False)
class _Loop:
    """A kernel's loop: run(repeat, times) -> microseconds of one call of the kernel, the least of so many loops."""

    run: Callable[[int, int], float]
    repeat: int
    times: int

    def measure(self) -> float:
        return self.run(self.repeat, self.times)


def _least_times(calls: list[Call], machine: Loader, budget_us: float) -> list[float]:
    library = machine.load(timing_module(calls))
    loops = [_prepare_loop(library, machine, k, call, budget_us) for k, call in enumerate(calls)]
    rounds = [[loop.measure() for loop in loops] for _ in range(ROUNDS)]
    return [min(times) for times in zip(*rounds, strict=True)]


def _prepare_loop(library: Any, machine: Loader, index: int, call: Call, budget_us: float) -> _Loop:
    """The loop of time_<index>, as long and as often as the budget allows."""
    arrays = (fill_scratch(call), table_of(call))
    buffers = [tvm.runtime.tensor(array, device=machine.device) for array in arrays]

    def run(repeat: int, times: int) -> float:
        evaluate = library.time_evaluator(f"time_{index}", machine.device, number=1, repeat=times)
        return min(evaluate(*buffers, repeat).results) * 1e6 / repeat

    rough = max(0.01, run(1 + plan_scratch(call).copies // 4, 2))
    repeat = math.ceil(LOOP_US / rough)
    return _Loop(run, repeat, max(1, int(budget_us / ROUNDS / (repeat * rough))))


def network_time(main: Callable[..., Any], lowered: Lowered, seconds: float = 0.2) -> float:
    """Returns microseconds of a whole network, the least of as many calls as `seconds` allow (at least 5).

    main: a compiled function of main's buffers.
    """
    tensors = [tvm_ffi.from_dlpack(array) for array in _random_buffers(lowered)]
    least = math.inf
    calls = 0
    end = time.perf_counter() + seconds
    while calls < FEWEST_CALLS or time.perf_counter() < end:
        began = time.perf_counter()
        main(*tensors)
        least = min(least, time.perf_counter() - began)
        calls += 1
    return least * 1e6


def _random_buffers(lowered: Lowered) -> list[np.ndarray]:
    """main's buffers [n], in their order, with a random picture."""
    sizes = lowered.sizes
    counts = (sizes.picture, sizes.weights, sizes.table, sizes.workspace, sizes.logits)
    buffers = [aligned_buffer(count, dtype) for count, dtype in zip(counts, BUFFERS.values(), strict=True)]
    picture, weights, table, _, _ = buffers
    picture[:] = np.random.default_rng(0).integers(0, 256, sizes.picture, np.uint8)
    weights[:] = lowered.weights()
    table[:] = lowered.table
    return buffers


def library_time(library: Path, function: str, lowered: Lowered) -> float:
    """Returns network_time() of a function in a shared library."""
    with tempfile.TemporaryDirectory() as folder:  # a new path: dlopen would hand back an older library of this one
        copy = shutil.copy(library, Path(folder) / library.name)
        return network_time(tvm_ffi.load_module(str(copy))[function], lowered)
