"""The two phases of training: a full-precision network, and from it all variants over shared weights."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from train import checkpoint
from train.architectures import Architecture, architecture
from train.batches import Batches
from train.data import Dataset
from train.loop import Phase, Run, keep, train
from train.measure import float_correct
from train.networks import FULL, Network
from train.settings import Settings
from train.weights import load_weights

CALIBRATION = 256  # pictures that set the first steps
REESTIMATION_STEPS = 32  # batches whose statistics replace the running ones, where that pays
FIRST_BITS = (8, 8)  # of the first layer and the classifier


@dataclass(frozen=True)
class Held:
    """Pictures kept from training, uint8 [N, H, W, 3] of mixed quality, and labels int64 [N]: to compare by."""

    pictures: np.ndarray
    labels: np.ndarray


def variant_bits(arch: Architecture, w_bits: int, a_bits: int) -> dict[str, tuple[int, int]]:
    """Layer name -> widths: the given ones inside, 8 bits in the first layer and the classifier."""
    ends = (arch.stem, arch.classifier)
    return {layer.name: FIRST_BITS if layer in ends else (w_bits, a_bits) for layer in arch.layers}


def networks(settings: Settings, dataset: Dataset, device: torch.device) -> tuple[Network, Network]:
    """(teacher, student): full precision alone, with random or given weights, and all variants, not yet set."""
    arch = architecture(settings.arch, dataset.shape, len(dataset.labels))
    torch.manual_seed(settings.seed)
    teacher = Network(arch, {})
    teacher.zero_point.copy_(torch.tensor(dataset.train_x.mean((0, 1, 2))).round().long())
    if settings.weights is not None:
        load_weights(teacher, settings.weights)
    bits = {name: variant_bits(arch, *widths) for name, widths in settings.variants.items()}
    return teacher.to(device), Network(arch, bits).to(device)


def full_precision(settings: Settings, run: Run, batches: Batches, teacher: Network, held: Held,
                   resumed: dict | None) -> None:
    """Trains the teacher on mixed quality, from scratch or from given weights."""
    run.modules["teacher"] = teacher
    if resumed is None or resumed["phase"] == "full":
        phase = Phase("full", teacher, (FULL,), settings.teacher_epochs, settings.lr)
        train(phase, batches, run, _continue(phase, resumed), _validation(held, batches.device))
    teacher.eval()


def joint(settings: Settings, run: Run, batches: Batches, teacher: Network, student: Network, held: Held,
          resumed: dict | None) -> None:
    """Trains all variants together, each batch through each of them, taught by the full-precision network."""
    if resumed is None or resumed["phase"] == "full":
        student.inherit(teacher)
        student.calibrate(batches.sample(CALIBRATION))
    run.modules["student"] = student
    if resumed is None or resumed["phase"] != "done":
        phase = Phase("joint", student, tuple(student.bits), settings.epochs, settings.lr, teacher)
        start = resumed if resumed and resumed["phase"] == "joint" else None
        train(phase, batches, run, _continue(phase, start), _validation(held, batches.device))
        if run.group.writes:
            _reestimate(run, batches.alone(), student, held)
            keep(None, run, {"phase": "done"})
    student.eval()


def resume(run: Run, saved: tuple[dict, dict], teacher: Network, student: Network) -> None:
    """Puts a checkpoint's tensors into the networks it has."""
    tensors, state = saved
    teacher.load_state_dict(checkpoint.part(tensors, "teacher"))
    if state["phase"] != "full":
        student.load_state_dict(checkpoint.part(tensors, "student"))
    run.last_checkpoint = run.folder / checkpoint.NAME


def _continue(phase: Phase, resumed: dict | None) -> dict | None:
    if resumed is None:
        return None
    checkpoint.restore_optimizer(phase.optimizer, phase.names, resumed["tensors"])
    return {k: resumed[k] for k in ("epoch", "step", "sums", "counted")}


def _validation(held: Held, device: torch.device):
    def validate(phase: Phase) -> dict[str, float]:
        return {f"accuracy/{arm}": _accuracy(phase.net, arm, held, device) for arm in phase.arms}
    return validate


def _accuracy(net: Network, arm: str, held: Held, device: torch.device) -> float:
    return float(float_correct(net, arm, held.pictures, held.labels, device).mean())


@torch.no_grad()
def _reestimate(run: Run, batches: Batches, student: Network, held: Held) -> None:
    """Replaces a variant's running statistics, which lag behind the weights, by fresh means where accuracy gains."""
    record = {"phase": "statistics", "epoch": 0, "step": 0}
    order = batches.order("statistics", 0)
    for name in student.bits:
        arms = [conv.arms[name].norm for conv in student.convs.values()]
        norms = [norm for norm in arms if isinstance(norm, nn.BatchNorm2d)]
        before, kept = _accuracy(student, name, held, batches.device), [copy.deepcopy(m.state_dict()) for m in norms]
        momentum = norms[0].momentum
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over all batches
        student.train()
        for step in range(min(REESTIMATION_STEPS, batches.steps)):
            student(batches.get(order, "statistics", 0, step)[0], name)
        after = _accuracy(student, name, held, batches.device)
        for norm, state in zip(norms, kept, strict=True):
            norm.momentum = momentum
            if after <= before:
                norm.load_state_dict(state)
        record |= {f"before/{name}": before, f"after/{name}": after}
    run.journal.write(record)
