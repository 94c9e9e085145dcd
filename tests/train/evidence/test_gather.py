"""Outcomes part by part: what a killed run has done is found again, and nothing that was of something else."""

from dataclasses import fields, replace

import numpy as np
import pytest

from targets.reference.nodes import Conv
from tests.support.graphs import random_graph
from train.evidence import outcomes as module
from train.evidence.outcomes import Outcomes, compute_outcomes
from train.evidence.parts import Parts, digest
from train.run import run_training
from train.settings.command_line import parse

pytestmark = pytest.mark.slow

SIZE = (9, 8)
LABELS = np.array([0, 2, 1, 0, 1])


@pytest.fixture
def graphs():
    return {name: random_graph(seed, ops=("dense", "skip"), size=SIZE) for name, seed in (("a", 1), ("b", 2))}


def some_pictures(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (len(LABELS), *SIZE, 3), np.uint8)


@pytest.fixture
def computed(monkeypatch) -> list:
    """Graphs that were really run, in order."""
    names = []
    real = module.IntegerNetwork

    def noted(graph, device):
        names.append(graph.name)
        return real(graph, device)

    monkeypatch.setattr(module, "IntegerNetwork", noted)
    return names


def same(a: Outcomes, b: Outcomes) -> bool:
    return all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name)) and getattr(a, f.name).dtype == getattr(b, f.name).dtype
        for f in fields(Outcomes)
    )


def test_what_is_done_is_not_done_again(graphs, computed, tmp_path):
    advanced = []
    parts = Parts(graphs, "cpu", tmp_path / "evaluation", advanced.append)
    first = [parts.outcomes(f"part-{k}", some_pictures(k), LABELS) for k in range(2)]
    assert len(computed) == 4 and sum(advanced) == 4 * len(LABELS)
    again = [parts.outcomes(f"part-{k}", some_pictures(k), LABELS) for k in range(3)]
    assert len(computed) == 6 and sum(advanced) == 10 * len(LABELS)
    assert all(same(a, b) for a, b in zip(first, again, strict=False))
    assert same(again[2], compute_outcomes(graphs, some_pictures(2), LABELS, "cpu"))
    assert sorted(p.name for p in (tmp_path / "evaluation").iterdir()) == [f"part-{k}.npz" for k in range(3)]


@pytest.mark.parametrize("damage", [b"", b"PK\3\4 not a zip", None])
def test_a_damaged_part_is_made_again(graphs, computed, tmp_path, damage):
    parts = Parts(graphs, "cpu", tmp_path, lambda count: None)
    first, path = parts.outcomes("part", some_pictures(0), LABELS), tmp_path / "part.npz"
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    assert same(parts.outcomes("part", some_pictures(0), LABELS), first) and len(computed) == 4
    assert same(parts.outcomes("part", some_pictures(0), LABELS), first) and len(computed) == 4


def test_whatever_changes_makes_another_part(graphs):
    def with_first_conv(**changes):
        graph = graphs["b"]
        k = next(i for i, node in enumerate(graph.nodes) if isinstance(node, Conv) and node.requant is not None)
        changed = {name: change(getattr(graph.nodes[k], name)) for name, change in changes.items()}
        nodes = (*graph.nodes[:k], replace(graph.nodes[k], **changed), *graph.nodes[k + 1 :])
        return {**graphs, "b": replace(graph, nodes=nodes)}

    x = some_pictures(0)
    keys = [
        digest(graphs, x, LABELS),
        digest({"b": graphs["b"], "a": graphs["a"]}, x, LABELS),
        digest({"a": graphs["a"]}, x, LABELS),
        digest(graphs, x[:-1], LABELS),
        digest(graphs, x, LABELS + 1),
        digest(graphs, x ^ (np.arange(x.size).reshape(x.shape) == 40).astype(np.uint8), LABELS),
        digest(with_first_conv(bias=lambda b: b + (np.arange(len(b)) == 0)), x, LABELS),
        digest(with_first_conv(weight=lambda w: -w - 1), x, LABELS),
        digest(with_first_conv(requant=lambda r: replace(r, shift=r.shift + 1)), x, LABELS),
        digest(with_first_conv(qmax=lambda q: q - 1), x, LABELS),
    ]
    assert len(set(keys)) == len(keys) and keys[0] == digest(dict(graphs), x.copy(), LABELS.copy())


def test_a_run_stopped_in_its_evaluation_goes_on_there(computed, tmp_path, monkeypatch):
    words = (
        "--limit 64 --batch 32 --epochs 1 --families clean,contrast --bits 8,3 --hold-out pixelate --test-pictures 20 "
        f"--workers 1 --cache {tmp_path / 'cache'} --out {tmp_path / 'run'}"
    ).split()
    real, asked = Parts.outcomes, []

    def stopped(self, name, pictures, labels):
        asked.append(name)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return real(self, name, pictures, labels)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Parts, "outcomes", stopped)
        run_training(parse(words))
    assert asked[:3] == ["validation-clean", "validation-contrast", "test-clean-0"] and len(computed) == 2 * 3
    run_training(parse([*words, "--resume"]))
    assert len(computed) == 2 * (2 + (1 + 5 + 5) + 1)  # every part of validation, test and mixed pictures once
    assert (tmp_path / "run" / "report.md").is_file() and not (tmp_path / "run" / "evaluation").exists()
