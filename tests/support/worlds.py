"""Evidence of invented runs, whose truth is known: pictures, variants of given accuracy, and who took which."""

from dataclasses import dataclass, replace

import numpy as np

from runtime.choice.quality import NAMES
from train.evidence.evidence import Evidence, Measured, Taken
from train.evidence.outcomes import Outcomes

TRAINED, HELD_OUT = ("clean", "blur", "noise"), ("pixelate",)
PLACES = tuple((f, s) for f in (*TRAINED, *HELD_OUT) for s in ((0,) if f == "clean" else (1, 2, 3, 4, 5)))
CENTRE = {"clean": 0, "blur": 4000, "noise": -4000, "pixelate": 4000}  # of the first feature
OWN = {f: f"w4a4-q{k}" for k, f in enumerate(TRAINED)} | {HELD_OUT[0]: "w4a4"}  # to each family its own
LADDER = {"w8a8": (1.0, 8), "w4a4": (0.3, 4), "w2a2": (0.1, 2)}


@dataclass(frozen=True)
class World:
    """accuracy: variant -> family -> share of pictures that it gets right, the same pictures first in all variants.

    private: level -> families whose own private variant it has, in the order of their groups. pictures: of each view.
    """

    accuracy: dict[str, dict[str, float]]
    private: dict[str, tuple[str, ...]]
    pictures: int = 1000

    @property
    def variants(self) -> tuple[Measured, ...]:
        shared = [Measured(n, "fixed", cost, bits, bits) for n, (cost, bits) in LADDER.items() if n in self.accuracy]
        return (
            *shared,
            *(
                Measured(f"{v.name}-q{k}", "fixed", v.cost, v.w_bits, v.a_bits, (k,), v.name)
                for v in shared
                for k in range(len(self.private.get(v.name, ())))
            ),
        )

    def evidence(self, seed: int = 0) -> Evidence:
        """Without arms. How hard a picture is to a variant is drawn anew for each view."""
        rng = np.random.default_rng(seed)
        test = self.outcomes(rng, PLACES)
        places = tuple((f, k % 5 + 1 if f != "clean" else 0) for f in TRAINED for k in range(self.pictures))
        seen = self.outcomes(rng, tuple((f, None) for f in TRAINED))
        family = np.array([TRAINED.index(f) for f, _ in places])
        return Evidence(
            self.variants,
            PLACES,
            HELD_OUT,
            TRAINED,
            np.zeros(self.pictures, np.int64),
            test,
            np.ones(len(test), bool),
            seen,
            family,
            np.array([s for _, s in places]),
            family,
            {},
            (np.empty((0, len(PLACES))),) * 2,
        )

    def outcomes(self, rng: np.random.Generator, places) -> Outcomes:
        """Exactly the stated share of every view is right: a variant's accuracy has no error of sampling."""
        features, correct = [], []
        for family, _ in places:
            quality = rng.normal(0, 300, (self.pictures, len(NAMES)))
            quality[:, 0] += CENTRE[family]
            hardness = rng.permutation(self.pictures) / self.pictures
            features.append(quality)
            correct.append(np.stack([hardness < self.accuracy[v.name][family] - 1e-9 for v in self.variants], 1))
        right = np.concatenate(correct)
        margin = np.where(right, 100, 20) + rng.integers(0, 60, right.shape)
        return Outcomes(np.rint(np.concatenate(features)).astype(np.int32), right, margin)


def alike(families: float) -> dict[str, float]:
    """The same accuracy on every family."""
    return dict.fromkeys((*TRAINED, *HELD_OUT), families)


def taken(evidence: Evidence, chosen: dict[str, str]) -> Taken:
    """family -> the variant that all of its pictures get."""
    number = {v.name: k for k, v in enumerate(evidence.variants)}
    variant = np.repeat([number[chosen[f]] for f, _ in evidence.places], evidence.pictures)
    return Taken(variant, evidence.costs[variant])


def specialists(gain: float, loss: float = 0.0) -> World:
    """A private variant for each family: `gain` better than the shared one on its own, `loss` worse on others."""
    accuracy = {"w8a8": alike(0.85), "w4a4": alike(0.80), "w2a2": alike(0.70)}
    for k, family in enumerate(TRAINED):
        accuracy[f"w4a4-q{k}"] = {**alike(0.80 - loss), family: 0.80 + gain}
    return World(accuracy, {"w4a4": TRAINED})


def routed(world: World, chosen: dict[str, str], seed: int = 0) -> Evidence:
    """Adaptive and private are as `chosen` says, family by family; shuffled has the same variants anywhere."""
    evidence = world.evidence(seed)
    arms = {"static": taken(evidence, dict.fromkeys(OWN, "w4a4")), "adaptive": taken(evidence, chosen)}
    order = np.random.default_rng(0).permutation(len(evidence.test))
    arms["private"] = arms["adaptive"]
    arms["shuffled"] = replace(arms["adaptive"], variant=arms["adaptive"].variant[order])
    return replace(evidence, arms=arms)
