"""Run folders of invented runs, for reports: with results alone, and with evidence whose truth is known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from compile.source.run_folder import NetworkFacts, RunRecord, StoredBytes, VariantRecord
from tests.support.worlds import OWN, World, alike, routed, specialists
from train.choice.scores import make_results
from train.evidence.evidence import BudgetCurve
from train.evidence.results import ChosenBits, Result, write_results

FAMILIES, HELD_OUT = ("clean", "jpeg", "low_light", "pixelate"), ("pixelate",)
BITS_AND_COST = {"w8a8": (8, 1.0), "w4a4": (4, 0.3), "w2a2": (2, 0.1)}


def variant_record(name: str, bits: int, cost: float, base: str = "") -> VariantRecord:
    """Returns the record of a variant of three layers."""
    widths = {"conv1": (8, 8), "layer1": (bits, bits), "linear": (8, 8)}
    return VariantRecord(name, f"{name}.onnx", NetworkFacts(widths, 1000, 64000, cost), "fixed", base=base)


def run_of(name: str, variants: list[VariantRecord], settings: dict[str, Any]) -> RunRecord:
    """Returns the record of a run with these variants and settings."""
    return RunRecord(
        name=name,
        labels=tuple("0123456789"),
        shape=(32, 32, 3),
        variants=tuple(variants),
        stored=StoredBytes(1000, 100),
        arch="resnet8",
        dataset="digits",
        method="fixed",
        settings=settings,
    )


PLAIN_RUN = run_of("a", [variant_record(name, bits, cost) for name, (bits, cost) in BITS_AND_COST.items()], {})


def make_result(arm: str, variant: str, view: tuple[str, int], correct: float, cost: float) -> Result:
    """Returns what an arm gets right of the 100 pictures of a view."""
    family, severity = view
    return Result(arm, variant, family, severity, family in HELD_OUT, 100, correct, cost, 0, 0.05)


def plain_results() -> list[Result]:
    """Returns results of PLAIN_RUN: a selector that is better than chance, by a rule that tests can compute."""
    results = []
    for family in FAMILIES:
        for severity in (0,) if family == "clean" else (1, 2, 3, 4, 5):
            view = (family, severity)
            results.append(make_result("fp32", "fp32", view, 95 - severity, 16.0))
            for name, (bits, cost) in BITS_AND_COST.items():
                results.append(make_result("fixed", name, view, 80 + bits - 2 * severity, cost))
            shares = {"w8a8": 0.1, "w4a4": 0.2 + severity / 10, "w2a2": 0.7 - severity / 10}
            adaptive = make_result("adaptive", "selector", view, 86 - severity, 0.25)
            results.append(replace(adaptive, chosen=ChosenBits(3 + severity / 5, 4.0, shares)))
            results.append(make_result("random", "shares", view, 84.25 - severity, 0.25))
    return results


def invented_run(folder: Path, seed: int, gain: float = 0.01, **settings: Any) -> Path:
    """Writes a run folder with evidence in which private variants gain so much (0..1), and returns it."""
    evidence = routed(specialists(gain, 0.05), OWN, seed)
    curve = np.tile([[0.7], [0.8]], (1, len(evidence.views)))
    evidence = replace(evidence, curve=BudgetCurve(curve, curve))
    folder.mkdir()
    evidence.write(folder)
    write_results(folder, make_results(evidence, seed))
    variants = [variant_record(v.name, 8, v.cost, v.base) for v in evidence.variants]
    run_of(folder.name, variants, {"epochs": 3, "seed": seed, **settings}).write(folder)
    return folder


def static_run(folder: Path, seed: int, accuracy: float) -> Path:
    """Writes a run folder with static variants alone, that of 4 bits of this accuracy (0..1), and returns it."""
    folder.mkdir()
    world = World({"w8a8": alike(0.85), "w4a4": alike(accuracy), "w2a2": alike(0.70)}, {})
    world.evidence(seed).write(folder)
    variants = [variant_record(v.name, 8, v.cost) for v in world.variants]
    run_of(folder.name, variants, {"epochs": 9, "seed": seed}).write(folder)
    return folder
