"""Settings of the bits: how the widths of every layer are found, and what they may cost."""

import math
import re
from dataclasses import dataclass

from targets import TargetError, find
from targets.reference.nodes import BITS
from train.settings.options import SettingsError, check_rules, option

METHODS = {
    "fixed": "--bits as they are written",
    "fracbits": "a real-valued width per layer, learned by gradient (FracBits)",
    "ilp": "an integer program over measured sensitivities",
    "csq": "bit planes that are learned, and how many of them a layer keeps (CSQ)",
    "dqmq": "a policy that may depend on the picture's quality (DQMQ)",
}
COSTS = {
    "bitops": "multiply-adds times bits of weights times bits of activations",
    "size": "bits of stored weights",
    "latency": "the target's measured time",
}
QUANTIZERS = {"lsq": "a learned step for each width (LSQ)", "csq": "bit planes that all widths share"}
SENSITIVITIES = ("loss", "steps")


def _described(choices: dict[str, str]) -> str:
    return "; ".join(f"{name}: {meaning}" for name, meaning in choices.items())


@dataclass(frozen=True)
class BitsSettings:
    """How the bits of every layer are found, and what they may cost."""

    method: str = option("fixed", f"How the bits are found. {_described(METHODS)}.", everyday=True, among=METHODS)
    bits: str = option(
        "8,4,2",
        "Widths of --method fixed, one variant per entry: 4 is 4-bit weights and activations, w4a8 names both. The "
        "first layer and the classifier keep 8 bits.",
        everyday=True,
    )
    budget: float = option(
        0.5, "Mean cost that a picture may have, as a share of the cost of 8 bits everywhere.", everyday=True
    )
    cost: str = option("bitops", f"What the budget counts. {_described(COSTS)}.", among=COSTS)
    target: str = option("x86", "Hardware whose table of measured times --cost latency reads.")
    variants: int = option(3, "How many variants a search shall find.", least=1)
    widths: str = option("2,3,4,8", "Widths that a search chooses from.")
    configs: str = option(
        "",
        "Trains the variants of FILE (configs.json of a run), of FILE:name,name, or of several such joined by +, "
        "without a search.",
    )
    levels: int = option(1, "For dqmq: cost levels around the budget that the variants are spread over.", least=1)
    policy_lr: float = option(0.03, "Largest learning rate of the parameters that choose the bits.", between=(0, 1))
    policy_gradient: float = option(
        0.5, "For dqmq: weight of the policy gradient; 0 leaves the relaxation alone.", least=0
    )
    quantizer: str = option("lsq", f"For dqmq: how weights are quantized. {_described(QUANTIZERS)}.", among=QUANTIZERS)
    samples: int = option(2, "For dqmq: configurations that share a batch while the policy learns.", least=1)
    activation_bits: int = option(4, "For csq: width of all inner activations, one of --widths.")
    sensitivity: str = option(
        "loss",
        "For ilp: sensitivities from the loss on held pictures, or from the learned steps alone.",
        among=SENSITIVITIES,
    )

    def __post_init__(self) -> None:
        check_rules(self)
        try:
            find(self.target)
        except TargetError as error:
            raise SettingsError(f"--target: {error}") from error
        if not math.isfinite(self.policy_gradient):
            raise SettingsError(f"--policy-gradient: expected a finite weight, got {self.policy_gradient}")
        if not 0 < self.budget <= 1:
            raise SettingsError(f"--budget: expected a share of the cost of 8 bits, in 0..1, got {self.budget}")
        if self.method == "csq" and self.activation_bits not in self.candidates:
            raise SettingsError(
                f"--activation-bits: expected one of --widths {self.widths}, got {self.activation_bits}"
            )
        self.uniform, self.candidates  # noqa: B018  (each raises where it makes no sense)

    @property
    def uniform(self) -> dict[str, tuple[int, int]]:
        """The variants of --bits, name -> (w_bits, a_bits) of the inner layers. Raises SettingsError."""
        widths_of: dict[str, tuple[int, int]] = {}
        for entry in self.bits.split(","):
            w_bits, a_bits = _entry_widths(entry, self.bits)
            name = f"w{w_bits}a{a_bits}"
            if name in widths_of:
                raise SettingsError(f"--bits: {name} is there twice in {self.bits!r}; name each variant once")
            widths_of[name] = (w_bits, a_bits)
        return widths_of

    @property
    def candidates(self) -> tuple[int, ...]:
        """The widths that a search chooses from, ascending. Raises SettingsError."""
        entries = [e.strip() for e in self.widths.split(",")]
        widths = sorted({int(e) for e in entries if re.fullmatch("[0-9]+", e)})
        if len(widths) != len(entries) or len(widths) < 2 or any(b not in BITS for b in widths):
            raise SettingsError(
                f"--widths: expected at least two different widths from {BITS.start} to {BITS.stop - 1} such as 2,4,8, "
                f"got {self.widths!r}"
            )
        return tuple(widths)


def _entry_widths(entry: str, text: str) -> tuple[int, int]:
    """The (w_bits, a_bits) of one entry of --bits."""
    match = re.fullmatch(r"(?P<both>[0-9]+)|w(?P<w>[0-9]+)a(?P<a>[0-9]+)", entry.strip())
    words = match.groupdict() if match else {}
    widths = [int(words[k]) for k in ("both", "w", "a") if words.get(k)]
    if not widths or any(width not in BITS for width in widths):
        raise SettingsError(
            f"--bits: expected widths from {BITS.start} to {BITS.stop - 1} such as 8,4 or w4a8, "
            f"got {entry!r} in {text!r}"
        )
    return widths[0], widths[-1]
