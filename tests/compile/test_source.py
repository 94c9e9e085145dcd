"""What a build starts from: a run's budget and labels, and what is refused before the work."""

import json
import shutil

import onnx
import pytest

from compile.qdq.importer import Normalization, load
from compile.source.opened import SourceError, open_source, read_labels
from tests.compile.test_onnx_foreign import small


@pytest.mark.parametrize("settings, budget", [({"budget": 0.25}, 0.25), ({}, None), (None, None)])
def test_a_run_s_own_budget_goes_along(run_folder, tmp_path, settings, budget):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    about |= {} if settings is None else {"settings": settings}
    (folder / "run.json").write_text(json.dumps(about))
    assert open_source([folder]).budget == budget


@pytest.mark.parametrize(
    "change, words",
    [
        ({"labels": ["a\tb"] * 10}, "expected labels to be printable text"),
        ({"labels": "0123456789"}, "labels"),
        ({"labels": []}, "at least 1 labels"),
        ({"name": 7}, "name"),
        ({"selector": {}}, "selector: expected format"),
        ({"selector": []}, "selector to be an object"),
        ({"budgets": 3}, "budgets"),
        ({"budgets": [{}]}, "'budget'"),
        ({"escalation": {"up": [0, 1, 2], "budgets": []}}, "a selector beside an escalation"),
        ({"accuracy": "x"}, "accuracy to be an object"),
        ({"accuracy": {"clean": 2}}, "clean finite in 0..1"),
        ({"cost": None}, "cost to be a number"),
        ({"cost": -1.0}, "cost finite in 0"),
    ],
)
def test_what_the_runtime_would_refuse_is_refused_before_the_work(run_folder, tmp_path, change, words):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    of_variant = change.keys() & {"accuracy", "cost"}
    (about["variants"][1] if of_variant else about).update(change)
    (folder / "run.json").write_text(json.dumps(about))
    with pytest.raises(SourceError, match=words):
        open_source([folder])


@pytest.mark.parametrize("settings", [{"budget": "1"}, {"budget": 0}, {"budget": float("nan")}, [1]])
def test_a_damaged_own_budget_is_refused(run_folder, tmp_path, settings):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(about | {"settings": settings}))
    with pytest.raises(SourceError, match="budget|damaged"):
        open_source([folder])


def test_a_normalization_has_a_number_for_each_channel(tmp_path):
    onnx.save(small(), tmp_path / "float.onnx")
    with pytest.raises(ValueError, match="mean and std for each of 3 channels, got 2 and 2"):
        load(tmp_path / "float.onnx", Normalization((0, 0), (1, 1)))


def test_labels_of_files(run_folder, tmp_path):
    file, names = run_folder / "w8a8.onnx", tmp_path / "names.txt"
    names.write_text("".join(f"name {i}\n" for i in range(10)))
    assert open_source([file], None, read_labels(names)).labels == [f"name {i}" for i in range(10)]
    assert open_source([file]).labels[3] == "class 3"
    with pytest.raises(SourceError, match="expected 10 labels, one a logit, got 9"):
        open_source([file], None, [str(i) for i in range(9)])
    for content, words in ((b"a\n\nb\n", "line 2 has none"), (b"", "line 1"), (b"\xff\xfe", "cannot read it")):
        names.write_bytes(content)
        with pytest.raises(SourceError, match=words):
            read_labels(names)
    with pytest.raises(SourceError, match="cannot read it"):
        read_labels(tmp_path)


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 99}', '{"format": 1}', "null"])
def test_damaged_run_is_refused(run_folder, tmp_path, damage):
    (tmp_path / "run.json").write_text(damage)
    with pytest.raises(SourceError):
        open_source([tmp_path])


@pytest.mark.parametrize("cut, at", [(100, None), (0, 10), (0, 60), (0, 130), (5, 1)])
def test_damaged_golden_data_is_refused(run_folder, tmp_path, cut, at):
    copy = shutil.copytree(run_folder, tmp_path / "run")
    path = copy / json.loads((copy / "run.json").read_text())["golden"]
    data = bytearray(path.read_bytes())
    if at is not None:
        data[at] ^= 0xFF
    path.write_bytes(data[: len(data) - cut])
    try:
        open_source([copy])
    except SourceError as error:
        assert "damaged" in str(error) and "export the run again" in str(error)
    else:
        assert not cut  # a byte that the reader does not look at
