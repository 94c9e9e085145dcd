"""Prepares networks for `python -m benchmarks.cuda` on a machine that has a GPU but no compiler:

    python -m benchmarks.cuda.cases cases --archs 90 --networks resnet20,resnet18 --bits w8a8,w4a4 --batch 1,8 \\
        --run runs/a --data DIR --pictures FOLDER

A case is a folder: main.so (with its main.cu) and case.json, which names the arrays beside it (weights, table, golden
pictures, their logits). peak-8 and peak-4 hold nothing but matrix instructions, to measure what the GPU can do;
`bundle` is a small one for the engine. Golden pictures are noise, or with --data the test pictures of CIFAR-10 degraded
at random (32x32), and with --pictures those of a folder (any other size): up to 31 MB of each size, which all share.
"""

import argparse
import hashlib
import itertools
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import tvm
from tvm.tirx.script import builder as T

from benchmarks.networks.random_networks import NETWORKS, write_run
from compile import build
from compile.lowering.lower import Lowered, lower
from compile.qdq import importer
from compile.source.run_folder import read_run
from runtime.pictures.arrays import as_picture, resize
from runtime.pictures.files import read_picture
from targets import Target, find
from targets.cuda import kernels, routes, toolchain
from targets.cuda.tiles import LANES
from targets.kernel import Call, Entry, Kernel, Layout, Sizes, Step
from targets.reference import interpreter
from targets.reference.graph import Graph, macs
from targets.reference.nodes import Conv, Rescale, Tensor
from train.data.datasets import DATA_SIDE, SUFFIXES
from train.data.datasets import load as load_data
from train.data.names import FAMILIES
from train.data.views import MIXED_SEED, mixed_views
from train.integers.evaluate import evaluate
from train.settings.training import CACHE

GOLDEN = 4  # pictures of noise, where no others are given
PICTURE_BYTES = 31_000_000  # 10,000 of CIFAR-10
BUNDLE_BITS, BUNDLE_BATCH = ("w8a8", "mixed"), 2
# many blocks to a processor, whatever their number: those that still run when others have none left count little
PEAK_BLOCKS, PEAK_WARPS, PEAK_TURNS, PEAK_CHAINS = 64 * 132, 8, 256, 8


def write_case(
    folder: Path,
    network: str,
    bits: str,
    graph: Graph,
    target: Target,
    batch: int,
    pictures: np.ndarray,
    logits: np.ndarray,
    source_only: bool = False,
) -> Path:
    """One network in one configuration for one batch; returns its folder.

    pictures uint8 [N, H, W, C]; logits int32 [N, classes] that the integer reference gives for them.
    """
    case = folder / f"{network}-{bits}-{batch}"
    case.mkdir(parents=True, exist_ok=True)
    lowered = lower(graph, target, batch)
    built = toolchain.build(lowered.module, target, case / "main.so", case, source_only)
    (case / "rebuild.sh").unlink()  # it is for bundles
    arrays = {"weights": lowered.weights(), "table": lowered.table, "pictures": pictures, "logits": logits}
    facts = {
        "network": network,
        "bits": bits,
        "batch": batch,
        "target": target.name,
        "requires": target.requires,
        "workspace": lowered.sizes.workspace,
        "macs": macs_by_container(graph, lowered, batch),
        "command": built["command"],
        "layers": layers(graph),
        "arrays": {name: write_array(folder, a) for name, a in arrays.items()},
    }
    (case / "case.json").write_text(json.dumps(facts, indent=1) + "\n")
    return case


def write_array(folder: Path, array: np.ndarray) -> str:
    """The name of its file, which is one for equal arrays of all cases."""
    array = np.ascontiguousarray(array)
    words = f"{array.dtype.str} {array.shape}".encode()
    name = f"array-{hashlib.sha256(words + array.tobytes()).hexdigest()[:16]}.npy"
    if not (folder / name).exists():
        partial = folder / f".{name}.partial.npy"
        np.save(partial, array)
        partial.replace(folder / name)
    return name


def write_bundle(folder: Path, target: Target, source_only: bool = False) -> Path:
    """A bundle of ResNet-8 with random weights, for several pictures at once."""
    with tempfile.TemporaryDirectory() as scratch:
        run = write_run(Path(scratch) / "run", "resnet8", list(BUNDLE_BITS))
        return build.build([run], target, folder / "bundle", source_only=source_only, times=False, batch=BUNDLE_BATCH)


class Pictures:
    """Golden pictures by the shape of a network's input.

    data: where CIFAR-10 is; pictures: a folder of them; count: at most so many, as far as PICTURE_BYTES hold them.
    """

    def __init__(self, data: Path | None = None, pictures: Path | None = None, count: int = 10_000):
        self._data, self._folder, self._count = data, pictures, count
        self._found: dict[tuple[int, int, int], np.ndarray] = {}

    def of(self, shape: tuple[int, int, int]) -> np.ndarray:
        """uint8 [N, H, W, C]."""
        if shape not in self._found:
            self._found[shape] = self._read(shape, max(1, min(self._count, PICTURE_BYTES // int(np.prod(shape)))))
        return self._found[shape]

    def _read(self, shape: tuple[int, int, int], most: int) -> np.ndarray:
        if self._data is not None and shape == (DATA_SIDE, DATA_SIDE, 3):
            return np.array(
                mixed_views(load_data("cifar10", self._data, CACHE).test_x[:most], FAMILIES, MIXED_SEED, CACHE)[0]
            )
        if self._folder is not None and shape != (DATA_SIDE, DATA_SIDE, 3):
            files = sorted(p for p in self._folder.rglob("*") if p.suffix.lower() in SUFFIXES)[:most]
            if not files:
                raise ValueError(f"{self._folder}: expected pictures ({', '.join(SUFFIXES)}), found none")
            return np.stack([resize(as_picture(read_picture(p)), shape[:2]) for p in files])
        return np.random.default_rng(1).integers(0, 256, (GOLDEN, *shape), np.uint8)


def expected(graph: Graph, pictures: np.ndarray) -> np.ndarray:
    """int32 [N, classes] by training's exact evaluation, which is fast; RuntimeError where the reference objects."""
    logits = evaluate(graph, pictures)
    if not np.array_equal(logits[:GOLDEN], interpreter.run(graph, pictures[:GOLDEN])):
        raise RuntimeError(
            "expected training's integer evaluation to equal targets/reference/interpreter.py, it does not"
        )
    return logits


def graphs(networks: list[str], bits: list[str], runs: list[Path]) -> dict[tuple[str, str], Graph]:
    """(network, bits) -> graph: with random weights, and every variant of trained runs. Raises ValueError."""
    if unknown := set(networks) - set(NETWORKS):
        raise ValueError(f"expected networks among {', '.join(NETWORKS)}, got {', '.join(sorted(unknown))}")
    found = {(name, b): NETWORKS[name].graph(b) for name, b in itertools.product(networks, bits)}
    for run in runs:
        for variant in read_run(run).variants:
            found[run.name, variant.name] = importer.load(run / variant.onnx)
    return found


def macs_by_container(graph: Graph, lowered: Lowered, batch: int) -> dict[str, int]:
    """Multiply-adds of tensor-core kernels by the bits of a code inside the instruction where u4.s4 is native."""
    work, total = macs(graph), {"8": 0, "4": 0}
    for call in lowered.calls:
        for container in (8, 4):
            if f" u{container}s{container}_" in call.kernel.rule:
                total[str(container)] += batch * work[call.name]
    return total


def layers(graph: Graph) -> list[dict]:
    """The float network's layers, for a peer: {"op", "name", "inputs", ...} in running order."""
    alias, found = {}, []
    for node in graph.nodes:
        inputs = [alias.get(name, name) for name in node.inputs]
        if isinstance(node, Rescale):
            alias[node.output] = inputs[0]
            continue
        layer = {"op": type(node).__name__, "output": node.output, "inputs": inputs}
        for key in ("stride", "padding", "groups", "kernel", "before"):
            if hasattr(node, key):
                layer[key] = getattr(node, key)
        layer["channels"] = graph.tensors[node.output].shape[2]
        if isinstance(node, Conv):
            layer["kernel"], layer["in_channels"] = node.weight.shape[1:3], graph.tensors[node.input].shape[2]
            layer["relu"] = node.requant is not None and graph.tensors[node.output].zero_point[0] == 0
        found.append(layer)
    return found


def write_peak(folder: Path, container: int, target: Target, source_only: bool = False) -> Path:
    """A case that only multiplies registers."""
    case = folder / f"peak-{container}"
    case.mkdir(parents=True, exist_ok=True)
    route = routes.Route(container, container)
    built = toolchain.build(peak_module(route), target, case / "main.so", case, source_only)
    each = 16 * 8 * 8 * (32 // container)
    (case / "rebuild.sh").unlink()
    total = each * PEAK_BLOCKS * PEAK_WARPS * PEAK_TURNS * PEAK_CHAINS
    facts = {
        "network": "peak",
        "bits": str(container),
        "macs": total,
        "outputs": PEAK_BLOCKS * PEAK_WARPS * LANES,
        "command": built["command"],
    }
    (case / "case.json").write_text(json.dumps(facts) + "\n")
    return case


def peak_module(route: routes.Route) -> tvm.IRModule:
    """main whose one kernel runs independent chains of matrix instructions."""
    threads = LANES * PEAK_WARPS
    whole = Layout(Tensor("out", (1, 1, PEAK_BLOCKS * threads), 32))

    def emit(reads, writes, weights, table, _):
        with T.launch_thread("blockIdx.x", PEAK_BLOCKS) as block, T.launch_thread("threadIdx.x", threads) as thread:
            accs = T.alloc_buffer((4 * PEAK_CHAINS,), "int32", scope="local")
            for i in range(4 * PEAK_CHAINS):
                T.buffer_store(accs, T.int32(0), [i])
            words = [T.bind(table[(thread + i) % 16]) for i in range(4 * route.fields + 2)]
            with T.serial(PEAK_TURNS):
                for chain in range(PEAK_CHAINS):
                    T.evaluate(
                        T.cuda.func_call(
                            f"multiply_{route.name}",
                            *(accs[4 * chain + i] for i in range(4)),
                            *words,
                            source_code=route.source(),
                        )
                    )
            total = accs[0]
            for i in range(1, 4 * PEAK_CHAINS):
                total = T.bitwise_xor(total, accs[i])
            T.buffer_store(writes[0], total, [block * threads + thread])

    step = Step(Entry("peak"), (Layout(Tensor("picture", (1, 1, 16))),), whole)
    kernel = Kernel("peak", np.zeros(0, np.int8), 8, np.zeros(16, np.int32), emit)
    sizes = Sizes(16, 64, 16, 64, whole.size)
    return kernels.assemble([Call("peak", step, kernel, (None,), (None,), 0, 0)], sizes)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def main(argv: list[str] | None = None) -> int:
    archs = ",".join(map(str, find("cuda").archs))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda.cases", description=__doc__.splitlines()[0])
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
    args = parser.parse_args(argv)
    try:
        target = _target(_names(args.archs))
        pictures = Pictures(args.data, args.pictures, args.count)
        for container in (8, 4):
            print(write_peak(args.out, container, target, args.source_only), flush=True)
        for (network, bits), graph in graphs(_names(args.networks), _names(args.bits), args.run).items():
            golden = pictures.of(graph.tensors[graph.input].shape)
            logits = expected(graph, golden)
            for batch in map(int, _names(args.batch)):
                print(
                    write_case(args.out, network, bits, graph, target, batch, golden, logits, args.source_only),
                    flush=True,
                )
        print(write_bundle(args.out, target, args.source_only))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _target(archs: list[str]) -> Target:
    """The target "cuda" for these compute capabilities; raises ValueError for others than its own."""
    known = find("cuda").archs
    if not archs or not set(archs) <= set(map(str, known)):
        raise ValueError(f"expected compute capabilities among {', '.join(map(str, known))}, got {', '.join(archs)}")
    kept = tuple(a for a in known if str(a) in archs)
    tvm_target = {**find("cuda").tvm, "arch": f"sm_{kept[0]}"}
    return replace(find("cuda"), archs=kept, requires=(f"sm_{kept[0]}",), tvm=tvm_target)


if __name__ == "__main__":
    sys.exit(main())
