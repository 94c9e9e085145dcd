"""The steps that a network runs as, in order: which rescales join which kernel, and the border every tensor has.

The picture is copied first, into a place with the border its readers need; codes become logits last.
"""

from dataclasses import replace

from targets.kernel import Entry, Exit, Layout, RescaledCopy, Step
from targets.reference.graph import Graph
from targets.reference.nodes import Add, AvgPool, Conv, Node, Rescale


def lay_out(graph: Graph, pictures: int = 1) -> dict[str, Layout]:
    """Returns how each tensor lies: its border is as wide as the widest padding among the layers that read it.

    Only convolutions and average pools read padding; of it a max pool takes no code.

    pictures: how many run together.
    """
    borders = dict.fromkeys(graph.tensors, (0, 0, 0, 0))
    for node in graph.nodes:
        if isinstance(node, (Conv, AvgPool)):
            top, left, bottom, right = map(max, borders[node.input], node.padding)
            borders[node.input] = (top, left, bottom, right)
    return {name: Layout(tensor, borders[name], pictures) for name, tensor in graph.tensors.items()}


def schedule(graph: Graph, fuses_rescales: bool, pictures: int = 1) -> list[Step[Node | Entry | Exit]]:
    """Returns the steps of a network in order.

    fuses_rescales: whether a rescale becomes part of the convolution or addition whose output it reads. pictures: how
    many run together.
    """
    layouts = lay_out(graph, pictures)
    picture = Layout(graph.tensors[graph.input], pictures=pictures)
    steps: list[Step[Node | Entry | Exit]] = [Step(Entry(graph.input), (picture,), layouts[graph.input])]
    joined = _joined_rescales(graph) if fuses_rescales else []
    for node in graph.nodes:
        if node not in joined:
            copies = tuple(RescaledCopy(r, layouts[r.output]) for r in joined if r.input == node.output)
            reads = tuple(layouts[name] for name in node.inputs)
            steps.append(Step(node, reads, layouts[node.output], copies))
    output = graph.tensors[graph.output]
    if output.bits != 32:
        logits = Layout(replace(output, name=f"{output.name}:int32", bits=32), pictures=pictures)
        steps.append(Step(Exit(logits.tensor.name), (layouts[output.name],), logits))
    return steps


def _joined_rescales(graph: Graph) -> list[Rescale]:
    """The rescales that leave from the registers of the kernel before them."""
    producers = {node.output for node in graph.nodes if isinstance(node, (Conv, Add))}
    rescales = [node for node in graph.nodes if isinstance(node, Rescale)]
    return [node for node in rescales if node.input in producers and node.output != graph.output]
