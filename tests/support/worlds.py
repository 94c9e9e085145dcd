"""Evidence of invented runs whose truth is known: pictures, variants of given accuracy, and what arms answer."""

from dataclasses import dataclass, replace

import numpy as np

from runtime.choice.quality import NAMES
from train.evidence.evidence import Answers, BudgetCurve, Evidence, VariantFacts, View
from train.evidence.outcomes import Outcomes

TRAINED, HELD_OUT = ("clean", "blur", "noise"), ("pixelate",)
VIEWS = tuple((f, s) for f in (*TRAINED, *HELD_OUT) for s in ((0,) if f == "clean" else (1, 2, 3, 4, 5)))
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
    def variants(self) -> tuple[VariantFacts, ...]:
        """The shared variants of the ladder that have an accuracy, then the private ones."""
        shared = [
            VariantFacts(n, "fixed", cost, bits, bits) for n, (cost, bits) in LADDER.items() if n in self.accuracy
        ]
        return (
            *shared,
            *(
                VariantFacts(f"{v.name}-q{k}", "fixed", v.cost, v.w_bits, v.a_bits, (k,), v.name)
                for v in shared
                for k in range(len(self.private.get(v.name, ())))
            ),
        )

    def evidence(self, seed: int = 0) -> Evidence:
        """Returns evidence without arms; how hard a picture is to a variant is drawn anew for each view."""
        rng = np.random.default_rng(seed)
        test = self.outcomes(rng, VIEWS)
        shown = tuple((f, k % 5 + 1 if f != "clean" else 0) for f in TRAINED for k in range(self.pictures))
        validation = self.outcomes(rng, tuple((f, 0) for f in TRAINED))
        family = np.array([TRAINED.index(f) for f, _ in shown])
        return Evidence(
            variants=self.variants,
            views=VIEWS,
            held_out=HELD_OUT,
            trained=TRAINED,
            labels=np.zeros(self.pictures, np.int64),
            test=test,
            full_precision=np.ones(len(test), bool),
            validation=validation,
            families=family,
            severities=np.array([s for _, s in shown]),
            kinds=family,
            arms={},
            curve=BudgetCurve.empty(len(VIEWS)),
        )

    def outcomes(self, rng: np.random.Generator, views: tuple[View, ...]) -> Outcomes:
        """Draws outcomes of which exactly the stated share of every view is right, with no error of sampling."""
        features = []
        correct = []
        for family, _ in views:
            quality = rng.normal(0, 300, (self.pictures, len(NAMES)))
            quality[:, 0] += CENTRE[family]
            hardness = rng.permutation(self.pictures) / self.pictures
            features.append(quality)
            correct.append(np.stack([hardness < self.accuracy[v.name][family] - 1e-9 for v in self.variants], 1))
        right = np.concatenate(correct)
        margin = np.where(right, 100, 20) + rng.integers(0, 60, right.shape)
        return Outcomes(np.rint(np.concatenate(features)).astype(np.int32), right, margin)


def alike(accuracy: float) -> dict[str, float]:
    """Returns the same accuracy for every family."""
    return dict.fromkeys((*TRAINED, *HELD_OUT), accuracy)


def answers_by_family(evidence: Evidence, chosen: dict[str, str]) -> Answers:
    """Returns the answers of an arm that gives all pictures of a family one variant; chosen: family -> variant."""
    number = {v.name: k for k, v in enumerate(evidence.variants)}
    variant = np.repeat([number[chosen[f]] for f, _ in evidence.views], evidence.pictures)
    return Answers(variant, evidence.costs[variant])


def specialists(gain: float, loss: float = 0.0) -> World:
    """Returns a world with a private variant for each family, `gain` better there than the shared one, elsewhere worse.

    loss: by how much it is worse on other families.
    """
    accuracy = {"w8a8": alike(0.85), "w4a4": alike(0.80), "w2a2": alike(0.70)}
    for k, family in enumerate(TRAINED):
        accuracy[f"w4a4-q{k}"] = {**alike(0.80 - loss), family: 0.80 + gain}
    return World(accuracy, {"w4a4": TRAINED})


def routed(world: World, chosen: dict[str, str], seed: int = 0) -> Evidence:
    """Returns evidence whose adaptive and private arms are as `chosen` says; shuffled has the same variants anywhere.

    chosen: family -> the variant that all of its pictures get.
    """
    evidence = world.evidence(seed)
    arms = {
        "static": answers_by_family(evidence, dict.fromkeys(OWN, "w4a4")),
        "adaptive": answers_by_family(evidence, chosen),
    }
    order = np.random.default_rng(0).permutation(len(evidence.test))
    arms["private"] = arms["adaptive"]
    arms["shuffled"] = replace(arms["adaptive"], variant=arms["adaptive"].variant[order])
    return replace(evidence, arms=arms)
