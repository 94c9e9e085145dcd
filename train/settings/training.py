"""Settings of the training itself: network, epochs and rates, private variants, judging, and where the run lies."""

import re
from dataclasses import dataclass
from pathlib import Path

from train.network.architectures import ARCHITECTURES
from train.settings.options import SettingsError, check_rules, flag, option, require_two

PRIVATE_WEIGHTS = ("none", "ends", "all")
PRECISIONS = ("float32", "bfloat16")
MOST_SEED = 2**32 - 1  # that all libraries take
CACHE = Path.home() / ".cache" / "bitgrade"


@dataclass(frozen=True)
class NetworkSettings:
    """Which network is trained, from which weights, and from whose answers it learns."""

    arch: str = option("resnet8", f"Network to train: {', '.join(ARCHITECTURES)}.", everyday=True, among=ARCHITECTURES)
    weights: Path | None = option(
        None, "Checkpoint that the full-precision network starts from, in place of random weights.", everyday=True
    )
    teacher: Path | None = option(
        None,
        "Checkpoint of another network, from whose answers the variants learn in place of the full-precision one's.",
    )
    teacher_arch: str = option("resnet56", "Architecture of --teacher.", among=ARCHITECTURES)

    def __post_init__(self) -> None:
        check_rules(self)
        for name in ("weights", "teacher"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise SettingsError(f"{flag(name)} {path}: there is no such file")


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast the networks learn."""

    epochs: int = option(12, "Epochs of the joint training of all variants.", everyday=True, least=1)
    fp_epochs: int | None = option(
        None, "Epochs of the full-precision network before it; as --epochs when not given.", least=0
    )
    search_epochs: int | None = option(None, "Epochs of the search for bits; as --epochs when not given.", least=1)
    start: Path | None = option(
        None,
        "Folder of a run to go on from: networks and bits are as at its end, without private variants; only "
        "the private variants are trained.",
    )
    epoch_pictures: int = option(0, "Pictures per epoch, 0 for all.", least=0)
    batch: int = option(64, "Pictures per step, over all processes.", least=2)
    lr: float = option(2e-3, "Largest learning rate, of Adam.", between=(0, 1))
    precision: str = option(
        "float32",
        "Numbers that convolutions multiply while training: float32, or bfloat16, faster where the processor has it.",
        among=PRECISIONS,
    )
    torch_compile: bool = option(
        False,
        "Runs teacher, full-precision network and the variants' joint training as fused code of torch.compile: faster "
        "steps, after a minute for each of them.",
    )
    seed: int = option(0, "Seed of everything random.", least=0)

    def __post_init__(self) -> None:
        check_rules(self)
        if self.seed > MOST_SEED:
            raise SettingsError(f"--seed: expected at most {MOST_SEED}, got {self.seed}")

    @property
    def full_precision_epochs(self) -> int:
        """Epochs of the full-precision network."""
        return self.epochs if self.fp_epochs is None else self.fp_epochs

    @property
    def bit_epochs(self) -> int:
        """Epochs of the search for bits."""
        return self.epochs if self.search_epochs is None else self.search_epochs


@dataclass(frozen=True)
class PrivateSettings:
    """Private variants: experts for one kind of picture quality each, trained after the joint training."""

    private_epochs: int = option(
        0, "Epochs of the private variants of every kind of quality; 0 for no private variants.", least=0
    )
    kinds: str = option(
        "families",
        "Kinds of quality to tell apart: families, or how many to find without labels, 0 for as many as the data say, "
        "1 for no private variants.",
    )
    private_weights: str = option(
        "ends",
        "Layers in which private variants get weights of their own, which costs their bytes: none, ends (the first and "
        "the classifier), or all.",
        among=PRIVATE_WEIGHTS,
    )
    private_lr: float = option(1e-3, "Largest learning rate of what is private.", between=(0, 1))

    def __post_init__(self) -> None:
        check_rules(self)
        if not re.fullmatch("families|[0-9]+", self.kinds):
            raise SettingsError(
                f"--kinds: expected families or how many, 0 for as many as the data say, got {self.kinds!r}"
            )


@dataclass(frozen=True)
class JudgingSettings:
    """How the trained variants are tested, and how the selector among them is fitted."""

    test_pictures: int = option(1000, "Test pictures per degradation, 0 for all.", least=0)
    selector_pictures: int = option(
        2000, "Held pictures per degradation that the selector is fitted on, 0 for all.", least=0
    )
    escalate: bool = option(
        False,
        "Makes a cascade: a dearer variant looks again where the chosen one is unsure. Fewer errors at the same mean "
        "cost, but some pictures cost both.",
    )
    unseen_loss: float = option(
        0.005,
        "Accuracy (0..1) that a kind of quality never seen may lose by private variants, judged by leaving out each "
        "known one; 1 to take no such care.",
    )

    def __post_init__(self) -> None:
        check_rules(self)
        require_two("test_pictures", self.test_pictures)
        require_two("selector_pictures", self.selector_pictures)
        if not 0 <= self.unseen_loss <= 1:
            raise SettingsError(f"--unseen-loss: expected a share of the pictures, in 0..1, got {self.unseen_loss}")


@dataclass(frozen=True)
class PlaceSettings:
    """Where the run lies and what it runs on, which decides no result."""

    out: Path | None = option(None, "Folder of the run; runs/DATASET-ARCH-METHOD when not given.", everyday=True)
    resume: bool = option(False, "Goes on from the last checkpoint of --out.", everyday=True)
    cache: Path = option(CACHE, "Folder for degraded pictures and fetched data; it may be deleted at any time.")
    device: str = option("auto", "Device to train on: auto, cpu, cuda, or cuda:N.")
    workers: int | None = option(None, "Processes that degrade pictures; all cores when not given.", least=1)
    checkpoint_minutes: float = option(2.0, "Minutes between checkpoints inside an epoch.", least=0)

    def __post_init__(self) -> None:
        check_rules(self)
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", self.device):
            raise SettingsError(f"--device: expected auto, cpu, cuda or cuda:N, got {self.device!r}")
