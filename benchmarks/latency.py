"""Time of one picture: networks of many widths, or bundles, beside other engines, interleaved in one process.

    python -m benchmarks.latency --networks resnet20 --bits w8a8,w4a4 --threads 1,2 --json latency.json
    python -m benchmarks.latency --bundle bundles/a

A network is built into a bundle as a user's would be. onnxruntime and OpenVINO run the same network in float32, and in
8 bits as their own tools quantize it (benchmarks/peers/engines.py); they get a picture that is float already, bitgrade
its bytes. "exact" says whether an engine's fast answers are those of an unoptimized run (for bitgrade: of the integer
reference), and if not, how far off they are."""

import argparse
import io
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from benchmarks.networks.random_networks import BITS, GOLDEN, NETWORKS, write_run
from benchmarks.peers import avx2
from benchmarks.peers.engines import TOLERANCE, Peer, answered, as_floats, difference, missing, peers
from compile.build import build
from compile.qdq.exporter import to_onnx
from runtime import Bundle, BundleError, open_bundle
from runtime.execution.library import Loaded
from runtime.files import write_json
from targets import Target, find

Contender = tuple[dict, Callable[[], object]]  # record without time, one call
SECONDS, CALLS = 20, 500  # of a table, where --calls does not say
BURST = 12  # calls in a row: the first ones bring weights into the cache and wake threads that have gone to sleep
PAUSE = 0.005  # seconds before a burst, in which other engines' threads stop spinning; only where there are some


def built(name: str, bits: list[str], target: Target, folder: Path) -> Bundle:
    """The bundle of a network, verified like any other."""
    run, quiet = write_run(folder / name, name, bits), Console(file=io.StringIO())
    return open_bundle(build([run], target, folder / f"{name}-bundle", golden=GOLDEN, console=quiet))


def qdq_file(bundle: Bundle) -> onnx.ModelProto:
    """The plainest of the ONNX files that travel with a bundle."""
    paths = [bundle.path(v.onnx) for v in bundle.variants if v.onnx in bundle.manifest.files]
    if not paths:
        raise BundleError(
            f"{bundle.folder}: expected an ONNX file of a variant in the bundle, it has none; build the "
            "bundle again with `python -m compile.build`"
        )
    return min(map(onnx.load, paths), key=lambda model: len(model.graph.node))


def ours(bundle: Bundle, threads: int) -> Iterator[Contender]:
    """Every variant of the bundle."""
    (images, logits), name = bundle.golden(), bundle.manifest.name
    loaded = Loaded(bundle, bundle.variants, threads=threads)
    for variant in bundle.variants:
        off = difference(np.stack([loaded.run(variant.name, picture) for picture in images]), logits[variant.name])
        record = {
            "network": name,
            "engine": "bitgrade",
            "bits": variant.name,
            "threads": threads,
            "exact": off == 0,
            "difference": off,
        }
        yield record, lambda v=variant.name: loaded.run(v, images[0])


def theirs(name: str, found: list[Peer], floats: np.ndarray, threads: int) -> Iterator[Contender]:
    """Every peer, on pictures float32 [N, C, H, W]."""
    for peer in found:
        run = peer.start(threads)
        off = difference(answered(run, floats), peer.answers)
        record = {
            "network": name,
            "engine": peer.engine,
            "bits": peer.bits,
            "threads": threads,
            "exact": off <= TOLERANCE,
            "difference": off,
        }
        yield record, lambda run=run: run(floats[:1])


def measure(group: list[Contender], calls: int | None = None) -> list[dict]:
    """Records with "ms", the least of `calls` calls, in bursts that take turns so that all meet the same noise.

    calls: left out, as many as fit into SECONDS, CALLS at most.
    """
    least = [float("inf")] * len(group)
    pause = PAUSE if any(record["threads"] > 1 for record, _ in group) else 0

    def turn() -> float:
        """Seconds that a burst of each took."""
        began = time.perf_counter()
        for k, (_, call) in enumerate(group):
            time.sleep(pause)
            for _ in range(BURST):
                start = time.perf_counter()
                call()
                least[k] = min(least[k], time.perf_counter() - start)
        return time.perf_counter() - began

    seconds = turn()
    for _ in range(math.ceil((calls or min(CALLS, BURST * SECONDS / seconds)) / BURST) - 1):
        turn()
    return [{**record, "ms": best * 1e3} for (record, _), best in zip(group, least, strict=True)]


def show(console: Console, records: list[dict], title: str) -> None:
    int8 = [r["ms"] for r in records if r["engine"] != "bitgrade" and r["bits"] != "fp32"]
    table = Table("engine", "bits", "ms", "of the best int8 peer", "exact", title=title, title_justify="left")
    for r in records:
        exact = "yes" if r["exact"] else f"no, off by {r['difference']:.1%}"
        table.add_row(r["engine"], r["bits"], f"{r['ms']:.3f}", f"{r['ms'] / min(int8):.2f}", exact)
    console.print(table)


def compared(
    bundle: Bundle, model: onnx.ModelProto, threads: list[int], calls: int | None, console: Console
) -> Iterator[dict]:
    """Records of a bundle and its peers on the network in `model`, shown as a table for each number of threads."""
    pictures, name = bundle.golden()[0], bundle.manifest.name
    floats = as_floats(model, pictures)
    with tempfile.TemporaryDirectory() as folder:
        found = peers(model, pictures, Path(folder))
        for count in threads:
            records = measure([*ours(bundle, count), *theirs(name, found, floats, count)], calls)
            show(console, records, f"{name}, {bundle.level().name}, threads: {count}")
            yield from records


def _names(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--networks", type=_names, help=f"default: {','.join(NETWORKS)}, or none beside --bundle")
    parser.add_argument(
        "--bits",
        type=_names,
        default=list(BITS),
        help=f"of the networks (default {','.join(BITS)}); also w4a8, or w4a4-dw8 for 8-bit depthwise",
    )
    parser.add_argument("--threads", type=_names, default=["1"], help="one table each, such as 1,2 (default 1)")
    parser.add_argument("--calls", type=int, help=f"of each engine; default: what fits into {SECONDS} s")
    parser.add_argument("--target", help="what the networks are built for (default x86)")
    parser.add_argument("--bundle", nargs="+", type=Path, default=[], help="bundles to compare with peers as well")
    parser.add_argument("--avx2", action="store_true", help="hide AVX-512 from the peers (benchmarks/peers/avx2.py)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there too")
    return parser


def _require_avx2(target: str, needs: tuple[str, ...]) -> None:
    more = sorted(set(needs) - set(find("x86:avx2").requires))
    if more:
        raise ValueError(f"--avx2: expected our side to need AVX2 alone, {target} needs {', '.join(more)}")


def _held_to_avx2(argv: list[str], target: Target, bundles: list[Path]) -> int:
    """The same run in a process whose peers are held to AVX2; raises ValueError where our side is not."""
    _require_avx2(target.name, target.requires)
    for path in bundles:
        _require_avx2(str(path), open_bundle(path).manifest.target.requires)
    return avx2.run("benchmarks.latency", [w for w in argv if w != "--avx2"] + ["--target", target.name])


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    names = ([] if args.bundle else list(NETWORKS)) if args.networks is None else args.networks
    for name in names:
        if name not in NETWORKS:
            parser.error(f"--networks: expected some of {', '.join(NETWORKS)}, got {name!r}")
    if not all(t.isdigit() and int(t) for t in args.threads):
        parser.error(f"--threads: expected numbers of at least 1, got {','.join(args.threads)}")
    console, records = Console(), []
    try:
        target = find(args.target or ("x86:avx2" if args.avx2 else "x86"))
        if args.avx2:
            return _held_to_avx2(sys.argv[1:] if argv is None else argv, target, args.bundle)
        for package in missing():
            console.print(f"{package} is not installed: OpenVINO is left out (pip install openvino nncf)")
        with tempfile.TemporaryDirectory() as folder:
            threads = [int(t) for t in args.threads]
            for name in names:
                bundle, model = built(name, args.bits, target, Path(folder)), to_onnx(NETWORKS[name].graph("w8a8"))
                records += compared(bundle, model, threads, args.calls, console)
            for bundle in map(open_bundle, args.bundle):
                records += compared(bundle, qdq_file(bundle), threads, args.calls, console)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        write_json(args.json, records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
