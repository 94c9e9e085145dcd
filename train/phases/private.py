"""Private variants: a shared one's integer weights for one quality group, with batch norms and steps of its own.

A batch norm folds into biases and multipliers, so that a private variant costs a small table and no time. Pictures of
one kind of degradation shift a network's statistics together (AdaBN, Li et al. 2016, arXiv 1603.04779; Schneider et al.
2020, arXiv 2006.16971). Here batch norms and activation steps also learn, and with them the weights that all share, now
that they are read through several statistics (Chang et al. 2019, arXiv 1906.03950). The weights of the first layer and
the classifier, a thousand bytes, are a private variant's own; those of all layers where asked.
"""

from dataclasses import dataclass, replace

from train.bits.configs import Configs
from train.data.batches import Batches, Held
from train.kinds.feeds import accuracy, feeds, reestimate
from train.kinds.groups import Groups, quality_groups
from train.loop.phase import Phase, Run, answers, distillation, keep, train
from train.network.architectures import Architecture, Layer
from train.network.network import Network
from train.phases.given_bits import NO_PRIVATE
from train.phases.joint import private_layers
from train.settings.settings import Settings

OWN = 1.0  # share of a group's own views in what its variants see


def with_private(found: Configs, groups: Groups) -> Configs:
    """The same variants, and for each that is for all pictures one private variant a quality group; none of one group.

    With one group all steps of the phase are the shared variants': what private ones must be better than.
    """
    shared = [v for v in found.variants if not v.kinds and len(groups) > 1]
    private = [
        replace(v, name=f"{v.name}-q{k}", kinds=(k,), loss=None, base=v.name)
        for v in shared
        for k in range(len(groups))
    ]
    return replace(found, variants=(*found.variants, *private), kinds=groups.to_dict())


@dataclass
class PrivatePhase(Phase):
    """Steps go in turns: each is one group's, and trains its variants of every base; shared variants have a turn too.

    variants: names of the bases; every feed has as many variants, in their order. layers: those whose
    weights and steps train.
    """

    layers: tuple[Layer, ...] = ()
    fusible = False  # dozens of variants

    def parameters_by_rate(self):
        for parameter in self.net.parameters():
            parameter.requires_grad_(False)
        variants = [variant for _, variants in self.feeds for variant in variants]
        for variant in variants:
            self.net.streams[variant].requires_grad_()
        for conv in self.net.convs.values():
            moving = conv.layer in self.layers
            conv.weight.requires_grad_(moving)
            for variant in variants:
                conv.variants[variant].requires_grad_()
                conv.variants[variant].w.requires_grad_(moving or conv.variants[variant].weight is not None)
        return [(self.lr, [(n, p) for n, p in self.net.named_parameters() if p.requires_grad])]

    def order(self, batches, epoch):
        return [batches.order(self.name, epoch, own, OWN) for own, _ in self.feeds]

    def losses(self, run, batches, order, epoch, step):
        turn = (epoch * batches.steps + step) % len(self.feeds)
        pictures, labels = batches.get(order[turn], self.name, epoch, step)
        taught = answers(self.teacher, pictures)
        for base, variant in zip(self.variants, self.feeds[turn][1], strict=True):
            yield base, distillation(self.net(pictures, variant), labels, taught) / batches.batch


def specialize(
    settings: Settings, run: Run, batches: Batches, tutor: Network, student: Network, held: Held, resumed: dict | None
) -> Network:
    """Adds private variants to the trained ones and trains them all; nothing where --private-epochs is 0.

    Shared variants train on all qualities in the same phase, as long as each private one.
    """
    if resumed is not None and resumed["phase"] == "done":
        return student.eval()
    inside = resumed is not None and resumed["phase"] == "private"
    bases = [v for v in run.configs.variants if not v.kinds]
    if settings.private.private_epochs and bases:
        if not inside:
            run.configs = _for_kinds(settings, run.configs, batches, tutor)
            for v in run.configs.variants:
                if v.base:
                    student.add_private(v.name, v.base, private_layers(student.arch, settings.private.private_weights))
            if run.group.writes:
                run.configs.write(run.folder)
        student.to(batches.device)
        _train(settings, run, batches, tutor, student, held, resumed if inside else None)
    if run.group.writes:
        keep(None, run, {"phase": "done"})
    return student.eval()


def _for_kinds(settings: Settings, found: Configs, batches: Batches, tutor: Network) -> Configs:
    """With private variants for the kinds of quality that there are already, else for such as are found now."""
    if not found.kinds:
        return with_private(found, quality_groups(batches, tutor, settings.private.kinds, settings.training.seed))
    return found if settings.private.kinds == NO_PRIVATE else with_private(found, Groups.from_dict(found.kinds))


def _train(
    settings: Settings, run: Run, batches: Batches, tutor: Network, student: Network, held: Held, resumed: dict | None
) -> None:
    bases = [v.name for v in run.configs.variants if not v.kinds]
    fed = feeds(_only_based(run.configs), batches, held)
    phase = PrivatePhase(
        "private",
        student,
        tuple(bases),
        settings.private.private_epochs,
        settings.private.private_lr,
        tutor,
        tuple((feed.own, feed.variants) for feed in fed),
        _moving(run.configs, student.arch),
    )

    def validate(phase: Phase) -> dict[str, float]:
        return {
            f"accuracy/{variant}": accuracy(student, variant, feed.held, batches)
            for feed in fed
            for variant in feed.variants
        }

    train(phase, batches, run, None if resumed is None else phase.restore(resumed), validate)
    reestimate(run, batches, student, fed, OWN)


def _moving(found: Configs, arch: Architecture) -> tuple[Layer, ...]:
    """Layers whose shared weights train: none where variants that have no turn read them and would be left behind."""
    beside = any(v.kinds and not v.base for v in found.variants)
    return () if beside else arch.layers


def _only_based(found: Configs) -> Configs:
    """Without variants that a policy made for some groups: those have statistics of their own already."""
    return replace(found, variants=tuple(v for v in found.variants if v.base or not v.kinds))
