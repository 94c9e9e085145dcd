"""The last phase: private variants, each a shared variant's integer weights as an expert for one kind of quality.

A private variant has batch norms and steps of its own. These fold into biases and multipliers, so that it costs a small
table and no time. Pictures of one kind of degradation shift a network's statistics together (AdaBN, Li et al. 2016,
arXiv 1603.04779; Schneider et al. 2020, arXiv 2006.16971). Here batch norms and activation steps also learn, and with
them the weights that all share, now that they are read through several statistics (Chang et al. 2019, arXiv
1906.03950). The weights of the first layer and the classifier, a thousand bytes, are a private variant's own; those of
all layers where asked.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from train.bits.configs import Configs
from train.data.batches import Batches, Order
from train.kinds.batch_norms import reestimate_batch_norms
from train.kinds.feeds import accuracies, make_feeds
from train.kinds.finding import NO_PRIVATE, quality_kinds
from train.kinds.kinds import Kinds
from train.loop.phase import VariantsPhase, distillation_loss, teacher_logits
from train.loop.session import Session
from train.loop.state import PRIVATE
from train.network.architectures import Architecture, Layer
from train.network.network import Network
from train.phases.joint import private_layers

PRIVATE_SHARE = 1.0  # share of a batch drawn from the variants' own quality kind


def with_private(configs: Configs, kinds: Kinds) -> Configs:
    """Returns the configurations with a private variant a kind for each that is for all pictures; none for one kind.

    With one kind all steps of the phase are the shared variants': what private ones must be better than.
    """
    shared = [v for v in configs.variants if not v.kinds and len(kinds) > 1]
    private = [
        replace(v, name=f"{v.name}-q{kind}", kinds=(kind,), loss=None, base=v.name)
        for v in shared
        for kind in range(len(kinds))
    ]
    return replace(configs, variants=(*configs.variants, *private), kinds=kinds.to_dict())


@dataclass
class PrivatePhase(VariantsPhase):
    """Training in turns: each step trains the variants of one feed; shared variants have a turn like any kind.

    loss_names: the shared variants; every feed has one variant made from each, in their order. layers: those whose
    shared weights train.
    """

    layers: tuple[Layer, ...] = field(kw_only=True)
    fusible = False  # dozens of variants

    def parameters_by_rate(self) -> list[tuple[float, list[tuple[str, nn.Parameter]]]]:
        """Returns batch norms and steps of the feeds' variants, and the weights that train, all at one rate."""
        for parameter in self.net.parameters():
            parameter.requires_grad_(False)
        variants = [variant for feed in self.feeds for variant in feed.variants]
        for variant in variants:
            self.net.streams[variant].requires_grad_()
        for conv in self.net.all_convs():
            trains = conv.layer in self.layers
            conv.weight.requires_grad_(trains)
            for variant in variants:
                per_variant = conv.variant(variant)
                per_variant.requires_grad_()
                per_variant.w.requires_grad_(trains or per_variant.weight is not None)
        return [(self.lr, [(n, p) for n, p in self.net.named_parameters() if p.requires_grad])]

    def orders(self, batches: Batches, epoch: int) -> list[Order]:
        """Returns one order for each feed, all of its own views."""
        return [batches.order(self.name, epoch, feed.own, PRIVATE_SHARE) for feed in self.feeds]

    def losses(self, batches: Batches, orders: list[Order], epoch: int, step: int) -> Iterator[tuple[str, Tensor]]:
        """Yields (base, scalar loss) of the variants whose turn it is."""
        turn = (epoch * batches.steps + step) % len(self.feeds)
        pictures, labels = batches.get(orders[turn], self.name, epoch, step)
        taught = teacher_logits(self.teacher, pictures)
        for base, variant in zip(self.loss_names, self.feeds[turn].variants, strict=True):
            yield base, distillation_loss(self.net(pictures, variant), labels, taught) / batches.batch


def train_private(session: Session, configs: Configs, student: Network) -> Configs:
    """Adds private variants to the trained ones and trains them all; does nothing where --private-epochs is 0.

    Returns the configurations with those added. Shared variants train on all qualities in the same phase, for as many
    steps as each private one. Raises TrainingError for a loss that is not finite.
    """
    if session.resume.past(PRIVATE):
        return configs
    if session.settings.private.private_epochs and any(not v.kinds for v in configs.variants):
        if not session.resume.inside(PRIVATE):
            configs = _make_private(session, configs)
            _add_private(session, configs, student)
        _train(session, configs, student)
    session.run.write_end(PRIVATE)
    student.eval()
    return configs


def _make_private(session: Session, configs: Configs) -> Configs:
    """Adds private variants for the kinds of quality that are known already, else for such as are found now."""
    settings = session.settings
    if not configs.kinds:
        teacher = session.networks.teacher
        kinds = quality_kinds(session.batches, teacher, settings.private.kinds, settings.training.seed)
        return with_private(configs, kinds)
    if settings.private.kinds == NO_PRIVATE:
        return configs
    return with_private(configs, Kinds.from_dict(configs.kinds))


def _add_private(session: Session, configs: Configs, student: Network) -> None:
    """Adds the private variants to the student, and writes configs.json."""
    layers = private_layers(student.arch, session.settings.private.private_weights)
    for v in configs.variants:
        if v.base:
            student.add_private(v.name, v.base, layers)
    student.to(session.batches.device)
    session.run.record_configs(configs)


def _train(session: Session, configs: Configs, student: Network) -> None:
    """Trains shared and private variants in turns, and re-estimates their batch norms."""
    settings = session.settings.private
    bases = tuple(v.name for v in configs.variants if not v.kinds)
    feeds = make_feeds(_without_policy_variants(configs), session.batches, session.held)
    phase = PrivatePhase(
        PRIVATE,
        student,
        bases,
        settings.private_epochs,
        settings.private_lr,
        session.networks.teacher,
        tuple(feeds),
        layers=_trained_layers(configs, student.arch),
    )
    session.train(phase, lambda: accuracies(student, feeds, session.batches.device))
    reestimate_batch_norms(session.run, session.batches, student, feeds, PRIVATE_SHARE)


def _trained_layers(configs: Configs, arch: Architecture) -> tuple[Layer, ...]:
    """Layers whose shared weights train: none where variants that have no turn read them and would be left behind."""
    without_turn = any(v.kinds and not v.base for v in configs.variants)
    return () if without_turn else arch.layers


def _without_policy_variants(configs: Configs) -> Configs:
    """Without the variants that a policy made for some kinds: those have statistics of their own already."""
    return replace(configs, variants=tuple(v for v in configs.variants if v.base or not v.kinds))
