"""The phases of training: a full-precision network, a search for bits, and from both all variants together."""

from train.bits.configs import Configs
from train.data.batches import Batches, Held
from train.kinds.feeds import accuracy, feeds, reestimate
from train.loop import checkpoint
from train.loop.phase import Phase, Run, keep, train
from train.network.architectures import Architecture, Layer
from train.network.network import Network
from train.search.shared import CALIBRATION
from train.settings.settings import Settings


def private_layers(arch: Architecture, which: str) -> tuple[Layer, ...]:
    """Of --private-weights: the layers in which every private variant has weights of its own."""
    return {"none": (), "ends": arch.ends, "all": arch.layers}[which]


def variants_network(settings: Settings, arch: Architecture, found: Configs) -> Network:
    """One network of all variants; private ones are there where a phase after the joint one is resumed."""
    net = Network(arch, {v.name: v.bits for v in found.variants if not v.base})
    for v in found.variants:
        if v.base:
            net.add_private(v.name, v.base, private_layers(arch, settings.private.private_weights))
    return net


def joint(
    settings: Settings, run: Run, batches: Batches, teacher: Network, tutor: Network, held: Held, resumed: dict | None
) -> Network:
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
                student.calibrate(batches.sample(CALIBRATION, feed.own), feed.variants)
            if run.start is not None:
                run.start(student)
        phase = Phase(
            "joint",
            student,
            tuple(variant for feed in fed for variant in feed.variants),
            settings.training.epochs,
            settings.training.lr,
            tutor,
            tuple((feed.own, feed.variants) for feed in fed),
        )

        def validate(phase: Phase) -> dict[str, float]:
            return {
                f"accuracy/{variant}": accuracy(student, variant, feed.held, batches)
                for feed in fed
                for variant in feed.variants
            }

        train(phase, batches, run, phase.restore(resumed) if inside else None, validate)
        reestimate(run, batches, student, fed)
        if run.group.writes:
            keep(None, run, {"phase": "joined"})
    return student.eval()
