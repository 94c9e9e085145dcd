"""The report of a run: right numbers in tables that can be read, all its pictures, and what to deploy first."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.reports import PLAIN_RUN, invented_run, plain_results, static_run
from train.bits.configs import Configs, Configuration
from train.evidence.results import write_results
from train.report.__main__ import report
from train.report.chosen_bits import variant_shares
from train.report.command_line import parse
from train.report.frontier import hull_corners
from train.report.tables import MOST_COLUMNS
from train.report.write import accuracy_by_arm, write_report

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    PLAIN_RUN.write(tmp_path)
    write_results(tmp_path, plain_results())
    lines = [{"phase": "joint", "step": k, "loss/w8a8": 2 / (1 + k), "accuracy/w8a8": 0.5} for k in range(3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def tables(text: str) -> list[list[str]]:
    """The header of each table of a report, as cells."""
    lines = text.splitlines()
    return [a.strip("|").split("|") for a, b in pairwise(lines) if b.startswith("| --- |")]


def test_report_and_pictures(run):
    views = {(r.family, r.severity): np.full((32, 32, 3), 40 * r.severity, np.uint8) for r in plain_results()}
    text = write_report(run, views).read_text()
    named = re.findall(r"\((plots/\w+\.png)\)", text)
    assert named == [f"plots/{n}.png" for n in ("families", "cost", "shares", "bits", "samples", "training")]
    for name in named:
        pixels = np.asarray(Image.open(run / name).convert("L"))
        assert min(pixels.shape) > 100 and (pixels < 128).mean() > 0.002
    assert {p.name for p in (run / "plots").iterdir()} == {n[6:] for n in named} | {"samples.npz"}
    assert "| clean | 3.00 / 4.00, w2a2 70 % |" in text and "| jpeg |  | 3.20 / 4.00, w2a2 60 % |" in text
    assert "from 3.50 (clean) to 4.00 (jpeg 5) on average; with severity they rise (3.60 at severity 1, 4.00" in text
    assert "| w4a4 | 80.00 % | 0.300 | 78.00 % | 0.300 |" in text  # (84 + 78 + 78) / 3, and cost
    assert "| pixelate \\* | 92.00 | 82.00 | 78.00 | 76.00 | 83.00 | 81.25 |" in text
    assert "| jpeg | 92.00" in text and "up to 5.0 points" in text
    assert "it gets 84.00 % at a mean cost of 0.250" in text  # (86 + 83 + 83) / 3
    again = text
    assert write_report(run).read_text() == again  # the pictures are kept


def test_sections_without_data_are_left_out(run):
    write_results(run, [r for r in plain_results() if r.arm == "fixed"])
    (run / "metrics.jsonl").unlink()
    text = write_report(run).read_text()
    assert re.findall(r"plots/(\w+)", text) == ["families", "cost", "bits"]
    assert "\nDeploy the variant that fits your budget." in text and "**adaptive**" not in text


def test_one_variant_one_family_nothing_held_out(run):
    write_results(run, [r for r in plain_results() if r.variant == "w4a4" and r.family == "clean"])
    assert "| w4a4 | 84.00 % | 0.300 |" in write_report(run).read_text()


def test_numbers_behind_the_plots():
    accuracy = accuracy_by_arm(plain_results())
    assert accuracy["fixed", "w2a2"]["jpeg"] == {s: 82 - 2 * s for s in range(1, 6)}
    assert accuracy["fp32", "fp32"]["clean"] == {0: 95}
    expected = {"w8a8": 0.1, "w4a4": 0.5, "w2a2": 0.4}
    assert variant_shares(plain_results())["jpeg"] == pytest.approx(expected) and variant_shares([]) == {}


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 100)), min_size=1, max_size=8))
def test_random_mix_is_the_best_of_all_pairs(points):
    corners = hull_corners(points)
    assert set(corners) <= set(points) and corners == sorted(corners)
    xs, ys = zip(*corners, strict=True)
    for x, y in points:  # no variant and no mix of two lies above the line
        assert y <= np.interp(x, xs, ys) + 1e-9
        for x2, y2 in points:
            assert (y + y2) / 2 <= np.interp((x + x2) / 2, xs, ys) + 1e-9


def test_report_says_when_quality_does_not_matter_and_shows_what_the_search_saw(run):
    results = plain_results()
    alike = [r if r.chosen is None else replace(r, chosen=replace(r.chosen, w_bits=4.0)) for r in results]
    write_results(run, alike)
    seen = tuple(Configuration(f"ilp-{k}", {"conv1": (8, 8)}, 0.2 * k, "ilp", loss=1 / k) for k in (1, 2, 3))
    Configs({}, seen[:1], seen).write(run)
    text = write_report(run).read_text()
    assert "The bits do not differ with quality: every family and severity gets between 4.00 and 4.00" in text
    assert "plots/pareto.png" in text and (run / "plots" / "pareto.png").exists()


def test_report_of_a_run_with_outcomes_says_whether_choosing_pays(tmp_path):
    text = write_report(invented_run(tmp_path / "a", 0)).read_text()
    assert "## Does it pay?\n\nOn the training families, this pays: private, adaptive." in text
    assert (
        "## Accuracy and cost" not in text and " w4a4-q0 |" not in text
    )  # one table of arms; no column a private variant
    assert re.findall(r"plots/(\w+)", text) == ["families", "cost", "shares", "bits"]
    pixels = np.asarray(Image.open(tmp_path / "a" / "plots" / "cost.png").convert("L"))
    assert min(pixels.shape) > 100 and (pixels < 128).mean() > 0.002


def test_a_report_begins_with_what_to_deploy_and_explains_its_words(tmp_path):
    text = write_report(invented_run(tmp_path / "a", 0)).read_text()
    begin = text.split("\n\n")[1]
    assert begin.startswith("Deploy the whole family with its selector (`adaptive`)")
    assert "better than static variants at equal cost by 1.00 points [" in begin and "mean cost of 0.300" in begin
    words = text.split("## Words")[1].split("\n## ")[0]
    assert text.index("## Words") < text.index("## Does it pay?")
    for word in ("static", "private", "adaptive", "random", "shuffled", "training families", "held-out families"):
        assert f"* **{word}**:" in words or f" **{word}**:" in words
    assert "**oracle**" not in words  # no arm of this run
    useless = write_report(invented_run(tmp_path / "b", 0, gain=0.0)).read_text().split("\n\n")[1]
    assert useless.startswith("Deploy the single variant `w4a4`") and "not better than static variants" in useless


def test_tables_can_be_read(tmp_path, run):
    texts = [write_report(folder).read_text() for folder in (invented_run(tmp_path / "a", 0), run)]
    headers = [header for text in texts for header in tables(text)]
    assert len(headers) > 8 and max(map(len, headers)) <= MOST_COLUMNS


def test_a_report_is_not_written_with_less_than_it_has(tmp_path):
    text = write_report(invented_run(tmp_path / "a", 0)).read_text()
    (tmp_path / "a" / "outcomes.npz").unlink()
    with pytest.raises(ValueError, match=r"outcomes.npz: expected, not found; .*report.md has .*\(Does it pay\?\)"):
        write_report(tmp_path / "a")
    assert (tmp_path / "a" / "report.md").read_text() == text
    (tmp_path / "a" / "report.md").unlink()
    assert "Does it pay?" not in write_report(tmp_path / "a").read_text()


def test_usage_is_told(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    assert "usage: python -m train.report" in text and "equal but for their seeds" in " ".join(text.split())
    with pytest.raises(SystemExit) as ended:
        parse([])
    assert ended.value.code == 2 and capsys.readouterr().err.startswith("error: the following arguments are required")
    assert parse(["a", "b"]) == ([Path("a"), Path("b")], [])
    assert parse(["--static", "c", "a", "--static", "d"]) == ([Path("a")], [Path("c"), Path("d")])


def test_another_runs_static_variants_are_on_the_line(tmp_path):
    folder, other = invented_run(tmp_path / "a", 0), static_run(tmp_path / "other", 0, 0.82)
    about = json.loads((other / "run.json").read_text())
    dear = {**about, "settings": {"cost": "latency", "target": "arm"}}
    (other / "run.json").write_text(json.dumps(dear))
    with pytest.raises(ValueError, match="--static .*other: expected costs of the same kind.* got .*latency on arm"):
        report([folder], [other])
    (other / "run.json").write_text(json.dumps(about))
    report([folder], [other])
    text = (folder / "report.md").read_text()
    assert "nothing pays" in text and "| `w4a4 of other` | 82.00" in text
    (folder / "report.md").unlink()
    with pytest.raises(ValueError, match="same test pictures"):
        report([folder], [invented_run(tmp_path / "b", 1)])
    with pytest.raises(ValueError, match="--static: expected runs of different names"):
        report([folder], [other, other])
