"""What an adaptation is asked to do: the network, the pictures, the widths, and what may differ between kinds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compile.calibrate.preprocessing import Preprocessing
from compile.calibrate.settings import WIDTHS, Widths
from runtime.terminal import did_you_mean
from train.data.names import DEGRADATIONS, FAMILIES, HELD_OUT
from train.settings.options import SettingsError
from train.settings.training import CACHE

WEIGHTS = ("kept", "fitted", "private")
FITTED_PICTURES = 128
SMALL_SIDE = 64  # pixels: networks for smaller pictures are judged by more of them
JUDGED_SMALL, JUDGED_LARGE = 500, 60  # pictures for the selector, and as many for the report


@dataclass(frozen=True, kw_only=True)
class AdaptSettings:
    """How a network is adapted. Raises SettingsError for a value that cannot be used.

    bits: keys of compile.calibrate.settings.WIDTHS. weights: "kept" where kinds differ in tables of biases and
    multipliers alone; "fitted" where these belong to weights that are fitted to all kinds together, and kinds that
    clean pictures look like have their own; "private" where every kind has its own. fitted: pictures that fits are made
    of. judged: pictures for the selector, and as many for the report; None: JUDGED_SMALL or JUDGED_LARGE.
    budget: mean cost, relative to 8 bits everywhere. hold_out: degradation families that nothing is fitted to.
    """

    bits: tuple[str, ...] = ("8",)
    weights: str = "fitted"
    fitted: int = FITTED_PICTURES
    judged: int | None = None
    budget: float = 1.0
    hold_out: tuple[str, ...] = HELD_OUT
    seed: int = 0
    preprocessing: Preprocessing | None = None
    cache: Path = CACHE
    workers: int | None = None

    def __post_init__(self) -> None:
        for word in self.bits:
            _require(word in WIDTHS, f"--bits: expected some of {', '.join(WIDTHS)}, got {word!r}")
        _require(len(set(self.bits)) == len(self.bits) > 0, f"--bits: expected different widths, got {self.bits}")
        near = did_you_mean(self.weights, WEIGHTS)
        _require(self.weights in WEIGHTS, f"--weights: expected {' or '.join(WEIGHTS)}, got {self.weights!r}{near}")
        _require(self.fitted >= 8, f"--fitted: expected 8 pictures or more, got {self.fitted}")
        _require(self.judged is None or self.judged >= 8, f"--judged: expected 8 or more, got {self.judged}")
        _require(self.budget > 0, f"--budget: expected a cost above 0, got {self.budget}")
        _require(self.seed >= 0, f"--seed: expected a whole number of 0 or more, got {self.seed}")
        unknown = [name for name in self.hold_out if name not in DEGRADATIONS]
        _require(not unknown, f"--hold-out: expected some of {', '.join(DEGRADATIONS)}, got {', '.join(unknown)}")
        _require(len(self.families) > 1, "--hold-out: expected a degradation that is left to fit to; hold out fewer")

    @property
    def families(self) -> tuple[str, ...]:
        """Degradation families that variants are fitted to, "clean" first."""
        return tuple(name for name in FAMILIES if name not in self.hold_out)

    @property
    def widths(self) -> tuple[Widths, ...]:
        """The widths by name, the widest first."""
        wanted = [WIDTHS[word] for word in self.bits]
        return tuple(sorted(wanted, key=lambda w: -w.weights * w.activations))

    @property
    def escalate(self) -> bool:
        """Whether a dearer variant may run after one that is unsure."""
        return len(self.bits) > 1

    def judged_at(self, side: int) -> int:
        """Returns how many pictures judge a network whose shorter side has so many pixels."""
        return self.judged or (JUDGED_SMALL if side <= SMALL_SIDE else JUDGED_LARGE)

    def record(self, dataset: str, arch: str) -> dict[str, Any]:
        """Returns what decides the result, as JSON, in the words of training where they mean the same."""
        return {
            "dataset": dataset,
            "arch": arch,
            "bits": ",".join(self.bits),
            "adapted_weights": self.weights,
            "fitted_pictures": self.fitted,
            "judged_pictures": self.judged,
            "cost": "bitops",
            "target": "x86",
            "budget": self.budget,
            "hold_out": ",".join(self.hold_out),
            "escalate": self.escalate,
            "unseen_loss": UNSEEN_LOSS,
            "seed": self.seed,
        }


UNSEEN_LOSS = 0.005  # accuracy that a kind of quality never seen may lose


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise SettingsError(message)
