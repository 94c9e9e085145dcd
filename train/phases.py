"""The phases of training: a full-precision network, a search for bits, and from both all variants together."""

from dataclasses import dataclass, replace

import torch

from train import checkpoint, configs, csq, dqmq, fracbits, given, ilp
from train.architectures import Architecture, Layer, architecture
from train.batches import Batches
from train.configs import Configs, Variant
from train.cost import CostTable, check_given, layer_cost, relative
from train.data import Dataset
from train.feeds import accuracy, feeds, reestimate
from train.loop import Phase, Run, keep, train
from train.networks import FULL, Network
from train.relaxed import END_BITS
from train.search import CALIBRATION, Held, Search
from train.settings import Settings
from train.weights import load_weights, save_weights

# method -> search(Search): trains, and returns what makes its configurations of the trained network
SEARCHES = {"fracbits": fracbits.search, "ilp": ilp.search, "csq": csq.search, "dqmq": dqmq.search}
FULL_NAME = "full.safetensors"  # the full-precision network of a run, which another can start from


def variant_bits(arch: Architecture, w_bits: int, a_bits: int) -> dict[str, tuple[int, int]]:
    """Layer name -> widths: the given ones inside, 8 bits in the first layer and the classifier."""
    return {layer.name: END_BITS if layer in arch.ends else (w_bits, a_bits) for layer in arch.layers}


def private_layers(arch: Architecture, which: str) -> tuple[Layer, ...]:
    """Of --private-weights: the layers in which every private variant has weights of its own."""
    return {"none": (), "ends": arch.ends, "all": arch.layers}[which]


def variants_network(settings: Settings, arch: Architecture, found: Configs) -> Network:
    """One network of all variants; private ones are there where a phase after the joint one is resumed."""
    net = Network(arch, {v.name: v.bits for v in found.variants if not v.base})
    for v in found.variants:
        if v.base:
            net.add_private(v.name, v.base, private_layers(arch, settings.private_weights))
    return net


def full_network(settings: Settings, dataset: Dataset, device: torch.device) -> Network:
    """The network of full precision, with random or given weights: teacher of all others."""
    arch = architecture(settings.arch, dataset.shape, len(dataset.labels))
    torch.manual_seed(settings.seed)
    teacher = Network(arch, {})
    teacher.zero_point.copy_(torch.tensor(dataset.train_x.mean((0, 1, 2))).round().long())
    if settings.weights is not None:
        load_weights(teacher, settings.weights)
    return teacher.to(device)


def tutor(settings: Settings, dataset: Dataset, teacher: Network, device: torch.device) -> Network:
    """What all learn from beside labels: the network of --teacher at rest, else the full-precision one."""
    if settings.teacher is None:
        return teacher
    other = Network(architecture(settings.teacher_arch, dataset.shape, len(dataset.labels)), {})
    load_weights(other, settings.teacher)
    return other.to(device).eval()


def full_precision(settings: Settings, run: Run, batches: Batches, teacher: Network, held: Held,
                   resumed: dict | None) -> None:
    """Trains the teacher on mixed quality, from scratch or from given weights."""
    run.modules["teacher"] = teacher
    if resumed is not None:
        checkpoint.fill(teacher, resumed["tensors"], "teacher")
    if resumed is None or resumed["phase"] == "full":
        phase = Phase("full", teacher, (FULL,), settings.teacher_epochs, settings.lr)
        start = None if resumed is None else phase.restore(resumed)
        train(phase, batches, run, start, lambda phase: {f"accuracy/{FULL}": accuracy(teacher, FULL, held, batches)})
    if run.group.writes:  # also where the checkpoint is a later one: the file may be lost
        save_weights(teacher, run.folder / FULL_NAME)
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
        if settings.start:  # which brings them along
            return cls(settings, None, None)
        if settings.configs:
            found = configs.load(settings.configs, tuple(layer.name for layer in arch.layers))
            # What another run made private trains here like any other variant for some kinds of quality.
            priced = tuple(replace(v, cost=relative(cost, arch, v.bits), base="") for v in found.variants)
            found = replace(found, about=settings.costs, variants=priced)
            given.check(settings, found, f"--configs {settings.configs}")
            return cls(settings, found, None)
        if settings.method == "fixed":
            made = {name: variant_bits(arch, *widths) for name, widths in settings.uniform.items()}
            found = tuple(Variant(n, bits, relative(cost, arch, bits), "fixed") for n, bits in made.items())
            check_given(settings.budget, [(v.name, v.cost) for v in found])
            return cls(settings, Configs(settings.costs, found), None)
        table = CostTable.of(cost, arch, settings.candidates)
        table.check(settings.budget, settings.activation_bits if settings.method == "csq" else None)
        return cls(settings, None, table)

    def find(self, run: Run, batches: Batches, teacher: Network, tutor: Network, held: Held,
             resumed: dict | None) -> None:
        """Sets the run's configurations and writes configs.json."""
        inside = resumed is not None and resumed["phase"] == "search"
        if resumed is not None and resumed["configs"] is not None:
            run.configs = Configs.from_dict(resumed["configs"], "the checkpoint")
            if run.group.writes:
                run.configs.write(run.folder)
        if resumed is not None and resumed["phase"] in checkpoint.AFTER_SEARCH:
            return
        if self.given is not None:
            run.configs = self.given
            if run.group.writes:
                run.configs.write(run.folder)
            return
        search = Search(self.settings, run, batches, teacher, tutor, held, self.table, resumed if inside else None)
        finish = SEARCHES[self.settings.method](search)
        with run.group.writer_first():
            if run.group.writes:
                finish()
            run.configs = configs.read(run.folder / configs.NAME)
        del run.modules["search"]


def joint(settings: Settings, run: Run, batches: Batches, teacher: Network, tutor: Network, held: Held,
          resumed: dict | None) -> Network:
    """Trains all variants together from the teacher's weights and the tutor's answers; each batch goes through all of
    its feed."""
    student = variants_network(settings, teacher.arch, run.configs).to(batches.device)
    inside = resumed is not None and resumed["phase"] in checkpoint.AFTER_SEARCH
    if inside:
        checkpoint.fill(student, resumed["tensors"], "student")
    else:
        student.inherit(teacher)
    run.modules["student"] = student
    if not inside or resumed["phase"] == "joint":
        fed = feeds(run.configs, batches, held)
        if not inside:
            for feed in fed:
                student.calibrate(batches.sample(CALIBRATION, feed.own), feed.arms)
            if run.start is not None:
                run.start(student)
        phase = Phase("joint", student, tuple(arm for feed in fed for arm in feed.arms), settings.epochs, settings.lr,
                      tutor, tuple((feed.own, feed.arms) for feed in fed))

        def validate(phase: Phase) -> dict[str, float]:
            return {f"accuracy/{arm}": accuracy(student, arm, feed.held, batches)
                    for feed in fed for arm in feed.arms}
        train(phase, batches, run, phase.restore(resumed) if inside else None, validate)
        reestimate(run, batches, student, fed)
        if run.group.writes:
            keep(None, run, {"phase": "joined"})
    return student.eval()
