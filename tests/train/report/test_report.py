"""The report of a run: right numbers, all its pictures, and clear errors for a folder that is no finished run."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.worlds import OWN, World, alike, routed, specialists
from train.choice.arms import arm_records
from train.report.write import by_arm, main, mix, parse, shares, write_report

FAMILIES, HELD_OUT = ("clean", "jpeg", "low_light", "pixelate"), ("pixelate",)
VARIANTS = {"w8a8": (8, 1.0), "w4a4": (4, 0.3), "w2a2": (2, 0.1)}


def record(arm, variant, family, severity, correct, cost, **more):
    return {
        "arm": arm,
        "variant": variant,
        "family": family,
        "severity": severity,
        "heldout": family in HELD_OUT,
        "pictures": 100,
        "correct": correct,
        "cost": cost,
        **more,
    }


def results():
    records = []
    for family in FAMILIES:
        for severity in (0,) if family == "clean" else (1, 2, 3, 4, 5):
            at = (family, severity)
            records.append(record("fp32", "fp32", *at, 95 - severity, 16.0))
            for name, (bits, cost) in VARIANTS.items():
                records.append(record("fixed", name, *at, 80 + bits - 2 * severity, cost))
            chosen = {"share/w8a8": 0.1, "share/w4a4": 0.2 + severity / 10, "share/w2a2": 0.7 - severity / 10}
            records.append(
                record("adaptive", "selector", *at, 86 - severity, 0.25, **chosen, w_bits=3 + severity / 5, a_bits=4.0)
            )
            records.append(record("random", "shares", *at, 84.25 - severity, 0.25))
    return records


ABOUT = {
    "name": "a",
    "arch": "resnet8",
    "dataset": "digits",
    "method": "fixed",
    "variants": [
        {"name": name, "cost": cost, "bits": {"conv1": [8, 8], "layer1": [bits, bits], "linear": [8, 8]}}
        for name, (bits, cost) in VARIANTS.items()
    ],
}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(ABOUT))
    (tmp_path / "results.json").write_text(json.dumps(results()))
    lines = [{"phase": "joint", "step": k, "loss/w8a8": 2 / (1 + k), "accuracy/w8a8": 0.5} for k in range(3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_report_and_pictures(run):
    pictures = {(r["family"], r["severity"]): np.full((32, 32, 3), 40 * r["severity"], np.uint8) for r in results()}
    text = write_report(run, pictures).read_text()
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
    again = text
    assert write_report(run).read_text() == again  # the pictures are kept


def test_sections_without_data_are_left_out(run):
    records = [{k: v for k, v in r.items() if not k.startswith("share/")} for r in results() if r["arm"] == "fixed"]
    (run / "results.json").write_text(json.dumps(records))
    (run / "metrics.jsonl").unlink()
    text = write_report(run).read_text()
    assert re.findall(r"plots/(\w+)", text) == ["families", "cost", "bits"]


def test_one_variant_one_family_nothing_held_out(run):
    records = [r for r in results() if r["arm"] == "fixed" and r["variant"] == "w4a4" and r["family"] == "clean"]
    (run / "results.json").write_text(json.dumps(records))
    assert "| w4a4 | 84.00 % | 0.300 |" in write_report(run).read_text()


def test_numbers_behind_the_plots():
    accuracy = by_arm(results())
    assert accuracy["fixed", "w2a2"]["jpeg"] == {s: 82 - 2 * s for s in range(1, 6)}
    assert accuracy["fp32", "fp32"]["clean"] == {0: 95}
    expected = {"w8a8": 0.1, "w4a4": 0.5, "w2a2": 0.4}
    assert shares(results())["jpeg"] == pytest.approx(expected) and shares([]) == {}


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 100)), min_size=1, max_size=8))
def test_random_mix_is_the_best_of_all_pairs(points):
    corners = mix(points)
    assert set(corners) <= set(points) and corners == sorted(corners)
    xs, ys = zip(*corners, strict=True)
    for x, y in points:  # no variant and no mix of two lies above the line
        assert y <= np.interp(x, xs, ys) + 1e-9
        for x2, y2 in points:
            assert (y + y2) / 2 <= np.interp((x + x2) / 2, xs, ys) + 1e-9


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("run.json", None, "run.json: expected, not found"),
        ("results.json", None, "results.json: expected, not found"),
        ("results.json", "[1", "expected JSON"),
        ("results.json", "{}", "expected a JSON list"),
        ("results.json", "[1]", "expected records"),
        ("results.json", "[]", "single variants"),
        ("run.json", "[]", "expected a JSON dict"),
        ("run.json", "{}", "expected .*arch"),
        ("run.json", json.dumps(ABOUT | {"variants": ["w8a8"]}), "expected variants with name"),
        (
            "run.json",
            json.dumps(ABOUT | {"settings": {"cost": "watts"}}),
            "settings with a cost of bitops, .*got 'watts'",
        ),
        ("run.json", json.dumps(ABOUT | {"settings": []}), "settings with a cost"),
        *(
            ("results.json", json.dumps([record("fixed", "w4a4", "clean", 0, 50, 0.3) | wrong]), "expected records of")
            for wrong in (
                {"correct": "50"},
                {"correct": None},
                {"correct": 101},
                {"correct": -1},
                {"pictures": 0.5},
                {"cost": float("nan")},
                {"severity": "0"},
                {"arm": 1},
                {"heldout": 0},
            )
        ),
        ("metrics.jsonl", '{"phase": "joint"', "metrics.jsonl: expected a record a line"),
        ("metrics.jsonl", "1", "metrics.jsonl: expected a record a line"),
        ("configs.json", "{", "configs.json: expected configurations"),
        ("configs.json", "{}", "configs.json: expected configurations"),
    ],
)
def test_what_is_no_finished_run_is_refused(run, name, content, words):
    (run / name).unlink() if content is None else (run / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        write_report(run)
    assert not (run / "report.md").exists()


@pytest.mark.parametrize(
    "bits",
    [
        7,
        {},
        {"conv1": 4},
        {"conv1": [8, "8"]},
        {"conv1": [8]},
        {"conv1": [8, 8]},
        {"conv1": [8, 8], "layer1": [[], 2], "linear": [8, 8]},
    ],
)
def test_bits_that_are_none(run, bits):
    variants = [{**v, "bits": bits} if k == 1 else v for k, v in enumerate(ABOUT["variants"])]
    (run / "run.json").write_text(json.dumps({**ABOUT, "variants": variants}))
    with pytest.raises(ValueError, match="run.json: .*(widths|bits).*; export it anew"):
        write_report(run)


@pytest.mark.parametrize("change", [{"family": "x"}, {"arm": "other"}, {"variant": ""}, {"severity": 9}])
def test_arms_that_were_measured_at_different_places(run, change):
    records = results()
    (run / "results.json").write_text(json.dumps([{**records[0], **change}, *records[1:]]))
    with pytest.raises(ValueError, match="results.json: expected every arm measured in the same families"):
        write_report(run)


def test_damaged_samples(run):
    (run / "plots").mkdir()
    picture, path = np.zeros((8, 8, 3), np.uint8), run / "plots" / "samples.npz"
    np.savez(path, **{"clean-0": picture, "jpeg-1": picture})
    whole = path.read_bytes()
    damages = [b"", b"PK", whole[:-9], whole[:250] + bytes([whole[250] ^ 255]) + whole[251:]]
    for arrays in ({"clean": picture}, {"jpeg-x": picture}, {"clean-0": picture[0]}, {"clean-0": np.array([None])}):
        np.savez(path, **arrays)
        damages.append(path.read_bytes())
    for damage in damages:
        path.write_bytes(damage)
        with pytest.raises(ValueError, match="samples.npz: expected one picture of each quality.*or delete it"):
            write_report(run)


def test_report_says_when_quality_does_not_matter_and_shows_what_the_search_saw(run):
    records = [{**r, "w_bits": 4.0} if r["arm"] == "adaptive" else r for r in results()]
    (run / "results.json").write_text(json.dumps(records))
    seen = [{"name": f"ilp-{k}", "cost": 0.2 * k, "loss": 1 / k, "groups": []} for k in (1, 2, 3)]
    (run / "configs.json").write_text(json.dumps({"pareto": seen, "variants": seen[:1]}))
    text = write_report(run).read_text()
    assert "The bits do not differ with quality: every family and severity gets between 4.00 and 4.00" in text
    assert "plots/pareto.png" in text and (run / "plots" / "pareto.png").exists()


def invented(folder, seed: int, gain: float = 0.01, **settings):
    """A run's folder with evidence: private variants gain so much."""
    evidence = routed(specialists(gain, 0.05), OWN, seed)
    evidence = replace(evidence, curve=tuple(np.tile([[0.7], [0.8]], (2, 1, len(evidence.places)))))
    folder.mkdir()
    evidence.write(folder)
    (folder / "results.json").write_text(json.dumps(arm_records(evidence, seed)))
    variants = [
        {"name": v.name, "cost": v.cost, "base": v.base, "bits": {"conv1": [8, 8], "linear": [8, 8]}}
        for v in evidence.variants
    ]
    about = {
        "name": folder.name,
        "arch": "resnet8",
        "dataset": "digits",
        "method": "fixed",
        "variants": variants,
        "settings": {"epochs": 3, "seed": seed, **settings},
    }
    (folder / "run.json").write_text(json.dumps(about))
    return folder


def test_report_of_a_run_with_outcomes_says_whether_choosing_pays(tmp_path):
    text = write_report(invented(tmp_path / "a", 0)).read_text()
    assert "## Does it pay?\n\nOn the training families, this pays: private, adaptive." in text
    assert "| selector | 8" not in text and " w4a4-q0 |" not in text  # one table of arms; no column a private variant
    assert re.findall(r"plots/(\w+)", text) == ["families", "cost", "shares", "bits"]
    pixels = np.asarray(Image.open(tmp_path / "a" / "plots" / "cost.png").convert("L"))
    assert min(pixels.shape) > 100 and (pixels < 128).mean() > 0.002


def test_a_report_is_not_written_with_less_than_it_has(tmp_path):
    text = write_report(invented(tmp_path / "a", 0)).read_text()
    (tmp_path / "a" / "outcomes.npz").unlink()
    with pytest.raises(ValueError, match=r"outcomes.npz: expected, not found; .*report.md has .*\(Does it pay\?\)"):
        write_report(tmp_path / "a")
    assert (tmp_path / "a" / "report.md").read_text() == text
    (tmp_path / "a" / "report.md").unlink()
    assert "Does it pay?" not in write_report(tmp_path / "a").read_text()


def test_usage_is_told(capsys):
    for words, told in ((["--help"], "of several, equal but for their seeds"), ([], "required: RUN")):
        with pytest.raises(SystemExit):
            parse(words)
        out = capsys.readouterr()
        assert "usage: python -m train.report" in out.out + out.err and told in " ".join((out.out + out.err).split())
    assert parse(["a", "b"]) == ([Path("a"), Path("b")], [])
    assert parse(["--static", "c", "a", "--static", "d"]) == ([Path("a")], [Path("c"), Path("d")])


def test_another_runs_static_variants_are_on_the_line(tmp_path, capsys):
    folder, other = invented(tmp_path / "a", 0), tmp_path / "other"
    other.mkdir()
    World({"w8a8": alike(0.85), "w4a4": alike(0.82), "w2a2": alike(0.70)}, {}).evidence().write(other)
    (other / "run.json").write_text(json.dumps({"settings": {"cost": "latency", "target": "arm"}}))
    with pytest.raises(ValueError, match="--static .*other: expected costs of the same kind.* got .*latency on arm"):
        main([folder], [other])
    (other / "run.json").write_text(json.dumps({"settings": {}}))
    main([folder], [other])
    text = (folder / "report.md").read_text()
    assert "nothing pays" in text and "| `w4a4 of other` | 82.00" in text
    (folder / "report.md").unlink()
    with pytest.raises(ValueError, match="same test pictures"):
        main([folder], [invented(tmp_path / "b", 1)])
    with pytest.raises(ValueError, match="--static: expected runs of different names"):
        main([folder], [other, other])


def test_several_seeds(tmp_path, capsys):
    folders = [invented(tmp_path / f"{seed}", seed, gain) for seed, gain in ((1, 0.01), (2, 0.02), (3, 0.03))]
    main(folders)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Mean over 3 seeds")
    found = next(line for line in lines if line.startswith("| private"))
    # 2 points on average; standard error 1 / sqrt(3), and Student's quantile for 2 degrees of freedom is 4.303
    assert "| 0.300 ± 0.000 | 82.00 ± 0.58 % | +2.00 ± 0.58 | not better than static" in found
    assert f"[{2 - 4.303 / 3**0.5:.2f}, {2 + 4.303 / 3**0.5:.2f}]" in found
    main([invented(tmp_path / "4", 4), invented(tmp_path / "5", 5)])
    assert "| private | 0.300 ± 0.000 | 81.00 ± 0.00 % | +1.00 ± 0.00 | better than static" in capsys.readouterr().out
    begun = [invented(tmp_path / f"begun-{seed}", seed, start=f"shared-{seed}") for seed in (7, 8)]
    main(begun)  # each from a run of its own seed
    with pytest.raises(ValueError, match="start differ"):
        main([begun[0], folders[0]])
    for other, words in (
        (folders[0], "different seeds"),
        (invented(tmp_path / "6", 6, epochs=4), "epochs differ"),
        (tmp_path / "none", "expected a finished run"),
    ):
        with pytest.raises(ValueError, match=words):
            main([folders[0], other])


def rival(folder, seed: int):
    """A run's folder with static variants alone, the one of 4 bits half a point better than that of `invented`."""
    folder.mkdir()
    World({"w8a8": alike(0.85), "w4a4": alike(0.805), "w2a2": alike(0.70)}, {}).evidence(seed).write(folder)
    (folder / "run.json").write_text(json.dumps({"settings": {"epochs": 9, "seed": seed}}))
    return folder


def test_several_seeds_beside_the_static_variants_of_others(tmp_path, capsys):
    folders = [invented(tmp_path / f"{seed}", seed, gain) for seed, gain in ((1, 0.01), (2, 0.02), (3, 0.03))]
    rivals = [rival(tmp_path / f"static-{seed}", seed) for seed in (3, 1, 2)]
    main(folders, rivals)
    out = capsys.readouterr().out
    assert "are those of a run and of 1 more of its seed" in out
    assert "| private | 0.300 ± 0.000 | 82.00 ± 0.58 % | +1.50 ± 0.58 |" in out
    for some in (rivals[:2], [*rivals, rival(tmp_path / "static-4", 4)]):
        with pytest.raises(ValueError, match=r"--static: expected as many runs for each of the seeds \[1, 2, 3\]"):
            main(folders, some)
    with pytest.raises(ValueError, match="--static: expected runs of different names"):
        main(folders, rivals + rivals)


@pytest.mark.parametrize("seed", range(12))
def test_damaged_outcomes_are_one_error(tmp_path, seed):
    folder, rng = invented(tmp_path / "a", 0), np.random.default_rng(seed)
    path = folder / "outcomes.npz"
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data))) if seed else 100] ^= 255
    path.write_bytes(data[: len(data) - seed % 3 * 50])
    try:
        main([folder])
    except ValueError as error:
        assert "outcomes.npz: expected outcomes of format" in str(error)
    else:
        assert seed % 3 == 0  # one byte, where nobody looks; a file cut off is never read
