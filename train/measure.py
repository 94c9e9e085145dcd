"""What a run is worth: every arm on every degradation and severity, in integer arithmetic, and the selector."""

from dataclasses import dataclass

import numpy as np
import torch

from compile.graph import Graph, macs
from train.choice import Choice, fit_choice
from train.networks import FULL, Network
from train.outcomes import outcomes

REFERENCE_BITS = 8 * 8  # costs are relative to 8-bit weights and activations throughout
FULL_COST = 32 * 32 / REFERENCE_BITS
BATCH = 128

Views = dict[tuple[str, int], np.ndarray]  # (family, severity) -> uint8 [N, H, W, 3]


def bit_operations(graph: Graph) -> int:
    """BitOPs of one picture: multiply-adds, each times the widths of its operands."""
    bits = graph.bit_config()
    return sum(count * bits[name][0] * bits[name][1] for name, count in macs(graph).items())


@dataclass(frozen=True, eq=False)
class Measured:
    """A trained variant.

    method: what found its bits; cost: of 8 bits everywhere, as the run counts it; shared: for pictures of every kind.
    """

    name: str
    method: str
    graph: Graph
    cost: float
    shared: bool = True

    def mean_bits(self) -> tuple[float, float]:
        """Widths of weights and activations that a multiply-add meets on average."""
        bits, counts = self.graph.bit_config(), macs(self.graph)
        return tuple(sum(n * bits[name][k] for name, n in counts.items()) / sum(counts.values()) for k in (0, 1))


@torch.no_grad()
def float_correct(net: Network, arm: str, pictures: np.ndarray, labels: np.ndarray, device) -> np.ndarray:
    """bool [N] of one arm of the float network, its batch norms at rest."""
    training = net.training
    net.eval()
    answers = [net(torch.tensor(pictures[i:i + BATCH], device=device), arm).argmax(1).cpu()
               for i in range(0, len(pictures), BATCH)]
    net.train(training)
    return torch.cat(answers).numpy() == labels


def choose(variants: list[Measured], views: np.ndarray, labels: np.ndarray, budget: float, seed: int,
           device, escalate: bool = False) -> Choice:
    """A choice learned from pictures that were not trained on: views uint8 [F, N, H, W, 3], labels int64 [N]."""
    families, count = views.shape[:2]
    seen = outcomes({v.name: v.graph for v in variants}, views.reshape(-1, *views.shape[2:]), np.tile(labels, families),
                    device)
    shared = np.array([v.shared for v in variants])
    return fit_choice(seen, np.repeat(np.arange(families), count), [v.cost for v in variants], budget, seed,
                      shared=shared if shared.any() else ~shared, escalate=escalate)


def measure(variants: list[Measured], teacher: Network, choice: Choice, views: Views, labels: np.ndarray,
            held_out: tuple[str, ...], device) -> list[dict]:
    """Records of all arms on all views: fp32; each variant, the arm being the method that found it; the best of them
    within the budget for every picture (static); the selector (adaptive); and chance with the selector's own shares.

    Those of the selector have "share/VARIANT" beside the common fields: for how much of the pictures it chose which,
    and "w_bits", "a_bits": the mean widths chosen. "correct" of the random arm is its expectation: the variants' counts
    weighted with the shares in which the selector chose them over all views, so that both arms have the same mean cost.
    """
    records, counts, chosen = [], [], []
    costs, bits = np.array([v.cost for v in variants]), np.array([v.mean_bits() for v in variants])
    for (family, severity), pictures in views.items():
        about = {"family": family, "severity": severity, "heldout": family in held_out, "pictures": len(pictures)}
        seen = outcomes({v.name: v.graph for v in variants}, pictures, labels, device)
        correct, (choices, price) = seen.correct, choice.run(seen)
        counts.append((about, correct.sum(0)))
        chosen.append(choices)
        right = int(float_correct(teacher, FULL, pictures, labels, device).sum())
        records.append({"arm": "fp32", "variant": "fp32", **about, "correct": right, "cost": FULL_COST})
        alone = [{"arm": v.method, "variant": v.name, **about, "correct": int(total), "cost": v.cost}
                 for v, total in zip(variants, correct.sum(0), strict=True)]
        records += alone + [{**r, "arm": "static"} for r in alone if r["variant"] == variants[choice.static].name]
        picked = correct[np.arange(len(pictures)), choices]
        shares = np.bincount(choices, minlength=len(costs)) / len(choices)
        w_bits, a_bits = (float(b) for b in shares @ bits)
        records.append({"arm": "adaptive", "variant": "selector", **about, "correct": int(picked.sum()),
                        "cost": float(price.mean()), "w_bits": w_bits, "a_bits": a_bits,
                        **{f"share/{v.name}": float(s) for v, s in zip(variants, shares, strict=True)}})
    shares = np.bincount(np.concatenate(chosen), minlength=len(costs)).astype(float)
    shares /= shares.sum()
    for about, totals in counts:
        records.append({"arm": "random", "variant": "shares", **about, "correct": float(totals @ shares),
                        "cost": float(costs @ shares)})
    return records


def accuracy_by_family(records: list[dict], arm: str, variant: str) -> dict[str, float]:
    """Mean over severities."""
    mine = [r for r in records if (r["arm"], r["variant"]) == (arm, variant)]
    return {f: float(np.mean([r["correct"] / r["pictures"] for r in mine if r["family"] == f]))
            for f in dict.fromkeys(r["family"] for r in mine)}
