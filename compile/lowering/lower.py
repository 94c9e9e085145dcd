"""From an integer graph to kernels: borders, rules, packed weights, tables, one workspace and one TIR module."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compile.lowering.plan import layouts, workspace
from runtime.abi import SLACK, aligned
from targets import Target
from targets.family import Runner, load
from targets.kernel import Also, Call, Entry, Exit, Layout, Origin, Sizes, Step, choose
from targets.reference.graph import Graph, macs
from targets.reference.nodes import Add, Conv, Rescale


@dataclass(frozen=True)
class Segment:
    """Weights of one kernel, int8 from byte `at` of the unpacked buffer on, stored at `bits`, or their origin is."""

    codes: np.ndarray
    bits: int
    at: int
    origin: Origin | None = None


@dataclass(frozen=True)
class Lowered:
    """All that building and running one variant needs."""

    module: Any  # tvm.IRModule with `main`
    calls: list[Call]
    segments: list[Segment]
    table: np.ndarray  # int32
    sizes: Sizes
    pictures: int = 1  # that main takes at once

    def weights(self) -> np.ndarray:
        """int8, as the runtime unpacks them."""
        buffer = np.zeros(self.sizes.weights, np.int8)
        for segment in self.segments:
            buffer[segment.at : segment.at + segment.codes.size] = segment.codes
        return buffer


def lower(graph: Graph, target: Target, pictures: int = 1) -> Lowered:
    """Kernels of `target`, which has no levels, for every node; raises ValueError naming the node no rule takes.

    pictures: how many `main` takes at once, side by side, where the family's kernels can.
    """
    if target.levels:
        raise ValueError(f"{target.name}: expected one of its levels {', '.join(v.name for v in target.levels)}")
    family = load(target.family)
    if pictures > 1 and not family.batches:
        raise ValueError(f"{target.name}: expected one picture at a time, got {pictures}; its kernels take no more")
    rules = family.rules(target)
    steps = _steps(graph, family.fuses_rescales, pictures)
    output = steps[-1][0].write
    written = [(tuple(names), tuple(w.tensor.name for w in step.writes)) for step, names in steps]
    sizes = {w.tensor.name: w.size + SLACK for step, _ in steps for w in step.writes if w is not output}
    offsets, total = workspace(sizes, written)
    calls, segments, tables, weights_at, table_at = [], [], [], 0, 0
    for (step, names), (_, writes) in zip(steps, written, strict=True):
        kernel, reads = choose(step, rules), tuple(offsets.get(n) for n in names)
        calls.append(
            Call(step.node.name, step, kernel, reads, tuple(offsets.get(n) for n in writes), weights_at, table_at)
        )
        if kernel.weights.size:
            segments.append(Segment(kernel.weights, kernel.w_bits, weights_at, kernel.origin))
        tables.append(np.pad(kernel.table, (0, -kernel.table.size % 16)))
        weights_at += aligned(kernel.weights.size)
        table_at += tables[-1].size
    sizes = Sizes(
        pictures * int(np.prod(graph.tensors[graph.input].shape)),
        weights_at + SLACK,
        table_at + 16,
        total + SLACK,
        output.size,
    )
    table = np.concatenate([*tables, np.zeros(16, np.int32)])
    return Lowered(family.assemble(calls, sizes), calls, segments, table, sizes, pictures)


def _steps(graph: Graph, also: bool, pictures: int) -> list[tuple[Step, list[str]]]:
    """The steps with the names of the tensors they read; the picture ("", the caller's) is copied first, and codes
    become logits last. also: a rescale becomes part of the convolution or addition whose output it reads."""
    placed = layouts(graph, pictures)
    picture = Layout(graph.tensors[graph.input], pictures=pictures)
    entry = Step(Entry(graph.input), (picture,), placed[graph.input])
    steps = [(entry, [""])]
    producers = {n.output for n in graph.nodes if isinstance(n, (Conv, Add))} if also else set()
    merged = [n for n in graph.nodes if isinstance(n, Rescale) and n.input in producers and n.output != graph.output]
    for node in graph.nodes:
        if node not in merged:
            followers = tuple(Also(m, placed[m.output]) for m in merged if m.input == node.output)
            step = Step(node, tuple(placed[n] for n in node.inputs), placed[node.output], followers)
            steps.append((step, list(node.inputs)))
    output = graph.tensors[graph.output]
    if output.bits != 32:
        logits = Layout(replace(output, name=f"{output.name}:int32", bits=32), pictures=pictures)
        steps.append((Step(Exit(logits.tensor.name), (placed[output.name],), logits), [output.name]))
    return steps


def table_of_rules(graph: Graph, lowered: Lowered) -> list[tuple[str, str, str, int]]:
    """(layer, rule, "w8a8" or "", multiply-adds) of every step, in order."""
    work, bits = macs(graph), graph.bit_config()
    return [
        (c.name, c.kernel.rule, "w{}a{}".format(*bits[c.name]) if c.name in bits else "", work.get(c.name, 0))
        for c in lowered.calls
    ]


def run_compiled(lowered: Lowered, runner: Runner, pictures: np.ndarray) -> np.ndarray:
    """int32 [N, classes] of pictures uint8 [N, H, W, C], n at a time where `main` takes n; the last call repeats some.

    runner(pictures uint8 [n*H*W*C], weights int8, table int32, workspace bytes, n*classes) -> int32 [n*classes]
    """
    weights, sizes, n = lowered.weights(), lowered.sizes, lowered.pictures
    calls = np.resize(pictures, (-(-len(pictures) // n) * n, *pictures.shape[1:])).reshape(-1, sizes.picture)
    rows = [runner(p, weights, lowered.table, sizes.workspace, sizes.logits) for p in calls]
    return np.concatenate(rows).reshape(len(calls) * n, -1)[: len(pictures)]
