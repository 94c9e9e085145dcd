"""Networks to time: ResNet-8, -20 and -18 and MobileNetV2 as integer graphs with random weights, in many widths.

As training lowers its own: 8 bits for the first layer, the classifier and every residual stream, and a Rescale in front
of a convolution that reads fewer. Times hold for trained weights too, answers mean nothing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.networks.grower import Grower, LayerSpec, clouds
from compile.source.run_folder import NetworkFacts, RunRecord, VariantRecord
from targets.reference.graph import Graph
from train.integers.export import count_stored_bytes, export_run
from train.network.architectures import Architecture, Block, Layer, architecture

GOLDEN, GOLDEN_SEED = 4, 1  # pictures that travel with a network
BITS = ("w8a8", "w7a8", "w4a4", "w2a2", "mixed")


@dataclass(frozen=True)
class Network:
    """A network and the picture it is meant for; `grow` appends its layers and returns the graph."""

    grow: Callable
    side: int
    classes: int

    def graph(self, bits: str, side: int | None = None, seed: int = 0) -> Graph:
        """The integer graph; `bits` one of BITS or any wNaM, "-dwN" behind it names the width of depthwise layers."""
        side = side or self.side
        return self.grow(Grower(bits, (side, side, 3), seed), WidthPattern(bits), self.classes)


class WidthPattern:
    """Widths by the name of a configuration; raises ValueError for a name that is none."""

    def __init__(self, name: str):
        match = re.fullmatch(r"(mixed|w([2-8])a([2-8]))(?:-dw([2-8]))?", name)
        if not match:
            raise ValueError(
                f"expected bits among {', '.join(BITS)}, or such as w4a8 or w4a4-dw8 with widths from 2 "
                f"to 8, got {name!r}"
            )
        self.plain = None if match[1] == "mixed" else (int(match[2]), int(match[3]))
        self.depthwise = None if match[4] is None else (int(match[4]),) * 2

    def __call__(self, index: int, count: int, depthwise: bool = False) -> tuple[int, int]:
        """(w_bits, a_bits) of inner layer `index` of `count`."""
        if depthwise and self.depthwise:
            return self.depthwise
        return self.plain or (mixed(index, count),) * 2


def mixed(index: int, count: int) -> int:
    """8 and 4 bits take turns in the first and last quarter of the layers, 4 and 2 in the half between."""
    outer = min(index, count - 1 - index) < count / 4
    return ((8, 4) if outer else (4, 2))[index % 2]


def residual(g: Grower, bits: WidthPattern, arch: Architecture, classes: int, max_pool: bool = False) -> Graph:
    """A residual network; a projected shortcut has the widths of the convolution beside it, and reads its codes."""
    layers = [layer for b in arch.blocks for layer in (b.conv1, b.conv2)]
    widths = {layer.name: bits(k, len(layers)) for k, layer in enumerate(layers)}
    x = _conv(g, arch.stem, "image", 8)
    x = g.max_pool(x) if max_pool else x
    for b in arch.blocks:
        (w1, a1), (w2, a2) = widths[b.conv1.name], widths[b.conv2.name]
        codes = x if a1 == 8 else g.rescale(f"{b.conv1.name}.input", x, a1)
        middle = _conv(g, b.conv1, codes, w1, bits=a2)
        if b.shortcut is not None:  # of 4/3 of the sum's step, so that the residual operand adds exactly
            skip = _conv(g, b.shortcut, codes, w1, signed=True, scale=8 / 255)
            x = _conv(g, b.conv2, middle, w2, skip=skip, scale=g.tensors[skip].scale * 3 / 4, divisor=3)
            continue
        changed = b.stride > 1 or b.before + b.after
        skip = g.shortcut(f"{b.name}.skip", x, b.stride, b.before, b.after) if changed else x
        x = _conv(g, b.conv2, middle, w2, skip=skip)
    return g.finish(x, classes)


def _conv(g: Grower, layer: Layer, x: str, w_bits: int, **options) -> str:
    spec = LayerSpec(layer.outputs, layer.kernel, w_bits, stride=layer.stride, padding=layer.padding, **options)
    return g.conv(layer.name, x, spec)


def small_resnet(name: str) -> Callable:
    """One of training's own."""

    def grow(g: Grower, bits: WidthPattern, classes: int) -> Graph:
        return residual(g, bits, architecture(name, g.tensors["image"].shape, classes), classes)

    return grow


def resnet18(g: Grower, bits: WidthPattern, classes: int) -> Graph:
    """He et al. 2015 (arXiv 1512.03385): 7x7 stem, max pool, four stages of two blocks, projected shortcuts."""

    def layer(name, inputs, outputs, kernel, stride, size, source="stream"):
        return Layer(name, inputs, outputs, kernel, stride, (kernel // 2,) * 4, (-(-size // stride),) * 2, source)

    side = g.tensors["image"].shape[0]
    stem, blocks, channels, size = layer("conv1", 3, 64, 7, 2, side, "picture"), [], 64, -(-side // 4)
    for k in range(8):
        outputs, stride, name = 64 << k // 2, 2 if k in (2, 4, 6) else 1, f"layer{k // 2 + 1}.{k % 2}"
        conv1 = layer(f"{name}.conv1", channels, outputs, 3, stride, size)
        shortcut = layer(f"{name}.shortcut", channels, outputs, 1, stride, size) if stride > 1 else None
        channels, size = outputs, conv1.size[0]
        conv2 = layer(f"{name}.conv2", outputs, outputs, 3, 1, size, "conv")
        blocks.append(Block(name, conv1, conv2, shortcut, 0, 0))
    linear = Layer("linear", channels, classes, 1, 1, (0, 0, 0, 0), (1, 1), "pool", norm=False)
    return residual(g, bits, Architecture("resnet18", (side, side, 3), stem, tuple(blocks), linear, 0), classes, True)


# Sandler et al. 2018 (arXiv 1801.04381), table 2: expansion, channels, blocks, stride of the first
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(g: Grower, bits: WidthPattern, classes: int) -> Graph:
    """Width 1.0: linear bottlenecks are signed 8-bit streams; what lies between them is clamped at 0."""
    blocks = [(t, c, s if not k else 1) for t, c, n, s in MOBILENET_V2 for k in range(n)]
    kinds = [
        f"{i}.{part}"
        for i, (t, _, _) in enumerate(blocks)
        for part in ("expand", "depthwise", "project")
        if t > 1 or part != "expand"
    ] + ["last"]
    widths = {name: bits(k, len(kinds), name.endswith("depthwise")) for k, name in enumerate(kinds)}

    def codes(name: str, x: str) -> str:
        """The stream in the reader's width."""
        return x if widths[name][1] == 8 else g.rescale(f"{name}.input", x, widths[name][1])

    x = g.conv("stem", "image", LayerSpec(32, 3, 8, bits=widths["0.depthwise"][1], stride=2))
    for i, (t, c, stride) in enumerate(blocks):
        expand, depthwise, project = (f"{i}.{part}" for part in ("expand", "depthwise", "project"))
        inputs, y = g.tensors[x].shape[2], x
        if t > 1:
            spec = LayerSpec(inputs * t, 1, widths[expand][0], bits=widths[depthwise][1])
            y = g.conv(expand, codes(expand, x), spec)
        w_bits, bits = widths[depthwise][0], widths[project][1]
        y = g.conv(depthwise, y, LayerSpec(inputs * t, 3, w_bits, bits=bits, stride=stride, groups=inputs * t))
        skip = x if inputs == c and stride == 1 else None
        x = g.conv(project, y, LayerSpec(c, 1, widths[project][0], signed=True, skip=skip))
    return g.finish(g.conv("last", codes("last", x), LayerSpec(1280, 1, widths["last"][0])), classes)


NETWORKS = {
    "resnet8": Network(small_resnet("resnet8"), 32, 10),
    "resnet20": Network(small_resnet("resnet20"), 32, 10),
    "resnet18": Network(resnet18, 224, 1000),
    "mobilenetv2": Network(mobilenet_v2, 224, 1000),
}


def write_run(folder: Path, name: str, bits: list[str], side: int | None = None) -> Path:
    """A run folder of the network, one variant for each entry of `bits`, as training would leave it."""
    network = NETWORKS[name]
    graphs = {b: network.graph(b, side) for b in bits}
    golden = clouds(next(iter(graphs.values())).tensors["image"].shape, GOLDEN, GOLDEN_SEED)
    run = RunRecord(
        name=name,
        labels=tuple(f"class {i}" for i in range(network.classes)),
        shape=golden.shape[1:],
        variants=tuple(VariantRecord(b, f"{b}.onnx", NetworkFacts.of_graph(graph)) for b, graph in graphs.items()),
        stored=count_stored_bytes(graphs),
        arch=name,
        dataset="none",
        method="random weights",
    )
    export_run(folder, graphs, run, golden)
    return folder
