"""Times the training steps of every method beside the plain full-precision step, interleaved in one process.

    python -m benchmarks.training --networks resnet20 --batch 64 --json training.json

Every step is `train.loop.training.optimize` on a phase as a run makes it, on pictures made up here; searches are met in
the middle of their epochs, where all that they learn is learned. "fp32" trains the full-precision network from labels;
all others pay for the teacher's answers as well. "fixed:8,4,2" is the joint phase of three variants, its time shared
out among them. "fixed:4@bfloat16" is the method with --precision bfloat16. "torch" is the same network, batches and
optimizer in plain torch, so that our own fp32 step has its equal. A time is the mean over STEPS steps, each the least
of several turns: on a GPU and with several threads by the clock, with one thread (OMP_NUM_THREADS=1) in seconds of the
processor, so that others on the machine count less.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.training_steps import FP32, STEPS, Bench, Method, Step, phase_step, torch_step
from runtime.files import write_json
from runtime.terminal import OneLineParser
from train.loop.allocator import keep_freed_memory
from train.loop.parallel import pick_device
from train.phases import find_bits

NETWORKS = ("resnet8", "resnet20")
FIXED = ("fixed:4", "fixed:8,4,2")
TORCH = "torch"  # the reference in plain torch
TURNS = 5

Clock = Callable[[], float]  # -> seconds


@dataclass(frozen=True)
class Record:
    """The speed of one method; ratio_to_fp32: time of a step, relative to that of "fp32"."""

    network: str
    method: str
    device: str
    batch: int
    threads: int
    pictures_per_second: float
    ratio_to_fp32: float


def time_steps(steps: Sequence[Step], device: torch.device, turns: int) -> list[float]:
    """Returns the seconds of one step of each, which take turns; a first turn is not counted.

    Raises ValueError where a loss is not finite.
    """
    clock = _clock(device)
    least = np.full((len(steps), STEPS), math.inf)
    for turn in range(turns + 1):
        for k, i in np.ndindex(STEPS, len(steps)):
            start = clock()
            loss = steps[i](k)
            taken = clock() - start
            if not math.isfinite(loss):
                raise ValueError(f"a loss is {loss} in turn {turn}: the steps timed are none of a training that works")
            if turn > 0:
                least[i, k] = min(least[i, k], taken)
    return least.mean(1).tolist()


def _clock(device: torch.device) -> Clock:
    """Returns what tells the time: the clock, or with one thread the processor's seconds."""
    if device.type == "cuda":

        def time_after_kernels() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return time_after_kernels
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def time_methods(
    network: str, batch: int, methods: Sequence[Method], device: torch.device, turns: int = TURNS
) -> list[Record]:
    """Returns records of a network: the plain reference, "fp32", and each method."""
    all_methods = [Method.parse(FP32), *methods]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.of(network, batch, device, Path(folder))
        phases = [bench.phase(method.name) for method in all_methods]
        steps = [phase_step(bench, phase, method) for phase, method in zip(phases, all_methods, strict=True)]
        seconds = time_steps([torch_step(bench), *steps], device, turns)
    sharing = [1, *(len(phase.loss_names) if phase.name == "joint" else 1 for phase in phases)]
    each = [total / count for total, count in zip(seconds, sharing, strict=True)]
    fp32 = each[1]
    names = [TORCH, *(method.text for method in all_methods)]
    return [
        Record(network, name, device.type, batch, torch.get_num_threads(), batch / own, own / fp32)
        for name, own in zip(names, each, strict=True)
    ]


def show(console: Console, records: Sequence[Record]) -> None:
    """Prints the records of one network at one batch size as a table."""
    first = records[0]
    title = f"{first.network}, batch {first.batch}, {first.device}, threads: {first.threads}"
    table = Table("method", "pictures/s", "time, of fp32", title=title, title_justify="left")
    for record in records:
        table.add_row(record.method, f"{record.pictures_per_second:.0f}", f"{record.ratio_to_fp32:.2f}")
    console.print(table)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line, `methods` as parsed ones; exits with a message for wrong ones."""
    every = [*FIXED, *find_bits.SEARCHES]
    parser = OneLineParser(prog="python -m benchmarks.training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 128], help="pictures a step (default 64 128)")
    parser.add_argument("--methods", nargs="+", default=every, help=f"beside fp32 (default {' '.join(every)})")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of which the least time counts (default {TURNS})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there too")
    args = parser.parse_args(argv)
    try:
        args.methods = [Method.parse(text) for text in args.methods]
    except ValueError as error:
        parser.error(f"--methods: {error}")
    if args.turns < 1 or min(args.batch) < 2:
        parser.error(f"expected --turns of at least 1 and --batch of at least 2, got {args.turns} and {args.batch}")
    return args


def time_all(args: argparse.Namespace, console: Console) -> list[Record]:
    """Times and shows the methods on every network at every batch size asked for; returns all records."""
    device = pick_device(args.device)
    records: list[Record] = []
    for network in args.networks:
        for batch in args.batch:
            some = time_methods(network, batch, args.methods, device, args.turns)
            show(console, some)
            records += some
    return records


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 2 where the steps could not be timed."""
    args = parse(argv)
    keep_freed_memory()
    try:
        records = time_all(args, Console())
        if args.json:
            write_json(args.json, [asdict(record) for record in records])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
