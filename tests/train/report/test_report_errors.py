"""What is no finished run is refused by a report with one clear error, and leaves an old report as it is."""

import json

import numpy as np
import pytest

from tests.support.reports import PLAIN_RUN, invented_run, make_result, plain_results
from train.evidence.results import write_results
from train.report.__main__ import report
from train.report.write import write_report

pytestmark = pytest.mark.slow

ABOUT = PLAIN_RUN.to_dict()
RESULT = make_result("fixed", "w4a4", ("clean", 0), 50, 0.3).to_dict()


@pytest.fixture
def run(tmp_path):
    PLAIN_RUN.write(tmp_path)
    write_results(tmp_path, plain_results())
    return tmp_path


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("run.json", None, "expected a finished run, but run.json is missing"),
        ("results.json", None, "results.json: expected, not found"),
        ("results.json", "[1", "expected JSON"),
        ("results.json", "{}", "expected a JSON list"),
        ("results.json", "[1]", "expected records"),
        ("results.json", "[]", "single variants"),
        ("run.json", "[]", "run.json: expected an object"),
        ("run.json", "{}", "run.json: expected a field 'format'"),
        ("run.json", json.dumps(ABOUT | {"format": 2}), "expected a run of format 1, got format 2"),
        ("run.json", json.dumps({k: v for k, v in ABOUT.items() if k != "arch"}), "expected a field 'arch'"),
        ("run.json", json.dumps(ABOUT | {"variants": []}), "at least 1 of variants"),
        ("run.json", json.dumps(ABOUT | {"variants": ["w8a8"]}), r"variants\[0\]: expected an object, got w8a8"),
        (
            "run.json",
            json.dumps(ABOUT | {"settings": {"cost": "watts"}}),
            "settings with a cost of bitops, .*got 'watts'",
        ),
        ("run.json", json.dumps(ABOUT | {"settings": []}), "expected settings to be an object"),
        *(
            ("results.json", json.dumps([RESULT | wrong]), "expected records of")
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
        ("results.json", json.dumps([RESULT | {"share/w4a4": "1"}]), "expected numbers as w_bits, a_bits and shares"),
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
    with pytest.raises(ValueError, match="run.json: .*(widths|bits).*export the run again"):
        write_report(run)


@pytest.mark.parametrize("change", [{"family": "x"}, {"arm": "other"}, {"variant": ""}, {"severity": 9}])
def test_arms_that_were_measured_at_different_places(run, change):
    records = [r.to_dict() for r in plain_results()]
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


@pytest.mark.parametrize("seed", range(12))
def test_damaged_outcomes_are_one_error(tmp_path, seed):
    folder, rng = invented_run(tmp_path / "a", 0), np.random.default_rng(seed)
    path = folder / "outcomes.npz"
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data))) if seed else 100] ^= 255
    path.write_bytes(data[: len(data) - seed % 3 * 50])
    try:
        report([folder])
    except ValueError as error:
        assert "outcomes.npz: expected outcomes of format" in str(error)
    else:
        assert seed % 3 == 0  # one byte, where nobody looks; a file cut off is never read
