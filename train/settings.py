"""All settings of a training run: one frozen dataclass, from whose fields the command line is made."""

import argparse
import math
import re
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from targets import find
from train.data.datasets import DATA_SIDE
from train.data.degradations import FAMILIES, HELD_OUT
from train.network.architectures import ARCHITECTURES

METHODS = {
    "fixed": "--bits as given",
    "fracbits": "a real width per layer, learned by gradient",
    "ilp": "an integer program over measured sensitivities",
    "csq": "bit planes that are learned, and how many of them",
    "dqmq": "a policy that may depend on the picture's quality",
}
COSTS = ("bitops", "size", "latency")
QUANTIZERS = {"lsq": "a learned step for each width", "csq": "bit planes that all widths share"}
SENSITIVITIES = ("loss", "steps")
PRIVATE_WEIGHTS = ("none", "ends", "all")
PRECISIONS = ("float32", "bfloat16")
WIDTHS = range(2, 9)
SIDES = range(8, 129, 4)  # pixels: networks halve their maps twice
# what a run is given with these, so that no other setting decides it
DECIDED_BY = {
    "start": ("weights", "configs", "method", "bits", "epochs", "fp_epochs", "search_epochs"),
    "configs": ("method", "bits", "search_epochs"),
}
SHORT = 12  # digits of a digest that tell files apart
MOST_SEED = 2**32 - 1  # that all libraries take
CACHE = Path.home() / ".cache" / "bitgrade"


class SettingsError(ValueError):
    """A setting that cannot be; the message says what was expected, what came, and what to do."""


def _option(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """Everything that decides how a run comes out, and where it lies."""

    dataset: str = _option("digits", "digits, cifar10, or folder:PATH")
    size: int = _option(32, "side in pixels that pictures of folder:PATH are resized to, a multiple of 4")
    data: Path | None = _option(None, "folder that holds cifar-10-batches-py")
    arch: str = _option("resnet8", ", ".join(ARCHITECTURES))
    weights: Path | None = _option(None, "checkpoint to start from, in place of random weights")
    teacher: Path | None = _option(
        None,
        "checkpoint of another network, whose answers the variants learn from in place of the full-precision one's",
    )
    teacher_arch: str = _option("resnet56", "of --teacher")
    method: str = _option("fixed", "how the bits are found; " + "; ".join(f"{k}: {v}" for k, v in METHODS.items()))
    bits: str = _option("8,4,2", "for fixed, one variant per entry: 4 for 4-bit weights and activations, w4a8 for both")
    widths: str = _option("2,3,4,8", "candidates that a search chooses from")
    variants: int = _option(3, "how many variants a search shall find")
    cost: str = _option("bitops", ", ".join(COSTS) + ": what the budget counts")
    target: str = _option("x86", "hardware whose measured table --cost latency takes")
    configs: str = _option(
        "", "no search: train the variants of FILE (configs.json of a run), FILE:name,name, or such joined by +"
    )
    start: Path | None = _option(
        None,
        "folder of a run to go on from: networks and bits are as at its end, without "
        "private variants; no other training comes before this run's private ones",
    )
    search_epochs: int | None = _option(None, "of the search; as --epochs when not given")
    policy_lr: float = _option(0.03, "largest learning rate of what chooses the bits")
    policy_gradient: float = _option(0.5, "dqmq: weight of the policy gradient; 0 leaves the relaxation alone")
    quantizer: str = _option("lsq", "dqmq: weights by " + ", or ".join(f"{k}: {v}" for k, v in QUANTIZERS.items()))
    samples: int = _option(2, "dqmq: configurations that share a batch while the policy learns")
    groups: str = _option(
        "families",
        "kinds of quality to tell apart: families, or how many to find without labels, "
        "0 for as many as the data say, 1 for no private variants",
    )
    levels: int = _option(1, "dqmq: cost levels around the budget that the variants are spread over")
    activation_bits: int = _option(4, "csq: width of all inner activations, one of --widths")
    sensitivity: str = _option("loss", "ilp: loss on held pictures, or steps for the learned steps alone")
    epochs: int = _option(12, "of the joint training of all variants")
    private_epochs: int = _option(0, "after it, of the private variants of every kind of quality; 0 for none of them")
    private_weights: str = _option(
        "ends",
        "layers in which private variants get weights of their own, which costs "
        "their bytes: none, ends (the first and the classifier), or all",
    )
    private_lr: float = _option(1e-3, "largest learning rate of what is private")
    fp_epochs: int | None = _option(None, "of the full-precision network before it; as --epochs when not given")
    epoch_pictures: int = _option(0, "pictures an epoch, 0 for all")
    batch: int = _option(64, "pictures a step, over all processes")
    precision: str = _option(
        "float32",
        "of what convolutions multiply in training: float32, or bfloat16, which is faster where the processor has it",
    )
    torch_compile: bool = _option(
        False,
        "run teacher, full-precision network and the variants' joint training as "
        "fused code of torch.compile: faster steps, after a minute for each of them",
    )
    lr: float = _option(2e-3, "largest learning rate, of Adam")
    seed: int = _option(0, "of everything random")
    families: str = _option("all", "degradations to train with, by name and comma; all that are not held out")
    hold_out: str = _option(",".join(HELD_OUT), "degradations only tested with; none for no such")
    limit: int = _option(0, "use only so many pictures of each part of the data set, 0 for all")
    test_pictures: int = _option(1000, "pictures per degradation to test with, 0 for all")
    selector_pictures: int = _option(2000, "held pictures per degradation to fit the selector on, 0 for all")
    budget: float = _option(0.5, "mean cost allowed, of that of 8 bits")
    escalate: bool = _option(
        False,
        "let a dearer variant look again where the chosen is unsure: fewer errors at the "
        "same mean cost, but some pictures cost both",
    )
    unseen_loss: float = _option(
        0.005,
        "accuracy (0..1) that a kind of quality never seen may lose by private "
        "variants, judged by leaving out each known one; 1 to take no such care",
    )
    out: Path | None = _option(None, "folder of the run; runs/DATASET-ARCH-METHOD when not given")
    cache: Path = _option(CACHE, "folder for degraded pictures and fetched data")
    device: str = _option("auto", "auto, cpu, cuda, or cuda:N")
    workers: int | None = _option(None, "processes that degrade pictures; all cores when not given")
    checkpoint_minutes: float = _option(2.0, "time between checkpoints inside an epoch")
    resume: bool = _option(False, "go on from the last checkpoint of --out")

    def __post_init__(self):
        _among("--arch", self.arch, ARCHITECTURES)
        _among("--method", self.method, METHODS)
        _among("--cost", self.cost, COSTS)
        _among("--quantizer", self.quantizer, QUANTIZERS)
        _among("--sensitivity", self.sensitivity, SENSITIVITIES)
        _among("--precision", self.precision, PRECISIONS)
        _among("--private-weights", self.private_weights, PRIVATE_WEIGHTS)
        if self.dataset not in ("digits", "cifar10") and not self.dataset.startswith("folder:"):
            raise SettingsError(f"--dataset: expected digits, cifar10 or folder:PATH, got {self.dataset!r}")
        place = self.dataset.removeprefix("folder:")
        if self.dataset.startswith("folder:") and not (place and Path(place).is_dir()):
            raise SettingsError(f"--dataset {self.dataset}: there is no such folder; it must hold train/ and val/")
        if self.size != DATA_SIDE and not self.dataset.startswith("folder:"):
            raise SettingsError(
                f"--size: expected {DATA_SIDE} for {self.dataset}, got {self.size}; only folder:PATH has another"
            )
        if self.size not in SIDES:
            raise SettingsError(
                f"--size: expected a multiple of {SIDES.step} from {SIDES.start} to {SIDES[-1]}, got {self.size}"
            )
        if self.data is not None and not (self.data if self.data.exists() else self.data.parent).is_dir():
            raise SettingsError(
                f"--data {self.data}: there is no such folder; give the one with cifar-10-batches-py, "
                "or one to be made for it in a folder that there is"
            )
        _among("--teacher-arch", self.teacher_arch, ARCHITECTURES)
        for name in ("weights", "teacher"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise SettingsError(f"{_flag(name)} {path}: there is no such file")
        for given, names in DECIDED_BY.items():
            beside = [_flag(name) for name in names if getattr(self, name) != getattr(Settings, name)]
            if getattr(self, given) and beside:
                raise SettingsError(
                    f"{_flag(given)} {getattr(self, given)}: brings along what {', '.join(beside)} "
                    "would decide; leave one out"
                )
        if self.start is not None and self.start.resolve() == self.folder.resolve():
            raise SettingsError(
                f"--start {self.start}: expected another run than the one that is written; name another --out"
            )
        try:
            find(self.target)
        except ValueError as error:
            raise SettingsError(f"--target: {error}") from error
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", self.device):
            raise SettingsError(f"--device: expected auto, cpu, cuda or cuda:N, got {self.device!r}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise SettingsError(f"{_flag(name)}: expected at least {least}, got {value}")
        for name in ("limit", "test_pictures", "selector_pictures"):
            if getattr(self, name) == 1:
                raise SettingsError(
                    f"{_flag(name)}: expected at least 2, to judge by one what another teaches, or 0 for all, got 1"
                )
        if self.seed > MOST_SEED:
            raise SettingsError(f"--seed: expected at most {MOST_SEED}, got {self.seed}")
        if not math.isfinite(self.policy_gradient):
            raise SettingsError(f"--policy-gradient: expected a finite weight, got {self.policy_gradient}")
        for name in ("lr", "policy_lr", "private_lr"):
            if not 0 < getattr(self, name) < 1:
                raise SettingsError(f"{_flag(name)}: expected a rate between 0 and 1, got {getattr(self, name)}")
        if not re.fullmatch("families|[0-9]+", self.groups):
            raise SettingsError(
                f"--groups: expected families or how many, 0 for as many as the data say, got {self.groups!r}"
            )
        if not 0 < self.budget <= 1:
            raise SettingsError(f"--budget: expected a share of the cost of 8 bits, in 0..1, got {self.budget}")
        if not 0 <= self.unseen_loss <= 1:
            raise SettingsError(f"--unseen-loss: expected a share of the pictures, in 0..1, got {self.unseen_loss}")
        if self.method == "dqmq" and self.samples > self.batch:
            raise SettingsError(
                f"--samples: expected at most the pictures of a step, --batch {self.batch}, got {self.samples}"
            )
        if self.method == "csq" and self.activation_bits not in self.candidates:
            raise SettingsError(
                f"--activation-bits: expected one of --widths {self.widths}, got {self.activation_bits}"
            )
        self.uniform, self.candidates, self.training_families  # noqa: B018  (each raises where it makes no sense)

    @property
    def uniform(self) -> dict[str, tuple[int, int]]:
        """Of --bits: name -> (w_bits, a_bits) of the inner layers, in the order given."""
        found = {}
        for entry in self.bits.split(","):
            match = re.fullmatch(r"([0-9]+)|w([0-9]+)a([0-9]+)", entry.strip())
            groups = () if not match else match.group(2, 3) if match.group(2) else match.group(1, 1)
            widths = tuple(int(g) for g in groups)
            if not match or any(w not in WIDTHS for w in widths):
                raise SettingsError(
                    f"--bits: expected widths from {WIDTHS.start} to {WIDTHS.stop - 1} such as 8,4 or "
                    f"w4a8, got {entry!r} in {self.bits!r}"
                )
            name = "w{}a{}".format(*widths)
            if name in found:
                raise SettingsError(f"--bits: {name} is there twice in {self.bits!r}; name each variant once")
            found[name] = widths
        return found

    @property
    def candidates(self) -> tuple[int, ...]:
        """Widths a search chooses from, ascending."""
        entries = [e.strip() for e in self.widths.split(",")]
        found = sorted({int(e) for e in entries if re.fullmatch("[0-9]+", e)})
        if len(found) != len(entries) or len(found) < 2 or any(b not in WIDTHS for b in found):
            raise SettingsError(
                f"--widths: expected at least two different widths from {WIDTHS.start} to "
                f"{WIDTHS.stop - 1} such as 2,4,8, got {self.widths!r}"
            )
        return tuple(found)

    @property
    def costs(self) -> dict:
        """What makes the costs of configurations comparable."""
        return {
            "arch": self.arch,
            "cost": self.cost,
            "target": self.target if self.cost == "latency" else None,
            "budget": self.budget,
            "widths": list(self.candidates),
        }

    @property
    def held_out(self) -> tuple[str, ...]:
        return () if self.hold_out in ("", "none") else _families("--hold-out", self.hold_out)

    @property
    def training_families(self) -> tuple[str, ...]:
        """In the order of FAMILIES; never one that is held out."""
        asked = (
            tuple(f for f in FAMILIES if f not in self.held_out)
            if self.families == "all"
            else _families("--families", self.families)
        )
        both = [f for f in asked if f in self.held_out]
        if both:
            raise SettingsError(f"--families: {', '.join(both)} held out as well; name other --hold-out, or none")
        if not asked:
            raise SettingsError("--families: expected at least one that is not held out")
        return tuple(f for f in FAMILIES if f in asked)

    @property
    def teacher_epochs(self) -> int:
        return self.epochs if self.fp_epochs is None else self.fp_epochs

    @property
    def bit_epochs(self) -> int:
        return self.epochs if self.search_epochs is None else self.search_epochs

    @property
    def folder(self) -> Path:
        name = Path(self.dataset.removeprefix("folder:")).name
        return self.out or Path("runs") / f"{name}-{self.arch}-{self.method}"

    def record(self) -> dict:
        """What decides the outcome, for JSON; of files their names and what is in them, wherever they lie."""
        beside = ("out", "cache", "device", "workers", "checkpoint_minutes", "resume", "data")
        beside += tuple(name for given, names in DECIDED_BY.items() if getattr(self, given) for name in names)
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in beside} | self._files

    @cached_property
    def _files(self) -> dict[str, str]:
        """Read once, since they may be gone when a run ends."""
        given = {name: path for name in ("weights", "teacher") if (path := getattr(self, name)) is not None}
        found = {name: f"{path.name} {sha256(path.read_bytes()).hexdigest()[:SHORT]}" for name, path in given.items()}
        return found | ({"start": self.start.name} if self.start else {})


_LEAST = {
    "epochs": 1,
    "private_epochs": 0,
    "search_epochs": 1,
    "variants": 1,
    "samples": 1,
    "levels": 1,
    "policy_gradient": 0,
    "fp_epochs": 0,
    "epoch_pictures": 0,
    "batch": 2,
    "seed": 0,
    "limit": 0,
    "test_pictures": 0,
    "selector_pictures": 0,
    "workers": 1,
    "checkpoint_minutes": 0,
}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _among(flag: str, value: str, known) -> None:
    if value not in known:
        raise SettingsError(f"{flag}: expected one of {', '.join(known)}, got {value!r}")


def _families(flag: str, text: str) -> tuple[str, ...]:
    names = tuple(n.strip() for n in text.split(","))
    unknown = [n for n in names if n not in FAMILIES]
    if unknown or len(set(names)) != len(names):
        raise SettingsError(f"{flag}: expected different families of {', '.join(FAMILIES)}, got {text!r}")
    return names


def given_path(text: str) -> Path:
    """Path("") would be the folder one is in."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)


def parse(arguments: list[str] | None = None) -> Settings:
    """Settings from a command line; a bad one ends the program with its message."""
    parser = argparse.ArgumentParser(
        prog="python -m train.run",
        description="Trains a family of integer networks.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for f in fields(Settings):
        if f.default is MISSING:
            raise TypeError(f"setting {f.name} needs a default")
        if f.type is bool:
            parser.add_argument(_flag(f.name), action="store_true", help=f.metadata["help"])
        else:
            kind = next(t for t in (int, float, Path, str) if t in (f.type, *getattr(f.type, "__args__", ())))
            kind = given_path if kind is Path else kind
            parser.add_argument(_flag(f.name), type=kind, default=f.default, help=f.metadata["help"].replace("%", "%%"))
    try:
        return Settings(**vars(parser.parse_args(arguments)))
    except SettingsError as error:
        parser.error(str(error))
