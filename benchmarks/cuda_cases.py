"""Prepares networks for `python -m benchmarks.cuda` on a machine that has a GPU but no compiler:

    python -m benchmarks.cuda_cases cases --target cuda:sm_90 --networks resnet20,resnet18 --bits w8a8,w4a4 --batch 1,8

A case is a folder: main.so (with its main.cu), data.npz (weights, table, golden pictures and logits) and case.json. Two
more, peak-8 and peak-4, hold nothing but matrix instructions, to measure what the GPU can do.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import tvm
from tvm.tirx.script import builder as T

from compile import reference
from compile.graph import Conv, Graph, Rescale, Tensor, macs
from compile.lower import Lowered, lower
from targets import Target, find
from targets.cuda import kernels, routes, toolchain
from targets.cuda.tiles import LANES
from targets.kernel import Call, Entry, Kernel, Layout, Sizes, Step

GOLDEN = 4  # different pictures; a larger batch repeats them
PEAK_BLOCKS, PEAK_WARPS, PEAK_TURNS, PEAK_CHAINS = 4 * 132, 8, 4096, 8


def write_case(folder: Path, network: str, bits: str, graph: Graph, target: Target, batch: int, seed: int = 1,
               source_only: bool = False) -> Path:
    """One network in one configuration for one batch; returns its folder."""
    case = folder / f"{network}-{bits}-{target.name.replace(':', '-')}-{batch}"
    case.mkdir(parents=True, exist_ok=True)
    lowered = lower(graph, target, batch)
    toolchain.build(lowered.module, target, case / "main.so", case, source_only)
    few = np.random.default_rng(seed).integers(0, 256, (GOLDEN, *graph.tensors[graph.input].shape), np.uint8)
    which = np.arange(max(GOLDEN, batch)) % GOLDEN
    which = which[:len(which) // batch * batch]
    np.savez(case / "data.npz", weights=lowered.weights(), table=lowered.table, pictures=few[which],
             logits=reference.run(graph, few)[which])
    facts = {"network": network, "bits": bits, "batch": batch, "target": target.name, "requires": target.requires,
             "workspace": lowered.sizes.workspace, "macs": macs_by_container(graph, lowered, batch),
             "layers": layers(graph)}
    (case / "case.json").write_text(json.dumps(facts, indent=1) + "\n")
    return case


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
    toolchain.build(peak_module(route), target, case / "main.so", case, source_only)
    each = 16 * 8 * 8 * (32 // container)
    total = each * PEAK_BLOCKS * PEAK_WARPS * PEAK_TURNS * PEAK_CHAINS
    facts = {"network": "peak", "bits": str(container), "macs": total, "outputs": PEAK_BLOCKS * PEAK_WARPS * LANES}
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
                    T.evaluate(T.cuda.func_call(f"multiply_{route.name}", *(accs[4 * chain + i] for i in range(4)),
                                                *words, source_code=route.source()))
            total = accs[0]
            for i in range(1, 4 * PEAK_CHAINS):
                total = T.bitwise_xor(total, accs[i])
            T.buffer_store(writes[0], total, [block * threads + thread])

    step = Step(Entry("peak"), (Layout(Tensor("picture", (1, 1, 16))),), whole)
    kernel = Kernel("peak", np.zeros(0, np.int8), 8, np.zeros(16, np.int32), emit)
    sizes = Sizes(16, 64, 16, 64, whole.size)
    return kernels.assemble([Call("peak", step, kernel, (None,), (None,), 0, 0)], sizes)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda_cases", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--target", default="cuda", help="such as cuda:sm_90 (default cuda)")
    parser.add_argument("--networks", default="resnet8,resnet20,resnet18,mobilenetv2")
    parser.add_argument("--bits", default="w8a8,w4a4,mixed")
    parser.add_argument("--batch", default="1,8,64")
    args = parser.parse_args(argv)
    from benchmarks.networks import NETWORKS

    try:
        target = find(args.target)
        for container in (8, 4):
            print(write_peak(args.out, container, target))
        for network, bits in itertools.product(args.networks.split(","), args.bits.split(",")):
            graph = NETWORKS[network].graph(bits)
            for batch in map(int, args.batch.split(",")):
                print(write_case(args.out, network, bits, graph, target, batch))
    except (KeyError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
