"""Instructions and modelled cycles of one picture on ARM processors, beside onnxruntime; no board is needed.

    python -m benchmarks.arm --networks resnet20 --bits w8a8,w2a2 --cpus cortex-a72,cortex-a76 --peers --json arm.json
    python -m benchmarks.arm runs/a/*.onnx            # variants of a run, or quantized files of other tools

Whole networks run on emulated processors, and llvm-mca says what each executed block costs (targets/arm/cycles.py): a
lower bound that does not vary, never a time. onnxruntime's wheel runs the same network, quantized by its own tool to 8
bits, in an arm64 Python under QEMU; its figures are those of one call after the first, without preparation, and take
many minutes. What memcpy, memset and functions outside an engine's library do is counted for neither.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
from rich.console import Console
from rich.table import Table

from benchmarks.networks.grower import clouds
from benchmarks.networks.random_networks import BITS, NETWORKS, write_run
from benchmarks.peers.engines import quantize_by_onnxruntime
from benchmarks.peers.float_network import as_floats, float_network
from compile.lowering.lower import lower
from compile.qdq.importer import OnnxError, load
from runtime.files import write_json
from runtime.terminal import OneLineParser
from targets import find
from targets.arm import toolchain
from targets.arm.cycles import MODELS, Cost, cost, executed
from targets.arm.emulation import qemu, trace
from targets.reference.graph import Graph, macs

CPUS = ("cortex-a72", "cortex-a76")
PEER = "int8-u8s8"  # onnxruntime's quantization with signed weights, its faster one
# what onnxruntime imports, without dependencies: the box has numpy
WHEELS = ("onnxruntime==1.31.1", "flatbuffers", "protobuf", "packaging")
LIBRARY = "onnxruntime_pybind11_state"
GUEST = """
import sys
import numpy
import onnxruntime
library, model, repetitions = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
entry = session.get_inputs()[0]
x = numpy.random.default_rng(0).normal(size=entry.shape).astype(numpy.float32)
for _ in range(int(repetitions)):
    session.run(None, {entry.name: x})
spans = [line.split()[0].split("-") for line in open("/proc/self/maps") if library in line]
print(min(first for first, _ in spans), max(last for _, last in spans))
"""


def ours(graph: Graph, cpu: str) -> Cost:
    """What a whole network costs."""
    target = find(f"arm:{cpu}")
    lowered = lower(graph, target)
    sizes = lowered.sizes
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "net.so"
        toolchain.build([lowered.module], target, library, Path(folder))
        picture = clouds(graph.tensors[graph.input].shape, 1, 0).reshape(-1)
        arguments = (picture, lowered.weights(), lowered.table, sizes.workspace, sizes.logits)
        return executed(library, cpu, arguments)


def theirs(network: str, cpu: str, site: Path) -> Cost:
    """What onnxruntime's run of a network costs."""
    shape = (NETWORKS[network].side,) * 2 + (3,)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = onnx.load(next(write_run(folder / "run", network, ["w8a8"]).rglob("*.onnx")))
        onnx.save(float_network(model), folder / "fp32.onnx")
        path = quantize_by_onnxruntime(folder / "fp32.onnx", as_floats(model, clouds(shape, 4, 1)), folder)[PEER]
        (folder / "guest.py").write_text(GUEST)
        return cost(trace.repeated(folder / "guest.py", LIBRARY, cpu, [site], [str(path)], (1, 2)), cpu)


def wheels(folder: Path) -> Path:
    """onnxruntime for the box's Python."""
    version = max((qemu.make() / "root" / "usr" / "bin").glob("python3.*[0-9]")).name.removeprefix("python")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            str(folder),
            "--no-deps",
            "--only-binary=:all:",
            "--python-version",
            version,
            "--implementation",
            "cp",
            *(
                word
                for tag in ("2_28", "2_27", "2014")
                for word in ("--platform", f"manylinux{'' if tag == '2014' else '_'}{tag}_aarch64")
            ),
            *WHEELS,
        ],
        check=True,
    )
    return folder


def of_networks(networks: list[str], bits: list[str], cpus: list[str], peers: bool) -> Iterator[dict]:
    """Records of random networks, with peers beside them."""
    with tempfile.TemporaryDirectory() as folder:
        site = wheels(Path(folder)) if peers else None
        for network in networks:
            for cpu in cpus:
                for width in bits:
                    graph = NETWORKS[network].graph(width)
                    yield _record(network, "bitgrade", width, cpu, ours(graph, cpu), graph)
                if site is not None:
                    yield _record(network, "onnxruntime", PEER, cpu, theirs(network, cpu, site), graph)


def of_files(files: list[Path], cpus: list[str]) -> Iterator[dict]:
    """Records of QDQ ONNX files: the network is the folder, the bits are the name."""
    for path in files:
        graph = load(path)
        for cpu in cpus:
            yield _record(path.resolve().parent.name, "bitgrade", path.stem, cpu, ours(graph, cpu), graph)


def _record(network: str, engine: str, bits: str, cpu: str, cost: Cost, graph: Graph) -> dict:
    return {
        "network": network,
        "engine": engine,
        "bits": bits,
        "cpu": cpu,
        "instructions": cost.instructions,
        "cycles": round(cost.cycles),
        "macs": sum(macs(graph).values()),
    }


def show(console: Console, rows: list[dict]) -> None:
    """Prints records as a table."""
    table = Table("network", "cpu", "engine", "bits", "instructions", "cycles", "MAC/cycle")
    for r in rows:
        table.add_row(
            r["network"],
            r["cpu"],
            r["engine"],
            r["bits"],
            f"{r['instructions']:,}",
            f"{r['cycles']:,}",
            f"{r['macs'] / r['cycles']:.2f}",
        )
    console.print(table)


def _names(allowed=None):
    def parse(text: str) -> list[str]:
        names = [word.strip() for word in text.split(",") if word.strip()]
        for name in names:
            if allowed is not None and name not in allowed:
                raise argparse.ArgumentTypeError(f"expected names among {', '.join(allowed)}, got {name!r}")
        return names

    return parse


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    parser = OneLineParser(prog="python -m benchmarks.arm", description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE.onnx", help="instead of --networks and --bits")
    parser.add_argument("--networks", type=_names(NETWORKS), default=["resnet8", "resnet20"])
    parser.add_argument("--bits", type=_names(), default=list(BITS), help=f"default {','.join(BITS)}; also w4a8 ...")
    parser.add_argument("--cpus", type=_names(MODELS), default=list(CPUS), help=f"among {', '.join(MODELS)}")
    parser.add_argument("--peers", action="store_true", help="onnxruntime too (apt, pip, and many minutes)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there too")
    args, rows = parser.parse_args(argv), []
    if args.files and args.peers:
        parser.error("--peers: expected with --networks, got files; leave one of them out")
    records = of_networks(args.networks, args.bits, args.cpus, args.peers)
    try:
        for record in of_files(args.files, args.cpus) if args.files else records:
            rows.append(record)
            print(record, file=sys.stderr, flush=True)
            if args.json is not None:
                write_json(args.json, rows)
    except OnnxError as error:
        print(f"benchmarks.arm: {error}", file=sys.stderr)
        return 1
    show(Console(), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
