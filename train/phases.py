"""The phases of training: a full-precision network, a search for bits, and from both all variants together."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from runtime.quality import features
from train import checkpoint, configs, csq, dqmq, fracbits, ilp
from train.architectures import Architecture, architecture
from train.batches import Batches
from train.configs import Configs, Variant
from train.cost import CostTable, layer_cost, relative
from train.data import Dataset
from train.groups import Groups, view_features
from train.loop import Phase, Run, keep, train
from train.measure import float_correct
from train.networks import FULL, Network
from train.relaxed import END_BITS
from train.search import CALIBRATION, Held, Search
from train.settings import Settings
from train.weights import load_weights

# method -> search(Search): trains, and returns what makes its configurations of the trained network
SEARCHES = {"fracbits": fracbits.search, "ilp": ilp.search, "csq": csq.search, "dqmq": dqmq.search}
REESTIMATION_STEPS = 32  # batches whose statistics replace the running ones, where that pays


def variant_bits(arch: Architecture, w_bits: int, a_bits: int) -> dict[str, tuple[int, int]]:
    """Layer name -> widths: the given ones inside, 8 bits in the first layer and the classifier."""
    ends = (arch.stem, arch.classifier)
    return {layer.name: END_BITS if layer in ends else (w_bits, a_bits) for layer in arch.layers}


def full_network(settings: Settings, dataset: Dataset, device: torch.device) -> Network:
    """The network of full precision, with random or given weights: teacher of all others."""
    arch = architecture(settings.arch, dataset.shape, len(dataset.labels))
    torch.manual_seed(settings.seed)
    teacher = Network(arch, {})
    teacher.zero_point.copy_(torch.tensor(dataset.train_x.mean((0, 1, 2))).round().long())
    if settings.weights is not None:
        load_weights(teacher, settings.weights)
    return teacher.to(device)


def full_precision(settings: Settings, run: Run, batches: Batches, teacher: Network, held: Held,
                   resumed: dict | None) -> None:
    """Trains the teacher on mixed quality, from scratch or from given weights."""
    run.modules["teacher"] = teacher
    if resumed is not None:
        teacher.load_state_dict(checkpoint.part(resumed["tensors"], "teacher"))
    if resumed is None or resumed["phase"] == "full":
        phase = Phase("full", teacher, (FULL,), settings.teacher_epochs, settings.lr)
        start = None if resumed is None else phase.restore(resumed)
        train(phase, batches, run, start, lambda phase: {f"accuracy/{FULL}": _accuracy(teacher, FULL, held, batches)})
    teacher.eval()


@dataclass(frozen=True)
class Bits:
    """How a run comes to its bits, and what they cost; made before any training, so that it fails early if at all."""

    settings: Settings
    given: Configs | None
    table: CostTable | None

    @classmethod
    def of(cls, settings: Settings, arch: Architecture) -> "Bits":
        """Raises ConfigsError, or CostError for a cost that cannot be had or a budget out of reach."""
        cost = layer_cost(settings.cost, settings.target)
        if settings.configs:
            found = configs.load(settings.configs, tuple(layer.name for layer in arch.layers))
            return cls(settings, found, None)
        if settings.method == "fixed":
            made = {name: variant_bits(arch, *widths) for name, widths in settings.uniform.items()}
            found = tuple(Variant(n, bits, relative(cost, arch, bits), "fixed") for n, bits in made.items())
            return cls(settings, Configs(settings.costs, found), None)
        table = CostTable.of(cost, arch, settings.candidates)
        table.check(settings.budget, settings.activation_bits if settings.method == "csq" else None)
        return cls(settings, None, table)

    def find(self, run: Run, batches: Batches, teacher: Network, held: Held, resumed: dict | None) -> None:
        """Sets the run's configurations and writes configs.json."""
        inside = resumed is not None and resumed["phase"] == "search"
        if resumed is not None and resumed["configs"] is not None:
            run.configs = Configs.from_dict(resumed["configs"], "the checkpoint")
        if resumed is not None and resumed["phase"] in ("joint", "done"):
            return
        if self.given is not None:
            run.configs = self.given
            if run.group.writes:
                run.configs.write(run.folder)
            return
        search = Search(self.settings, run, batches, teacher, held, self.table, resumed if inside else None)
        finish = SEARCHES[self.settings.method](search)
        with run.group.writer_first():
            if run.group.writes:
                finish()
            run.configs = configs.read(run.folder / configs.NAME)
        del run.modules["search"]


@dataclass(frozen=True)
class Feed:
    """Variants that learn from the same pictures: their own views bool [F, N] (None: all alike), and held ones."""

    arms: tuple[str, ...]
    own: Tensor | None
    held: Held


def feeds(found: Configs, batches: Batches, held: Held) -> list[Feed]:
    """One for each set of quality groups that some variants are for."""
    if all(not v.groups for v in found.variants):
        return [Feed(tuple(v.name for v in found.variants), None, held)]
    groups, out = Groups.from_dict(found.groups), []
    of_view = groups.assign(groups.standardize(view_features(batches.views_numpy())))
    of_held = groups.assign(groups.standardize(features(held.pictures)))
    for mine in sorted({v.groups for v in found.variants}):
        arms = tuple(v.name for v in found.variants if v.groups == mine)
        own, some = np.isin(of_view, mine), np.isin(of_held, mine)
        few = not mine or not own.any() or not some.any()
        out.append(Feed(arms, None, held) if few else
                   Feed(arms, torch.from_numpy(own), Held(held.pictures[some], held.labels[some])))
    return out


def joint(settings: Settings, run: Run, batches: Batches, teacher: Network, held: Held,
          resumed: dict | None) -> Network:
    """Trains all variants together, taught by the full-precision network; each batch goes through all of its feed."""
    student = Network(teacher.arch, run.configs.bits).to(batches.device)
    fed = feeds(run.configs, batches, held)
    inside = resumed is not None and resumed["phase"] in ("joint", "done")
    if inside:
        student.load_state_dict(checkpoint.part(resumed["tensors"], "student"))
    else:
        student.inherit(teacher)
        for feed in fed:
            student.calibrate(batches.sample(CALIBRATION, feed.own), feed.arms)
        if run.start is not None:
            run.start(student)
    run.modules["student"] = student
    if not inside or resumed["phase"] == "joint":
        phase = Phase("joint", student, tuple(arm for feed in fed for arm in feed.arms), settings.epochs, settings.lr,
                      teacher, tuple((feed.own, feed.arms) for feed in fed))

        def validate(phase: Phase) -> dict[str, float]:
            return {f"accuracy/{arm}": _accuracy(student, arm, feed.held, batches)
                    for feed in fed for arm in feed.arms}
        train(phase, batches, run, phase.restore(resumed) if inside else None, validate)
        if run.group.writes:
            _reestimate(run, batches.alone(), student, fed)
            keep(None, run, {"phase": "done"})
    return student.eval()


def _accuracy(net: Network, arm: str, held: Held, batches: Batches) -> float:
    return float(float_correct(net, arm, held.pictures, held.labels, batches.device).mean())


@torch.no_grad()
def _reestimate(run: Run, batches: Batches, student: Network, fed: list[Feed]) -> None:
    """Replaces a variant's running statistics, which lag behind the weights, by fresh means where accuracy gains."""
    record = {"phase": "statistics", "epoch": 0, "step": 0}
    for feed in fed:
        order = batches.order("statistics", 0, feed.own)
        for name in feed.arms:
            arms = [conv.arms[name].norm for conv in student.convs.values()]
            norms = [norm for norm in arms if isinstance(norm, nn.BatchNorm2d)]
            before, kept = _accuracy(student, name, feed.held, batches), [copy.deepcopy(m.state_dict()) for m in norms]
            momentum = norms[0].momentum
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a plain mean over all batches
            student.train()
            for step in range(min(REESTIMATION_STEPS, batches.steps)):
                student(batches.get(order, "statistics", 0, step)[0], name)
            after = _accuracy(student, name, feed.held, batches)
            for norm, state in zip(norms, kept, strict=True):
                norm.momentum = momentum
                if after <= before:
                    norm.load_state_dict(state)
            record |= {f"before/{name}": before, f"after/{name}": after}
    run.journal.write(record)
