"""Several small networks in one CUDA source, each in memory of its own: one compilation shows what all compute."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from compile.lowering.lower import lower
from targets import Target
from targets.cuda import kernels, toolchain
from targets.cuda.emulation import host
from targets.kernel import Call, Exit, Layout, Sizes, Step, choose
from targets.reference import interpreter
from targets.reference.graph import Graph
from targets.reference.nodes import Tensor
from tests.support.graph_builder import Builder

GAP = 64  # bytes that kernels may read past a buffer


def input_of(rng, shape: tuple[int, int, int], bits: int, widths=(8,), extreme: bool = False) -> Builder:
    """A builder whose picture is codes of any shape and width."""
    b = Builder("steps", rng, shape[:2], False, extreme, list(widths))
    b.tensors["image"] = Tensor("image", shape, bits, 1 / 64, (int(rng.integers(0, 1 << bits)),))
    b.values = {"image": codes(rng, shape, bits)[None]}
    return b


def codes(rng, shape, bits: int) -> np.ndarray:
    """uint8: the largest code and 0 as often as all others together."""
    values = rng.integers(0, 1 << bits, shape, np.uint8)
    ends = rng.choice(np.array([0, (1 << bits) - 1], np.uint8), shape)
    return np.where(rng.random(shape) < 0.5, values, ends)


def graph_of(b: Builder, x: str) -> Graph:
    return Graph("steps", b.tensors, tuple(b.nodes), b.input, x)


@dataclass(frozen=True, eq=False, repr=False)
class Steps:
    """The source of some networks, and what each must compute from the first bytes of `picture`, by its name."""

    module: object  # tvm.IRModule
    source: str
    picture: np.ndarray
    weights: np.ndarray
    table: np.ndarray
    sizes: Sizes
    places: dict[str, tuple[int, np.ndarray]]  # offset in the workspace, expected codes
    rules: dict[str, list[str]]

    def run(self, folder: Path, seed: int = 0, arch: int = 80, source: str | None = None) -> dict[str, int]:
        """How many codes differ, by name."""
        path = folder / "steps.cu"
        path.write_text(source or self.source)
        sizes = self.sizes
        got = host.Runner(path, seed, arch)(self.picture, self.weights, self.table, sizes.workspace, sizes.logits)
        return {name: int((got[at : at + w.size] != w.reshape(-1)).sum()) for name, (at, w) in self.places.items()}

    def changed(self, old: str, new: str) -> str:
        """The source with that changed wherever it is; it must be somewhere."""
        text, found = re.subn(old, new, self.source)
        assert found, old
        return text


def steps(graphs: dict[str, Graph], target: Target, picture: np.ndarray, pictures: int = 1) -> Steps:
    """All networks one after the other; their inputs are the first of the picture's bytes."""
    calls, places, weights, tables, rules, base = [], {}, [], [], {}, 0
    for name, graph in graphs.items():
        lowered = lower(graph, target, pictures)
        at = [sum(w.size for w in weights), sum(t.size for t in tables)]
        kept = [c for c in lowered.calls if not isinstance(c.step.node, Exit)]
        calls += [
            replace(
                c,
                reads=_moved(c.reads, base),
                writes=_moved(c.writes, base),
                weights=c.weights + at[0],
                table=c.table + at[1],
            )
            for c in kept
        ]
        shape = graph.tensors[graph.input].shape
        x = picture[: pictures * int(np.prod(shape))].reshape(pictures, *shape)
        places[name] = (base + kept[-1].writes[0], interpreter.run_all(graph, x)[1][graph.output])
        rules[name] = [c.kernel.rule for c in kept]
        weights.append(lowered.weights())
        tables.append(lowered.table)
        base += lowered.sizes.workspace
    whole = Tensor("workspace", (1, 1, base))
    step = Step(Exit("logits"), (Layout(whole),), Layout(replace(whole, name="logits", bits=32)))
    tables.append(np.zeros(-(-base // 16) * 16, np.int32))
    last = Call("all", step, choose(step, kernels.rules(target)), (0,), (None,), 0, sum(t.size for t in tables[:-1]))
    sizes = Sizes(picture.size, sum(w.size for w in weights), sum(t.size for t in tables), base + GAP, base)
    module = kernels.assemble([*calls, last], sizes)
    source = toolchain.source(module, target)
    return Steps(module, source, picture, np.concatenate(weights), np.concatenate(tables), sizes, places, rules)


def _moved(offsets, base: int) -> tuple:
    return tuple(None if at is None else at + base for at in offsets)
