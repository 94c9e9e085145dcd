"""Time of one picture: networks of many widths, or bundles, beside other engines, interleaved in one process.

    python -m benchmarks.latency --networks resnet20 --bits w8a8,w4a4 --threads 1,2 --json latency.json
    python -m benchmarks.latency --bundle bundles/a

A network is built into a bundle as a user's would be. onnxruntime and OpenVINO run the same network in float32, and in
8 bits as their own tools quantize it (benchmarks/peers/engines.py); they get a picture that is float already, bitgrade
its bytes. "exact" says whether an engine's fast answers are those of an unoptimized run (for bitgrade: of the integer
reference), and if not, how far off they are."""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from benchmarks.networks.random_networks import BITS, GOLDEN, NETWORKS, write_run
from benchmarks.peers import avx2
from benchmarks.peers.engines import TOLERANCE, Peer, largest_difference, make_peers, missing_packages, run_all
from benchmarks.peers.float_network import as_floats
from compile.build import build
from compile.qdq.exporter import to_onnx
from compile.settings import BuildSettings
from runtime import Bundle, BundleError, open_bundle
from runtime.execution.library import Loaded
from runtime.files import write_json
from runtime.terminal import OneLineParser
from targets import Target, find

SECONDS, CALLS = 20, 500  # of a table, where --calls does not say
BURST = 12  # calls in a row: the first ones bring weights into the cache and wake threads that have gone to sleep
PAUSE = 0.005  # seconds before a burst, in which other engines' threads stop spinning; only where there are some


@dataclass(frozen=True)
class LatencyRecord:
    """The time of one picture through one engine; ms: milliseconds, the least of many calls.

    exact: whether the answers are those that the engine should give; difference: as a share of the largest logit.
    """

    network: str
    engine: str
    bits: str
    threads: int
    exact: bool
    difference: float
    ms: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Returns the record for a JSON file."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Contender:
    """An engine that is ready: its record, which has no time yet, and one call of it."""

    record: LatencyRecord
    call: Callable[[], object]


@dataclass(frozen=True)
class LatencySettings:
    """What is timed, on how many threads, and for how long; calls: of each engine, None: what fits into SECONDS."""

    target: Target
    networks: tuple[str, ...]
    bits: tuple[str, ...]
    bundles: tuple[Path, ...]
    threads: tuple[int, ...]
    calls: int | None
    avx2: bool
    json: Path | None


def build_network(name: str, bits: Sequence[str], target: Target, folder: Path) -> Bundle:
    """Returns the bundle of a network, verified like any other; raises what a build raises."""
    run = write_run(folder / name, name, list(bits))
    settings = BuildSettings(target, (run,), folder / f"{name}-bundle", golden=GOLDEN, times=False)
    return open_bundle(build(settings).bundle)


def plainest_model(bundle: Bundle) -> onnx.ModelProto:
    """Returns the ONNX file with fewest nodes that travels with a bundle; raises BundleError where there is none."""
    paths = [bundle.path(v.onnx) for v in bundle.variants if v.onnx is not None and v.onnx in bundle.manifest.files]
    if not paths:
        raise BundleError(
            f"{bundle.folder}: expected an ONNX file of a variant in the bundle, it has none; build the "
            "bundle again with `python -m compile.build`"
        )
    return min(map(onnx.load, paths), key=lambda model: len(model.graph.node))


def own_contenders(bundle: Bundle, threads: int) -> Iterator[Contender]:
    """Yields every variant of the bundle."""
    pictures, logits = bundle.golden()
    loaded = Loaded(bundle, bundle.variants, threads=threads)
    for variant in bundle.variants:
        answers = np.stack([loaded.run(variant.name, picture) for picture in pictures])
        difference = largest_difference(answers, logits[variant.name])
        record = LatencyRecord(bundle.manifest.name, "bitgrade", variant.name, threads, difference == 0, difference)
        yield Contender(record, partial(loaded.run, variant.name, pictures[0]))


def peer_contenders(name: str, peers: Sequence[Peer], floats: np.ndarray, threads: int) -> Iterator[Contender]:
    """Yields every peer, on pictures float32 [N, C, H, W]; name: of the network."""
    for peer in peers:
        run = peer.start(threads)
        difference = largest_difference(run_all(run, floats), peer.answers)
        record = LatencyRecord(name, peer.engine, peer.bits, threads, difference <= TOLERANCE, difference)
        yield Contender(record, partial(run, floats[:1]))


def time_contenders(contenders: Sequence[Contender], calls: int | None = None) -> list[LatencyRecord]:
    """Returns records with the least time of `calls` calls, in bursts that take turns so that all meet the same noise.

    calls: left out, as many as fit into SECONDS, CALLS at most.
    """
    least = [math.inf] * len(contenders)
    pause = PAUSE if any(contender.record.threads > 1 for contender in contenders) else 0

    def take_turns() -> float:
        """Seconds that a burst of each took."""
        began = time.perf_counter()
        for k, contender in enumerate(contenders):
            time.sleep(pause)
            for _ in range(BURST):
                start = time.perf_counter()
                contender.call()
                least[k] = min(least[k], time.perf_counter() - start)
        return time.perf_counter() - began

    seconds = take_turns()
    if calls is None:
        calls = min(CALLS, math.ceil(BURST * SECONDS / seconds))
    for _ in range(math.ceil(calls / BURST) - 1):
        take_turns()
    return [replace(c.record, ms=best * 1e3) for c, best in zip(contenders, least, strict=True)]


def compare(
    bundle: Bundle, model: onnx.ModelProto, settings: LatencySettings, console: Console
) -> Iterator[LatencyRecord]:
    """Yields records of a bundle and its peers on the network in `model`, and prints a table for each thread count."""
    pictures, name = bundle.golden()[0], bundle.manifest.name
    floats = as_floats(model, pictures)
    with tempfile.TemporaryDirectory() as folder:
        peers = make_peers(model, pictures, Path(folder))
        for threads in settings.threads:
            contenders = [*own_contenders(bundle, threads), *peer_contenders(name, peers, floats, threads)]
            records = time_contenders(contenders, settings.calls)
            print_records(console, records, f"{name}, {bundle.level().name}, threads: {threads}")
            yield from records


def print_records(console: Console, records: Sequence[LatencyRecord], title: str) -> None:
    """Prints a table of engines on one network."""
    best_int8 = min(r.ms for r in records if r.engine != "bitgrade" and r.bits != "fp32")
    table = Table("engine", "bits", "ms", "of the best int8 peer", "exact", title=title, title_justify="left")
    for r in records:
        exact = "yes" if r.exact else f"no, off by {r.difference:.1%}"
        table.add_row(r.engine, r.bits, f"{r.ms:.3f}", f"{r.ms / best_int8:.2f}", exact)
    console.print(table)


def run_benchmark(settings: LatencySettings, console: Console) -> list[LatencyRecord]:
    """Times all networks and bundles and returns the records; raises ValueError and OSError."""
    for package in missing_packages():
        console.print(f"{package} is not installed: OpenVINO is left out (pip install openvino nncf)")
    records: list[LatencyRecord] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in settings.networks:
            bundle = build_network(name, settings.bits, settings.target, Path(folder))
            records += compare(bundle, to_onnx(NETWORKS[name].graph("w8a8")), settings, console)
        for bundle in map(open_bundle, settings.bundles):
            records += compare(bundle, plainest_model(bundle), settings, console)
    return records


def parse(arguments: Sequence[str] | None = None) -> LatencySettings:
    """Returns the settings of a command line; a bad one ends the program with one line that says what is wrong."""
    parser = OneLineParser(prog="python -m benchmarks.latency", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--networks", type=_names, help=f"default: {','.join(NETWORKS)}, or none beside --bundle")
    parser.add_argument(
        "--bits",
        type=_names,
        default=BITS,
        help=f"of the networks (default {','.join(BITS)}); also w4a8, or w4a4-dw8 for 8-bit depthwise",
    )
    parser.add_argument("--threads", type=_counts, default=(1,), help="one table each, such as 1,2 (default 1)")
    parser.add_argument("--calls", type=int, help=f"of each engine; default: what fits into {SECONDS} s")
    parser.add_argument("--target", help="what the networks are built for (default x86)")
    parser.add_argument("--bundle", nargs="+", type=Path, default=[], help="bundles to compare with peers as well")
    parser.add_argument("--avx2", action="store_true", help="hide AVX-512 from the peers (benchmarks/peers/avx2.py)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there too")
    args = parser.parse_args(arguments)
    networks = args.networks
    if networks is None:
        networks = () if args.bundle else tuple(NETWORKS)
    for name in networks:
        if name not in NETWORKS:
            parser.error(f"--networks: expected some of {', '.join(NETWORKS)}, got {name!r}")
    try:
        target = find(args.target or ("x86:avx2" if args.avx2 else "x86"))
    except ValueError as error:
        parser.error(f"--target: {error}")
    return LatencySettings(
        target, networks, args.bits, tuple(args.bundle), args.threads, args.calls, args.avx2, args.json
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _counts(text: str) -> tuple[int, ...]:
    words = _names(text)
    if not words or not all(word.isdigit() and int(word) for word in words):
        raise argparse.ArgumentTypeError(f"expected numbers of at least 1, got {text}")
    return tuple(map(int, words))


def _run_held_to_avx2(arguments: Sequence[str], settings: LatencySettings) -> int:
    """The same run in a process whose peers are held to AVX2; raises ValueError where our side is not."""
    for level in settings.target.compiled_for:
        _require_avx2(level.name, level.requires)
    for path in settings.bundles:
        _require_avx2(str(path), open_bundle(path).level().requires)
    words = [word for word in arguments if word != "--avx2"] + ["--target", settings.target.name]
    return avx2.run_held_to_avx2("benchmarks.latency", words)


def _require_avx2(name: str, needs: Sequence[str]) -> None:
    more = sorted(set(needs) - set(find("x86:avx2").requires))
    if more:
        raise ValueError(f"--avx2: expected our side to need AVX2 alone, {name} needs {', '.join(more)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after one line that says what went wrong."""
    settings = parse(arguments)
    try:
        if settings.avx2:
            return _run_held_to_avx2(sys.argv[1:] if arguments is None else arguments, settings)
        records = run_benchmark(settings, Console())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if settings.json:
        write_json(settings.json, [record.to_dict() for record in records])
    return 0


if __name__ == "__main__":
    sys.exit(main())
