"""Code that only multiplies registers, to measure what a GPU's matrix instructions can do at most."""

from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm.tirx.script import builder as T

from benchmarks.cuda.case import PeakCase
from targets import Target
from targets.cuda import kernels, routes, toolchain
from targets.cuda.tiles import LANES
from targets.kernel import Buffers, Call, Entry, Kernel, Layout, Sizes, Step
from targets.reference.nodes import Tensor

# many blocks to a processor, whatever their number: those that still run when others have none left count little
BLOCKS = 64 * 132
WARPS = 8
TURNS = 256
CHAINS = 8
TABLE_ENTRIES = 16


def write_peak(folder: Path, container: int, target: Target, source_only: bool = False) -> Path:
    """Writes a case that only multiplies codes of `container` bits, and returns its folder."""
    place = folder / f"peak-{container}"
    place.mkdir(parents=True, exist_ok=True)
    route = routes.Route(container, container)
    built = toolchain.build([make_peak_module(route)], target, place / "main.so", place, source_only)
    (place / "rebuild.sh").unlink()  # it is for bundles
    macs_of_instruction = 16 * 8 * 8 * (32 // container)
    macs = macs_of_instruction * BLOCKS * WARPS * TURNS * CHAINS
    PeakCase(place, str(container), macs, BLOCKS * WARPS * LANES, built["command"]).write()
    return place


def make_peak_module(route: routes.Route) -> tvm.IRModule:
    """Returns `main` whose one kernel runs independent chains of matrix instructions."""
    threads = LANES * WARPS
    whole = Layout(Tensor("out", (1, 1, BLOCKS * threads), 32))

    def emit(buffers: Buffers, _: tuple[Any, Any]) -> None:
        with T.launch_thread("blockIdx.x", BLOCKS) as block, T.launch_thread("threadIdx.x", threads) as thread:
            total = _emit_chains(route, buffers.table, thread)
            T.buffer_store(buffers.writes[0], total, [block * threads + thread])

    step = Step(Entry("peak"), (Layout(Tensor("picture", (1, 1, 16))),), whole)
    kernel = Kernel("peak", np.zeros(0, np.int8), 8, np.zeros(TABLE_ENTRIES, np.int32), emit)
    sizes = Sizes(16, 64, TABLE_ENTRIES, 64, whole.size)
    return kernels.assemble([Call("peak", step, kernel, (None,), (None,), 0, 0)], sizes)


def _emit_chains(route: routes.Route, table: Any, thread: Any) -> Any:
    """Multiplies, and joins all accumulators so that none can be left out."""
    accumulators = T.alloc_buffer((4 * CHAINS,), "int32", scope="local")
    for i in range(4 * CHAINS):
        T.buffer_store(accumulators, T.int32(0), [i])
    words = [T.bind(table[(thread + i) % TABLE_ENTRIES]) for i in range(4 * route.fields + 2)]
    with T.serial(TURNS):
        for chain in range(CHAINS):
            operands = [accumulators[4 * chain + i] for i in range(4)] + words
            T.evaluate(T.cuda.func_call(f"multiply_{route.name}", *operands, source_code=route.source()))
    total = accumulators[0]
    for i in range(1, 4 * CHAINS):
        total = T.bitwise_xor(total, accumulators[i])
    return total
