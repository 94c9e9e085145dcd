"""Prepared networks on this machine's GPU: how long do they take, beside PyTorch in fp16 and the GPU's own peak?

    python -m benchmarks.cuda.times cases/resnet20-w8a8-8 cases/resnet20-w4a4-8 --json times.json

The cases are one network for one batch. Engines take turns as CUDA graphs over the same pictures; a time is the least
mean of many rounds. peak_share: the time in which this GPU, by its own measured rate of matrix instructions, could do
the multiply-adds, over the time that was taken; by mma.sync, which all code here uses, though GPUs from compute
capability 9.0 on have faster instructions too.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.cuda.case import Case, PeakCase
from benchmarks.cuda.checks import ERRORS, Captured, Compiled, bind, buffer
from benchmarks.cuda.peer import FloatPeer, make_peer
from benchmarks.cuda.records import TimeRecord, write_records
from runtime.terminal import OneLineParser

ROUNDS = 15
ROUND_MS = 10  # of every call in a round
BYTES_FROM = 90  # compute capability from which codes of 4 bits are multiplied as bytes

GpuCall = Callable[[], None]
Timer = Callable[[GpuCall, int], float]


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, compute capability (87 is 8.7), and multiply-adds a millisecond by bits of a code."""

    name: str
    capability: int
    peaks: dict[str, float]

    def peak_share(self, macs: dict[str, int], ms: float) -> float | None:
        """Returns the least time of multiply-adds by bits of a code, over the time taken; None where no peak tells."""
        least = 0.0
        for container, count in macs.items():
            rate = self.peaks.get(container if container in containers(self.capability) else "8")
            if count and not rate:
                return None
            if count and rate:
                least += count / rate
        return least / ms


def containers(capability: int) -> set[str]:
    """Returns the bits of a code inside a GPU's own matrix instructions."""
    return {"8"} if capability >= BYTES_FROM else {"8", "4"}


def gpu_ms(call: GpuCall, repeat: int) -> float:
    """Returns mean milliseconds of a call, by the GPU's own clock."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeat):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / repeat


def least_times(calls: dict[str, GpuCall], timer: Timer = gpu_ms, rounds: int = ROUNDS) -> dict[str, float]:
    """Returns the least mean milliseconds of each call; they take turns, each round about 10 ms of every one."""
    for call in calls.values():
        timer(call, 3)  # the first replay of a graph brings it to the GPU
    repeat = {name: max(1, min(1000, int(ROUND_MS / max(timer(call, 3), 1e-3)))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timer(call, repeat[name]))
    return {name: min(measured) for name, measured in times.items()}


def compile_peer(network: FloatPeer, x: torch.Tensor) -> dict[str, GpuCall]:
    """Returns what torch.compile makes of a network for pictures [N, C, H, W], as a CUDA graph.

    Nothing where it cannot, which is printed.
    """
    try:
        compiled = torch.compile(network, mode="max-autotune-no-cudagraphs")
        return {"torch fp16 compiled": Captured(lambda: compiled(x))}
    except Exception as error:  # a compiler's errors are of many kinds, and the other engines have their times
        lines = str(error).strip().splitlines() or ["said nothing"]
        print(f"torch.compile: left out, {type(error).__name__}: {lines[0]}", file=sys.stderr)
        return {}


def measure_peaks(folder: Path, capability: int) -> dict[str, float]:
    """Returns multiply-adds a millisecond by bits of a code, of the prepared kernels that do nothing else."""
    peaks = {}
    # zeros would cost the GPU less power than codes do
    words = np.random.default_rng(0).integers(0, 1 << 32, 16, np.uint32).view(np.int32)
    for container in sorted(containers(capability)):
        place = folder / f"peak-{container}"
        if not place.exists():
            continue
        case = PeakCase.read(place)
        arrays = (
            np.zeros(16, np.uint8),
            np.zeros(64, np.int8),
            words,
            np.zeros(64, np.uint8),
            np.zeros(case.outputs, np.int32),
        )
        call = bind(place / "main.so", tuple(buffer(a, "cuda") for a in arrays))
        peaks[container] = case.macs / least_times({"peak": call})["peak"]
    return peaks


def time_engines(cases: Sequence[Case], gpu: Gpu) -> Iterator[list[TimeRecord]]:
    """Yields records of all cases and the peers; first without the compiled peer, which may take long to make."""
    ours = {case.bits: Compiled(case) for case in cases}
    network, x = make_peer(cases[0], next(iter(ours.values())).golden.shape[1:])
    calls: dict[str, GpuCall] = {bits: Captured(compiled) for bits, compiled in ours.items()}
    calls["torch fp16"] = Captured(lambda: network(x))
    yield _records(cases, gpu, least_times(calls))
    if compiled_peer := compile_peer(network, x):
        calls |= compiled_peer
        yield _records(cases, gpu, least_times(calls))


def _records(cases: Sequence[Case], gpu: Gpu, times: dict[str, float]) -> list[TimeRecord]:
    """Ours by their bits, then all others, which are peers."""
    first, batch = cases[0].network, cases[0].batch
    own = [
        TimeRecord(
            c.network, "bitgrade", c.bits, c.batch, gpu.name, times[c.bits], None, gpu.peak_share(c.macs, times[c.bits])
        )
        for c in cases
    ]
    own_bits = {c.bits for c in cases}
    peers = [(name, ms) for name, ms in times.items() if name not in own_bits]
    return own + [TimeRecord(first, name, "fp16", batch, gpu.name, ms) for name, ms in peers]


def read_one_network(folders: Sequence[Path]) -> list[Case]:
    """Returns the cases; raises ValueError unless they are one network for one batch, each configuration once."""
    cases = [Case.read(folder) for folder in folders]
    kinds = {(case.network, case.batch) for case in cases}
    if len(kinds) > 1 or len({case.bits for case in cases}) < len(cases):
        raise ValueError(
            f"expected one network for one batch, each configuration once, got {[f.name for f in folders]}"
        )
    return cases


def run_times(folders: Sequence[Path], json_path: Path | None) -> list[TimeRecord]:
    """Times the engines and returns their records, which are written as soon as there are some; raises ERRORS."""
    cases = read_one_network(folders)
    for case in cases:
        case.require(torch.cuda.get_device_capability())
    torch.backends.cudnn.benchmark = True  # the peer picks the fastest of its algorithms
    major, minor = torch.cuda.get_device_capability()
    capability = 10 * major + minor
    peaks = measure_peaks(folders[0].parent, capability)
    for container, rate in peaks.items():
        print(f"peak of {container}-bit instructions: {2e3 * rate / 1e12:.1f} TOPS")
    records: list[TimeRecord] = []
    for records in time_engines(cases, Gpu(torch.cuda.get_device_name(), capability, peaks)):
        if json_path:
            write_records(json_path, records)
    return records


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after one line that says what went wrong."""
    parser = OneLineParser(prog="python -m benchmarks.cuda.times", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="cases of benchmarks.cuda.cases")
    parser.add_argument("--json", type=Path, help="write the records there too")
    args = parser.parse_args(arguments)
    try:
        records = run_times(args.folders, args.json)
    except ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for record in records:
        members = asdict(record).items()
        print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in members))
    return 0


if __name__ == "__main__":
    sys.exit(main())
