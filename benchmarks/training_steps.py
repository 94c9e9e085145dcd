"""The training steps that `benchmarks.training` times: of every method of a run, and of the network in plain torch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console

from benchmarks.networks.plain import plain_resnet
from train.data.batches import Batches, Held
from train.data.dataset import Dataset
from train.loop.parallel import Processes
from train.loop.phase import BETAS, Phase, VariantsPhase
from train.loop.run import Run
from train.loop.session import Networks, Resume, Session
from train.loop.training import computing_as_asked, optimize
from train.network.network import FULL, Network
from train.phases import find_bits, full_precision
from train.search.shared import CALIBRATION, Search, SearchPhase
from train.settings.settings import Settings

FP32 = "fp32"
STEPS, EPOCH, EPOCHS = 4, 1, 2  # steps timed, from the beginning of the second of two epochs
EPOCH_STEPS = 16  # of all epochs; more than STEPS, so that what is timed lies between the half and two thirds
FAMILIES, SIDE, CLASSES, KINDS = 3, 32, 10, 2
OPERANDS = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # of --precision
COMPILED = "compiled"
WAYS = (*OPERANDS, COMPILED)

Step = Callable[[int], float]  # number of a step -> its first loss


@dataclass(frozen=True)
class Method:
    """A method of training, "METHOD" or "METHOD@WAY@WAY": what trains, and in which of WAYS."""

    text: str
    name: str
    ways: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Method":
        """Returns the method of a text. Raises ValueError for an unknown one."""
        name, *ways = text.split("@")
        known = name in (*find_bits.SEARCHES, FP32) or name.startswith("fixed:")
        if not known or set(ways) - set(WAYS):
            raise ValueError(
                f"expected fp32, fixed:BITS or some of {', '.join(find_bits.SEARCHES)}, alone or with "
                f"@ and some of {', '.join(WAYS)}, got {text!r}"
            )
        return cls(text, name, tuple(ways))

    @property
    def operands(self) -> torch.dtype | None:
        """The type that convolutions multiply in, None for the weights' own."""
        return next((OPERANDS[way] for way in self.ways if way in OPERANDS), None)


def random_views(count: int, seed: int = 0) -> np.ndarray:
    """Returns coarse random pictures, uint8 [F, count, SIDE, SIDE, 3], with more noise in every further family."""
    chance = np.random.default_rng(seed)
    coarse = chance.integers(0, 256, (count, SIDE // 4, SIDE // 4, 3)).repeat(4, 1).repeat(4, 2)
    noisy = [coarse + chance.normal(0, 1 + 20 * k, coarse.shape) for k in range(FAMILIES)]
    return np.stack([np.clip(views, 0, 255).astype(np.uint8) for views in noisy])


@dataclass(frozen=True)
class Bench:
    """What all methods train on, and with which settings."""

    settings: Settings
    batches: Batches
    dataset: Dataset
    run: Run

    @classmethod
    def of(cls, network: str, batch: int, device: torch.device, folder: Path) -> "Bench":
        """Returns the bench of a network at a batch size; nothing is written into `folder`."""
        settings = Settings.of(dataset="cifar10", arch=network, batch=batch, kinds=str(KINDS), epochs=EPOCHS)
        views = random_views(EPOCH_STEPS * batch)
        x = views[0]
        y = np.arange(views.shape[1]) % CLASSES
        some = slice(CALIBRATION)
        dataset = Dataset("synthetic", tuple("0123456789"), x, y, x[some], y[some], x[some], y[some])
        batches = Batches(views, y, batch=batch, pictures=0, seed=0, flip=True, device=device)
        return cls(settings, batches, dataset, Run(folder, {}, Processes(), None, Console(quiet=True)))

    def full_network(self) -> Network:
        """Returns the full-precision network, as every run starts with it."""
        return full_precision.make_full_precision(self.settings, self.dataset, self.batches.device)

    def phase(self, method: str) -> Phase:
        """Returns the phase that a method trains in: "fp32", "fixed:BITS", or a search by its name.

        Raises ValueError for a search that has none.
        """
        if method == FP32:
            return VariantsPhase("full", self.full_network(), (FULL,), EPOCHS, self.settings.training.lr)
        teacher = self.full_network().eval()
        if method.startswith("fixed:"):
            settings = self.settings.changed(bits=method.removeprefix("fixed:"))
            return _joint_phase(settings, self.batches, teacher)
        return self._search_phase(method, teacher)

    def _search_phase(self, method: str, teacher: Network) -> Phase:
        """Begins a search and returns the phase that it made."""
        settings = self.settings.changed(method=method)
        table = find_bits.BitSource.of(settings, teacher.arch).table
        assert table is not None  # as every search has one
        held = Held(self.dataset.val_x, self.dataset.val_y)
        session = Session(settings, self.run, self.batches, held, Networks(teacher, teacher), Resume())
        try:
            find_bits.SEARCHES[method](_BegunSearch(session, table))
        except _PhaseReached as reached:
            return reached.phase
        raise ValueError(f"{method}: the search ended without a phase to train in; ask for others by --methods")


def _joint_phase(settings: Settings, batches: Batches, teacher: Network) -> Phase:
    """The phase that trains variants of fixed bits together."""
    bits = {name: find_bits.variant_bits(teacher.arch, *widths) for name, widths in settings.bits.uniform.items()}
    student = Network(teacher.arch, bits).to(batches.device)
    student.inherit(teacher)
    student.calibrate(batches.sample(CALIBRATION))
    return VariantsPhase("joint", student, tuple(bits), EPOCHS, settings.training.lr, teacher)


class _PhaseReached(Exception):
    """A search has made its phase and would train it now."""

    def __init__(self, phase: Phase):
        self.phase = phase


class _BegunSearch(Search):
    """A search that goes as far as its phase."""

    def train(self, phase: SearchPhase) -> None:
        raise _PhaseReached(phase)


def torch_step(bench: Bench) -> Step:
    """Returns the training step of the plain network, on the same batches with the same optimizer."""
    torch.manual_seed(0)
    net = plain_resnet(bench.settings.network.arch, SIDE, CLASSES).train()
    net = net.to(bench.batches.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
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


def phase_step(bench: Bench, phase: Phase, method: Method) -> Step:
    """Returns the training step of a phase, computed in the method's ways."""
    order = phase.orders(bench.batches, EPOCH)
    run = replace(bench.run, fuses=COMPILED in method.ways, operands=method.operands)
    phase.net.train()

    def step(k: int) -> float:
        with computing_as_asked(phase, run):
            return optimize(phase, run, bench.batches, order, EPOCH, k)[0]

    return step
