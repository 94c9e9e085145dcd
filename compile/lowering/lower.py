"""From an integer graph to kernels: borders, rules, packed weights, tables, one workspace and one TIR module."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compile.lowering.plan import workspace
from runtime.abi import SLACK, aligned
from targets import Target
from targets.family import Runner, load
from targets.kernel import Call, Entry, Origin, Sizes, Step, choose, is_step_of
from targets.reference.graph import Graph, macs
from targets.schedule import schedule


@dataclass(frozen=True)
class WeightPiece:
    """Weights of one kernel, int8 from byte `at` of the unpacked buffer on, stored at `bits`, or their origin is."""

    codes: npt.NDArray[np.int8]
    bits: int
    at: int
    origin: Origin | None = None


@dataclass(frozen=True)
class Lowered:
    """All that building and running one variant needs."""

    module: Any  # tvm.IRModule with `main`
    calls: list[Call]
    pieces: list[WeightPiece]
    table: npt.NDArray[np.int32]
    sizes: Sizes
    pictures: int = 1  # that main takes at once

    def weights(self) -> npt.NDArray[np.int8]:
        """Returns int8 [n], as the runtime unpacks them."""
        buffer = np.zeros(self.sizes.weights, np.int8)
        for piece in self.pieces:
            buffer[piece.at : piece.at + piece.codes.size] = piece.codes
        return buffer


def lower(graph: Graph, target: Target, pictures: int = 1) -> Lowered:
    """Returns the kernels of `target`, which has no levels, for every node.

    pictures: how many `main` takes at once, side by side, where the family's kernels can. Raises ValueError that names
    the node no rule takes, the levels to choose from, or that only one picture at a time is possible.
    """
    if target.levels:
        raise ValueError(f"{target.name}: expected one of its levels {', '.join(v.name for v in target.levels)}")
    family = load(target.family)
    if pictures > 1 and not family.batches:
        raise ValueError(f"{target.name}: expected one picture at a time, got {pictures}; its kernels take no more")
    steps, rules = schedule(graph, family.fuses_rescales, pictures), family.rules(target)
    offsets, workspace_bytes = _place(steps)
    calls: list[Call] = []
    pieces: list[WeightPiece] = []
    tables: list[npt.NDArray[np.int32]] = []
    weights_at = table_at = 0
    for step in steps:
        kernel = choose(step, rules)
        reads, writes = (tuple(offsets.get(n) for n in names) for names in (_names_read(step), _names_written(step)))
        calls.append(Call(step.node.name, step, kernel, reads or (None,), writes, weights_at, table_at))
        if kernel.weights.size:
            pieces.append(WeightPiece(kernel.weights, kernel.w_bits, weights_at, kernel.origin))
        tables.append(np.pad(kernel.table, (0, -kernel.table.size % 16)))
        weights_at += aligned(kernel.weights.size)
        table_at += tables[-1].size
    picture_size = int(np.prod(graph.tensors[graph.input].shape))
    sizes = Sizes(
        pictures * picture_size, weights_at + SLACK, table_at + 16, workspace_bytes + SLACK, steps[-1].write.size
    )
    table = np.concatenate([*tables, np.zeros(16, np.int32)])
    return Lowered(family.assemble(calls, sizes), calls, pieces, table, sizes, pictures)


def _place(steps: list[Step[Any]]) -> tuple[dict[str, int], int]:
    """The byte offset in the workspace of every tensor but the caller's picture and logits, and its size."""
    output = steps[-1].write
    sizes = {w.tensor.name: w.size + SLACK for step in steps for w in step.writes if w is not output}
    return workspace(sizes, [(_names_read(step), _names_written(step)) for step in steps])


def _names_read(step: Step[Any]) -> tuple[str, ...]:
    """Tensors of the workspace that a step reads; the first one reads the caller's picture."""
    return () if is_step_of(step, Entry) else tuple(layout.tensor.name for layout in step.reads)


def _names_written(step: Step[Any]) -> tuple[str, ...]:
    return tuple(layout.tensor.name for layout in step.writes)


def table_of_rules(graph: Graph, lowered: Lowered) -> list[tuple[str, str, str, int]]:
    """Returns (layer, rule, "w8a8" or "", multiply-adds) of every step, in order."""
    work, bits = macs(graph), graph.bit_config()
    return [
        (c.name, c.kernel.rule, "w{}a{}".format(*bits[c.name]) if c.name in bits else "", work.get(c.name, 0))
        for c in lowered.calls
    ]


def run_compiled(lowered: Lowered, runner: Runner, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Returns int32 [N, classes] of pictures uint8 [N, H, W, C].

    Where `main` takes n pictures they go n at a time, and the last call repeats some.

    runner(pictures uint8 [n*H*W*C], weights int8, table int32, workspace bytes, n*classes) -> int32 [n*classes]
    """
    weights, sizes, n = lowered.weights(), lowered.sizes, lowered.pictures
    calls = np.resize(pictures, (-(-len(pictures) // n) * n, *pictures.shape[1:])).reshape(-1, sizes.picture)
    rows = [runner(p, weights, lowered.table, sizes.workspace, sizes.logits) for p in calls]
    return np.concatenate(rows).reshape(len(calls) * n, -1)[: len(pictures)]
