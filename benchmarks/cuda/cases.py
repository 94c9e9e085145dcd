"""Prepares networks for `python -m benchmarks.cuda` on a machine that has a GPU but no compiler.

    python -m benchmarks.cuda.cases cases --archs 90 --networks resnet20,resnet18 --bits w8a8,w4a4 --batch 1,8 \\
        --run runs/a --data DIR --pictures FOLDER

A case is a folder: main.so (with its main.cu) and case.json, which names the arrays beside it (weights, table, golden
pictures, their logits). peak-8 and peak-4 hold nothing but matrix instructions, to measure what the GPU can do;
`bundle` is a small one for the engine. Golden pictures are noise, or with --data the test pictures of CIFAR-10 degraded
at random (32x32), and with --pictures those of a folder (any other size): up to 31 MB of each size, which all share.
"""

import hashlib
import itertools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.cuda.case import Case, FloatLayer
from benchmarks.cuda.golden import GoldenPictures, expected_logits
from benchmarks.cuda.peak import write_peak
from benchmarks.networks.random_networks import NETWORKS, write_run
from compile.build import build
from compile.lowering.lower import Lowered, lower
from compile.qdq import importer
from compile.settings import BuildSettings
from compile.source.run_folder import read_run
from runtime.terminal import OneLineParser
from targets import Target, find
from targets.cuda import toolchain
from targets.reference.graph import Graph, macs
from targets.reference.nodes import AvgPool, Conv, MaxPool, Node, Rescale, Shortcut

BUNDLE_BITS, BUNDLE_BATCH = ("w8a8", "mixed"), 2
CONTAINERS = (8, 4)  # bits of a code inside a matrix instruction


@dataclass(frozen=True)
class CasesSettings:
    """What is prepared: networks with random weights at some bits, and trained runs, for each batch."""

    out: Path
    target: Target
    networks: tuple[str, ...]
    bits: tuple[str, ...]
    batches: tuple[int, ...]
    runs: tuple[Path, ...]
    golden: GoldenPictures
    source_only: bool


@dataclass(frozen=True, eq=False)
class PreparedNetwork:
    """A network at some bits, with golden pictures uint8 [N, H, W, C] and their logits int32 [N, classes]."""

    network: str
    bits: str
    graph: Graph
    pictures: np.ndarray
    logits: np.ndarray


def write_cases(settings: CasesSettings) -> Iterator[Path]:
    """Writes peaks, cases and the bundle, and yields each folder; raises ValueError and OSError."""
    for container in CONTAINERS:
        yield write_peak(settings.out, container, settings.target, settings.source_only)
    for (network, bits), graph in load_graphs(settings.networks, settings.bits, settings.runs).items():
        pictures = settings.golden.of_shape(graph.tensors[graph.input].shape)
        prepared = PreparedNetwork(network, bits, graph, pictures, expected_logits(graph, pictures))
        for batch in settings.batches:
            yield write_case(settings.out, prepared, settings.target, batch, settings.source_only)
    yield write_bundle(settings.out, settings.target, settings.source_only)


def write_case(folder: Path, prepared: PreparedNetwork, target: Target, batch: int, source_only: bool = False) -> Path:
    """Writes one network in one configuration for one batch, and returns its folder."""
    place = folder / f"{prepared.network}-{prepared.bits}-{batch}"
    place.mkdir(parents=True, exist_ok=True)
    graph = prepared.graph
    lowered = lower(graph, target, batch)
    built = toolchain.build([lowered.module], target, place / "main.so", place, source_only)
    (place / "rebuild.sh").unlink()  # it is for bundles
    arrays = {
        "weights": lowered.weights(),
        "table": lowered.table,
        "pictures": prepared.pictures,
        "logits": prepared.logits,
    }
    Case(
        folder=place,
        network=prepared.network,
        bits=prepared.bits,
        batch=batch,
        target=target.name,
        requires=target.requires,
        workspace=lowered.sizes.workspace,
        macs=count_macs_by_container(graph, lowered, batch),
        command=built["command"],
        layers=tuple(float_layers(graph)),
        arrays={name: write_array(folder, array) for name, array in arrays.items()},
    ).write()
    return place


def write_array(folder: Path, array: np.ndarray) -> str:
    """Writes an array [...] and returns the name of its file, which is one for equal arrays of all cases."""
    array = np.ascontiguousarray(array)
    words = f"{array.dtype.str} {array.shape}".encode()
    name = f"array-{hashlib.sha256(words + array.tobytes()).hexdigest()[:16]}.npy"
    if not (folder / name).exists():
        partial = folder / f".{name}.partial.npy"
        np.save(partial, array)
        partial.replace(folder / name)
    return name


def write_bundle(folder: Path, target: Target, source_only: bool = False) -> Path:
    """Writes a bundle of ResNet-8 with random weights, for several pictures at once, and returns its folder."""
    with tempfile.TemporaryDirectory() as scratch:
        run = write_run(Path(scratch) / "run", "resnet8", list(BUNDLE_BITS))
        settings = BuildSettings(
            target, (run,), folder / "bundle", source_only=source_only, times=False, batch=BUNDLE_BATCH
        )
        return build(settings).bundle


def load_graphs(networks: Sequence[str], bits: Sequence[str], runs: Sequence[Path]) -> dict[tuple[str, str], Graph]:
    """Returns graphs by (network, bits): with random weights, and every variant of trained runs.

    Raises ValueError for a network that nobody knows.
    """
    if unknown := set(networks) - set(NETWORKS):
        raise ValueError(f"expected networks among {', '.join(NETWORKS)}, got {', '.join(sorted(unknown))}")
    graphs = {(name, b): NETWORKS[name].graph(b) for name, b in itertools.product(networks, bits)}
    for run in runs:
        for variant in read_run(run).variants:
            graphs[run.name, variant.name] = importer.load(run / variant.onnx)
    return graphs


def count_macs_by_container(graph: Graph, lowered: Lowered, batch: int) -> dict[str, int]:
    """Returns multiply-adds of tensor-core kernels by the bits of a code inside the instruction.

    The bits are those of GPUs that have u4.s4.
    """
    work = macs(graph)
    totals = {str(container): 0 for container in CONTAINERS}
    for call in lowered.calls:
        for container in CONTAINERS:
            if f" u{container}s{container}_" in call.kernel.rule:
                totals[str(container)] += batch * work[call.name]
    return totals


def float_layers(graph: Graph) -> list[FloatLayer]:
    """Returns the layers of the network in floating point, in running order; a Rescale is none."""
    aliases: dict[str, str] = {}
    layers = []
    for node in graph.nodes:
        inputs = tuple(aliases.get(name, name) for name in node.inputs)
        if isinstance(node, Rescale):
            aliases[node.output] = inputs[0]
        else:
            layers.append(_float_layer(graph, node, inputs))
    return layers


def _float_layer(graph: Graph, node: Node, inputs: tuple[str, ...]) -> FloatLayer:
    out = graph.tensors[node.output]
    layer = FloatLayer(type(node).__name__, node.output, inputs, out.shape[2])
    if isinstance(node, Conv):
        _, height, width, _ = node.weight.shape
        has_relu = node.requant is not None and out.zero_point[0] == 0
        layer = replace(layer, stride=node.stride, padding=node.padding, groups=node.groups, kernel=(height, width))
        return replace(layer, in_channels=graph.tensors[node.input].shape[2], relu=has_relu)
    if isinstance(node, MaxPool):
        return replace(layer, stride=node.stride, padding=node.padding, kernel=node.kernel)
    if isinstance(node, AvgPool):
        return replace(layer, stride=node.stride, kernel=node.kernel)
    if isinstance(node, Shortcut):
        return replace(layer, stride=node.stride, before=node.before)
    return layer


def make_target(archs: Sequence[str]) -> Target:
    """Returns the target "cuda" for compute capabilities; raises ValueError for others than its own."""
    cuda = find("cuda")
    known = cuda.archs
    if not archs or not set(archs) <= set(map(str, known)):
        raise ValueError(f"expected compute capabilities among {', '.join(map(str, known))}, got {', '.join(archs)}")
    kept = tuple(a for a in known if str(a) in archs)
    oldest = f"sm_{kept[0]}"
    return replace(cuda, archs=kept, requires=(oldest,), tvm={**cuda.tvm, "arch": oldest})


def parse(arguments: Sequence[str] | None = None) -> CasesSettings:
    """Returns the settings of a command line; a bad one ends the program with one line that says what is wrong."""
    archs = ",".join(map(str, find("cuda").archs))
    parser = OneLineParser(prog="python -m benchmarks.cuda.cases", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--archs", default=archs, help=f"compute capabilities (default {archs}, and PTX of the last)")
    parser.add_argument("--networks", default="resnet8,resnet20,resnet18,mobilenetv2", help="with random weights")
    parser.add_argument("--bits", default="w8a8,w4a4,mixed")
    parser.add_argument("--batch", default="1,8,64")
    parser.add_argument("--run", type=Path, action="append", default=[], help="a trained run, too: all its variants")
    parser.add_argument("--data", type=Path, help="where CIFAR-10 is: golden pictures of networks for 32x32")
    parser.add_argument("--pictures", type=Path, help="a folder of pictures: golden ones of all other networks")
    parser.add_argument("--count", type=int, default=10_000, help="golden pictures at most (default 10000)")
    parser.add_argument("--source-only", action="store_true", help="only main.cu, where there is no nvcc")
    args = parser.parse_args(arguments)
    try:
        target = make_target(_names(args.archs))
        batches = tuple(map(int, _names(args.batch)))
    except ValueError as error:
        parser.error(str(error))
    return CasesSettings(
        out=args.out,
        target=target,
        networks=_names(args.networks),
        bits=_names(args.bits),
        batches=batches,
        runs=tuple(args.run),
        golden=GoldenPictures(args.data, args.pictures, args.count),
        source_only=args.source_only,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after one line that says what went wrong."""
    settings = parse(arguments)
    try:
        for folder in write_cases(settings):
            print(folder, flush=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
