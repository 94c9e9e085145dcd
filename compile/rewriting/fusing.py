"""Fuses nodes that together are a function of each value of one tensor into one table, without changing any code.

Files quantize x and sigmoid(x) before they multiply them: a table, then a product. All codes of the product follow from
the code of x, so one table gives them. Nodes that nothing needs afterwards are left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from targets.reference import interpreter
from targets.reference.graph import Graph
from targets.reference.nodes import Add, Lookup, Mul, Node, Rescale, Tensor

Pointwise = Add | Lookup | Mul | Rescale


def fused(graph: Graph) -> Graph:
    """Returns the graph with tables in place of such nodes; every tensor [H, W, C] that is left has the same codes."""
    producers: dict[str, Node] = {}
    roots: dict[str, str] = {}  # of a tensor that is a function of another one's values: that one
    nodes: list[Node] = []
    for node in graph.nodes:
        root = _root(graph, node, roots)
        if root is not None and isinstance(node, Pointwise):
            roots[node.output] = root
            producers[node.output] = node
            if _pays(node, root):
                node = Lookup(node.name, root, node.output, _table(graph, root, node.output, producers))
        nodes.append(node)
    return _needed(graph, nodes)


def _root(graph: Graph, node: Node, roots: Mapping[str, str]) -> str | None:
    """The one tensor whose values decide all of the node's; None where there are several, or pixels differ in place."""
    if not isinstance(node, Pointwise):
        return None
    sources = {roots.get(name, name) for name in node.inputs}
    shapes = {graph.tensors[name].shape for name in node.inputs}
    return sources.pop() if len(sources) == len(shapes) == 1 else None


def _pays(node: Pointwise, root: str) -> bool:
    """Whether a table saves something: two operands, or a table of what is a function already."""
    return len(node.inputs) == 2 or (isinstance(node, Lookup) and node.input != root)


def _table(graph: Graph, root: str, output: str, producers: Mapping[str, Node]) -> np.ndarray:
    """uint8 [1 or C, 2**bits]: what the reference makes of every code of the root, in every channel."""
    source = graph.tensors[root]
    size = (1, source.qmax + 1, source.shape[2])
    chain = tuple(_chain(output, root, producers))
    names = {root, *(node.output for node in chain)}
    tensors = {name: replace(graph.tensors[name], shape=size) for name in names}
    codes = np.broadcast_to(np.arange(source.qmax + 1, dtype=np.uint8)[None, None, :, None], (1, *size))
    values = interpreter.run_all(Graph("table", tensors, chain, root, output), np.ascontiguousarray(codes))[1]
    table = np.ascontiguousarray(values[output][0, 0].T)
    return table[:1] if (table == table[:1]).all() else table


def _chain(output: str, root: str, producers: Mapping[str, Node]) -> Iterator[Node]:
    """The nodes between the root and a tensor, in running order."""
    wanted = {output}
    chain: list[Node] = []
    for name, node in reversed(list(producers.items())):
        if name in wanted:
            chain.append(node)
            wanted |= set(node.inputs) - {root}
    yield from reversed(chain)


def _needed(graph: Graph, nodes: list[Node]) -> Graph:
    """The graph of those nodes that its output depends on."""
    wanted, kept = {graph.output}, []
    for node in reversed(nodes):
        if node.output in wanted:
            kept.append(node)
            wanted |= set(node.inputs)
    tensors: dict[str, Tensor] = {name: t for name, t in graph.tensors.items() if name in wanted or name == graph.input}
    return replace(graph, tensors=tensors, nodes=tuple(reversed(kept)))
