"""The third phase: all variants are trained together, over shared weights."""

from train.bits.configs import Configs
from train.kinds.batch_norms import reestimate_batch_norms
from train.kinds.feeds import JudgedFeed, accuracies, make_feeds
from train.loop.phase import VariantsPhase
from train.loop.run import STUDENT_NETWORK
from train.loop.session import Session
from train.loop.state import JOINT, SEARCH
from train.network.architectures import Architecture, Layer
from train.network.network import Network
from train.search.shared import CALIBRATION
from train.settings.settings import Settings


def private_layers(arch: Architecture, private_weights: str) -> tuple[Layer, ...]:
    """Returns the layers in which private variants have weights of their own, by the value of --private-weights."""
    return {"none": (), "ends": arch.ends, "all": arch.layers}[private_weights]


def make_student(settings: Settings, arch: Architecture, configs: Configs) -> Network:
    """Returns one network of all variants; private ones are among them where a later phase than this is resumed."""
    student = Network(arch, {v.name: v.bits for v in configs.variants if not v.base})
    for v in configs.variants:
        if v.base:
            student.add_private(v.name, v.base, private_layers(arch, settings.private.private_weights))
    return student


def train_jointly(session: Session, configs: Configs) -> Network:
    """Trains all variants together from the full-precision network's weights and the teacher's answers.

    Returns the student, the network of all variants. Every batch goes through all variants of its feed. Raises
    TrainingError for a loss that is not finite, CheckpointError for a checkpoint of another student.
    """
    student = make_student(session.settings, session.networks.full_precision.arch, configs).to(session.batches.device)
    session.run.modules[STUDENT_NETWORK] = student
    resumed = session.resume.past(SEARCH)
    if resumed:
        session.resume.fill_module(student, STUDENT_NETWORK)
    else:
        student.inherit(session.networks.full_precision)
    if not session.resume.past(JOINT):
        feeds = make_feeds(configs, session.batches, session.held)
        if not resumed:
            _initialise(session, student, feeds)
        _train(session, student, feeds)
    return student.eval()


def _initialise(session: Session, student: Network, feeds: list[JudgedFeed]) -> None:
    """Sets all steps from each variant's own pictures, then what a search has learned of them."""
    for feed in feeds:
        student.calibrate(session.batches.sample(CALIBRATION, feed.own), feed.variants)
    if session.run.initialise is not None:
        session.run.initialise(student)


def _train(session: Session, student: Network, feeds: list[JudgedFeed]) -> None:
    """Trains the student, and re-estimates its batch norms."""
    training = session.settings.training
    variants = tuple(variant for feed in feeds for variant in feed.variants)
    teacher = session.networks.teacher
    phase = VariantsPhase(JOINT, student, variants, training.epochs, training.lr, teacher, tuple(feeds))
    session.train(phase, lambda: accuracies(student, feeds, session.batches.device))
    reestimate_batch_norms(session.run, session.batches, student, feeds)
    session.run.write_end(JOINT)
