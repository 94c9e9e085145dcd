"""Training speed: steps of every method beside the plain full-precision step, interleaved in one process.

    python -m benchmarks.training --networks resnet20 --batch 64 --json training.json

Every step is `train.loop.training.optimize` on a phase as a run makes it, on pictures made up here; searches are met in
the middle of their epochs, where all that they learn is learned. "fp32" trains the full-precision network from labels;
all others pay for the teacher's answers as well. "fixed:8,4,2" is the joint phase of three variants, its time shared out
among them. "fixed:4@bfloat16" is the method with --precision bfloat16. "torch" is the same network, batches and
optimizer in plain torch, so that our own fp32 step has its equal. A time is the mean over STEPS steps, each the least
of several turns: on a GPU and with several threads by the clock, with one thread (OMP_NUM_THREADS=1) in seconds of the
processor, so that others on the machine count less.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from runtime.files import write_json
from train.data.batches import Batches, Held
from train.data.datasets import Dataset
from train.loop.allocator import keep_freed_memory
from train.loop.parallel import Processes, pick_device
from train.loop.phase import BETAS, Phase, VariantsPhase
from train.loop.run import Run
from train.loop.session import Networks, Resume, Session
from train.loop.training import computing_as_asked, optimize
from train.network.network import FULL, Network
from train.phases import find_bits, full_precision
from train.search.shared import CALIBRATION, Search, SearchPhase
from train.settings.settings import Settings
from train.settings.training import PRECISIONS

NETWORKS = ("resnet8", "resnet20")
FIXED = ("fixed:4", "fixed:8,4,2")
TURNS = 5
STEPS, EPOCH, EPOCHS = 4, 1, 2  # steps timed, from the beginning of the second of two epochs
COMPILED = "compiled"
WAYS = (*PRECISIONS, COMPILED)
EPOCH_STEPS = 16  # of all epochs; more than STEPS, so that what is timed lies between the half and two thirds
FAMILIES, SIDE, CLASSES, GROUPS = 3, 32, 10, 2


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """uint8 [F, count, SIDE, SIDE, 3]: coarse random pictures, with more noise in every further family."""
    chance = np.random.default_rng(seed)
    coarse = chance.integers(0, 256, (count, SIDE // 4, SIDE // 4, 3)).repeat(4, 1).repeat(4, 2)
    noisy = [coarse + chance.normal(0, 1 + 20 * k, coarse.shape) for k in range(FAMILIES)]
    return np.stack([np.clip(n, 0, 255).astype(np.uint8) for n in noisy])


@dataclass(frozen=True)
class Bench:
    """What all contenders train on, and with which settings."""

    settings: Settings
    batches: Batches
    dataset: Dataset
    run: Run

    @classmethod
    def of(cls, network: str, batch: int, device: torch.device, folder: Path) -> "Bench":
        settings = Settings.of(dataset="cifar10", arch=network, batch=batch, kinds=str(GROUPS), epochs=EPOCHS)
        views = pictures(EPOCH_STEPS * batch)
        y = np.arange(views.shape[1]) % CLASSES
        dataset = Dataset("synthetic", tuple("0123456789"), views[0], y, *[a[:CALIBRATION] for a in (views[0], y)] * 2)
        batches = Batches(views, y, batch=batch, pictures=0, seed=0, flip=True, device=device)
        return cls(settings, batches, dataset, Run(folder, {}, Processes(), None, Console(quiet=True)))

    def full(self) -> Network:
        """The full-precision network, as every run starts with it."""
        return full_precision.make_full_precision(self.settings, self.dataset, self.batches.device)

    def phase(self, method: str) -> Phase:
        """The phase that a method trains in: "fp32", "fixed:BITS", or a search by its name."""
        if method == "fp32":
            return VariantsPhase("full", self.full(), (FULL,), EPOCHS, self.settings.training.lr)
        teacher = self.full().eval()
        if method.startswith("fixed:"):
            return _joint(self.settings.changed(bits=method.removeprefix("fixed:")), self.batches, teacher)
        settings = self.settings.changed(method=method)
        table, held = find_bits.BitSource.of(settings, teacher.arch).table, Held(self.dataset.val_x, self.dataset.val_y)
        session = Session(settings, self.run, self.batches, held, Networks(teacher, teacher), Resume())
        try:
            find_bits.SEARCHES[method](_Entered(session, table))
        except _AtThePhase as reached:
            return reached.phase
        raise ValueError(f"{method}: the search ended without a phase to train in; ask for others by --methods")


def _joint(settings: Settings, batches: Batches, teacher: Network) -> Phase:
    bits = {name: find_bits.variant_bits(teacher.arch, *widths) for name, widths in settings.bits.uniform.items()}
    student = Network(teacher.arch, bits).to(batches.device)
    student.inherit(teacher)
    student.calibrate(batches.sample(CALIBRATION))
    return VariantsPhase("joint", student, tuple(bits), EPOCHS, settings.training.lr, teacher)


class _AtThePhase(Exception):
    """A search has made its phase."""

    def __init__(self, phase: Phase):
        self.phase = phase


class _Entered(Search):
    """A search that goes as far as its phase."""

    def train(self, phase: SearchPhase) -> None:
        raise _AtThePhase(phase)


class Block(nn.Module):
    """Basic block of a residual network for small pictures, in plain torch."""

    def __init__(self, inputs: int, outputs: int, stride: int, projected: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if projected and stride > 1 else None
        self.stride, self.more = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return F.relu(y + x)


def plain(network: str) -> nn.Module:
    """ResNet-8 of MLPerf Tiny (projected shortcuts), or ResNet-20 of He et al. 2015 (padded ones)."""
    count, projected = {"resnet8": (1, True), "resnet20": (3, False)}[network]
    layers, channels = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for stage in range(3):
        for k in range(count):
            layers.append(Block(channels, 16 << stage, 2 if stage and not k else 1, projected))
            channels = 16 << stage
    return nn.Sequential(*layers, nn.AvgPool2d(SIDE // 4), nn.Flatten(), nn.Linear(channels, CLASSES))


Step = Callable[[int], float]  # number of a step -> its first loss


def torch_step(bench: Bench) -> Step:
    """The plain network on the same batches, with the same optimizer."""
    torch.manual_seed(0)
    net = plain(bench.settings.network.arch).to(bench.batches.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=bench.settings.training.lr, betas=BETAS, fused=True)
    order = bench.batches.order("full", EPOCH)

    def step(k: int) -> float:
        x, y = bench.batches.get(order, "full", EPOCH, k)
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(net((x.permute(0, 3, 1, 2).float() - 128) / 64), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def phase_step(bench: Bench, phase: Phase, ways: tuple[str, ...] = ()) -> Step:
    order, run = phase.orders(bench.batches, EPOCH), replace(bench.run, fuses=COMPILED in ways)
    run.operands = next((getattr(torch, way) for way in ways if way in PRECISIONS), None)
    phase.net.train()

    def step(k: int) -> float:
        with computing_as_asked(phase, run):
            return optimize(phase, run, bench.batches, order, EPOCH, k)[0]

    return step


def seconds(steps: list[Step], device: torch.device, turns: int) -> list[float]:
    """Of one step of each, taking turns; a first turn is not counted. Raises ValueError where a loss is not finite."""
    least, now = np.full((len(steps), STEPS), math.inf), _clock(device)
    for turn in range(turns + 1):
        for k, i in np.ndindex(STEPS, len(steps)):
            start = now()
            loss = steps[i](k)
            taken = now() - start
            if not math.isfinite(loss):
                raise ValueError(f"a loss is {loss} in turn {turn}: the steps timed are none of a training that works")
            least[i, k] = min(least[i, k], taken if turn else math.inf)
    return least.mean(1).tolist()


def _clock(device: torch.device) -> Callable[[], float]:
    """Seconds, by the clock or of the processor."""
    if device.type == "cuda":
        return lambda: (torch.cuda.synchronize(device), time.perf_counter())[1]
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def parts(method: str) -> tuple[str, tuple[str, ...]]:
    """(what trains, in which ways) of "METHOD" or "METHOD@WAY@WAY"."""
    name, *ways = method.split("@")
    return name, tuple(ways)


def measure(network: str, batch: int, methods: list[str], device: torch.device, turns: int = TURNS) -> list[dict]:
    """Records of a network: the plain reference, "fp32", and each method."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.of(network, batch, device, Path(folder))
        made = {method: bench.phase(parts(method)[0]) for method in ("fp32", *methods)}
        steps = [phase_step(bench, phase, parts(method)[1]) for method, phase in made.items()]
        found = seconds([torch_step(bench), *steps], device, turns)
    shared = [1, *(len(p.loss_names) if p.name == "joint" else 1 for p in made.values())]
    each = [t / count for t, count in zip(found, shared, strict=True)]
    return [
        {
            "network": network,
            "method": method,
            "device": device.type,
            "batch": batch,
            "threads": torch.get_num_threads(),
            "pictures_per_second": batch / t,
            "ratio_to_fp32": t / each[1],
        }
        for method, t in zip(("torch", *made), each, strict=True)
    ]


def show(console: Console, records: list[dict]) -> None:
    first = records[0]
    title = f"{first['network']}, batch {first['batch']}, {first['device']}, threads: {first['threads']}"
    table = Table("method", "pictures/s", "time, of fp32", title=title, title_justify="left")
    for r in records:
        table.add_row(r["method"], f"{r['pictures_per_second']:.0f}", f"{r['ratio_to_fp32']:.2f}")
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    every = [*FIXED, *find_bits.SEARCHES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 128], help="pictures a step (default 64 128)")
    parser.add_argument("--methods", nargs="+", default=every, help=f"beside fp32 (default {' '.join(every)})")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of which the least time counts (default {TURNS})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there too")
    args = parser.parse_args(argv)
    for method in args.methods:
        name, ways = parts(method)
        if (name not in (*find_bits.SEARCHES, "fp32") and not name.startswith("fixed:")) or set(ways) - set(WAYS):
            parser.error(
                f"--methods: expected fp32, fixed:BITS or some of {', '.join(find_bits.SEARCHES)}, alone or with "
                f"@ and some of {', '.join(WAYS)}, got {method!r}"
            )
    if args.turns < 1 or min(args.batch) < 2:
        parser.error(f"expected --turns of at least 1 and --batch of at least 2, got {args.turns} and {args.batch}")
    records = []
    keep_freed_memory()
    try:
        device = pick_device(args.device)
        for network in args.networks:
            for batch in args.batch:
                records += measure(network, batch, args.methods, device, args.turns)
                show(Console(), records[-len(args.methods) - 2 :])
        if args.json:
            write_json(args.json, records)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
