"""The benchmark of published files: every file gets a record, whatever it does to the process that judges it."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from PIL import Image

from benchmarks.published import __main__ as published
from benchmarks.published import guarded, judge
from benchmarks.published.guarded import Limits
from benchmarks.published.photos import photos
from benchmarks.published.record import Record, messages, table, write_into
from compile.qdq.normalization import Normalization
from runtime.pictures.files import PictureError
from tests.support.foreign import OnnxNet

MEMBERS = {"file", "tool", "imports", "builds", "exact", "pictures", "differing", "agree", "seconds", "message"}
UNIT = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Twelve small pictures, one of them grey."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for k in range(12):
        shape = (9, 7) if k == 4 else (9 + k, 12, 3)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{k:02}.png")
    return folder


def network(channels: int = 3, elem_type: int = TensorProto.FLOAT) -> onnx.ModelProto:
    rng, net = np.random.default_rng(0), OnnxNet((channels, 8, 8), elem_type=elem_type)
    x = net.qdq("x", 1 / 255) if elem_type == TensorProto.FLOAT else net.op("DequantizeLinear", "x", net.const(1 / 255))
    x = net.op("Conv", x, net.weight(rng.integers(-90, 91, (4, channels, 3, 3)), 0.007))
    x = net.op("Flatten", net.qdq(net.op("GlobalAveragePool", net.qdq(net.op("Relu", x), 0.01)), 0.01))
    return net.model(net.qdq(net.op("Gemm", x, net.weight(rng.integers(-90, 91, (4, 5)), 0.01)), 0.02, 128), 5)


def test_pictures_fit_any_network(place, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in place.iterdir():
            archive.write(path, f"inside/{path.name}")
        archive.writestr("labels.csv", "a,b")
    for shape in ((8, 8, 3), (5, 9, 1), (4, 4, 4), (4, 4, 6)):
        first = photos(place, 5, shape)
        assert first.shape == (5, *shape) and first.dtype == np.uint8 and len(np.unique(first)) > 20
        np.testing.assert_array_equal(first, photos(tmp_path / "photos.zip", 5, shape))
    assert len(photos(place, 100, (4, 4, 3))) == 12
    (tmp_path / "empty.zip").write_bytes(b"no zip")
    with pytest.raises(PictureError, match="expected a zip of pictures"):
        photos(tmp_path / "empty.zip", 5, (4, 4, 3))


def test_the_first_normalization_that_fits_is_taken(tmp_path):
    """None for uint8 pictures, one number for those of another count of channels."""
    expected = {(3, TensorProto.FLOAT): UNIT, (3, TensorProto.UINT8): None}
    for (channels, kind), normalization in expected.items():
        onnx.save(network(channels, kind), tmp_path / "net.onnx")
        assert judge.opened(tmp_path / "net.onnx", UNIT).normalization == normalization
    onnx.save(network(1), tmp_path / "net.onnx")
    one = judge.opened(tmp_path / "net.onnx", UNIT).normalization
    assert one is not None and np.allclose([*one.mean, *one.std], [0.2, 0.5])
    (tmp_path / "net.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        judge.opened(tmp_path / "net.onnx", UNIT)


def test_tools_and_styles(tmp_path):
    model = network()
    model.producer_name = "painter"
    onnx.save(model, tmp_path / "a.onnx")
    assert judge.tool_of(tmp_path / "a.onnx") == "painter QDQ" and judge.tool_of(Path("a.tflite")) == "TFLite"
    model.graph.node[0].op_type = "DynamicQuantizeLinear"
    onnx.save(model, tmp_path / "a.onnx")
    assert judge.tool_of(tmp_path / "a.onnx") == "painter dynamic"
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    assert judge.tool_of(tmp_path / "a.onnx") == ""


@pytest.mark.slow
def test_one_file_s_failure_does_not_end_the_run(place, tmp_path, capsys):
    """One that builds, one that is refused, one that is no ONNX file; records are written after each."""
    folder = tmp_path / "files"
    folder.mkdir()
    onnx.save(network(), folder / "good.onnx")
    model = network()
    model.graph.node[-3].op_type = "Softsign"
    onnx.save(model, folder / "refused.onnx")
    (folder / "broken.onnx").write_bytes(b"nothing")
    (folder / "readme.txt").write_text("no network")
    words = [str(folder), "--pictures", str(place), "--count", "6", "--json", str(tmp_path / "r.json")]
    assert published.main(words) == 0
    records = {record["file"]: record for record in json.loads((tmp_path / "r.json").read_text())}
    assert set(records) == {"good.onnx", "refused.onnx", "broken.onnx"} and set(records["good.onnx"]) == MEMBERS
    good = records["good.onnx"]
    assert (good["imports"], good["builds"], good["exact"], good["pictures"], good["message"]) == (True,) * 3 + (6, "")
    assert 5 <= good["agree"] <= 6 and good["differing"] <= 3
    for name in ("refused.onnx", "broken.onnx"):
        assert not records[name]["imports"] and records[name]["message"] and records[name]["agree"] is None
    out = capsys.readouterr().out
    assert "all 3" in out and "refused.onnx: model:" in out.replace("node", "model")


def test_hangs_and_crashes_become_messages():
    limits = Limits(seconds=2.0)
    line, end = guarded.run([sys.executable, "-c", "print(1); print(2)"], limits)
    assert (line, end) == ("2", "")
    line, end = guarded.run([sys.executable, "-c", "import time; time.sleep(60)"], limits)
    assert line == "" and end == "expected an answer within 2 s, got none"
    line, end = guarded.run([sys.executable, "-c", "import os; os.abort()"], limits)
    assert line == "" and "status -6" in end
    greedy = [sys.executable, "-c", "x = bytearray(1 << 30)"]
    assert "MemoryError" in guarded.run(greedy, Limits(seconds=20.0, memory=1 << 28))[1]


def test_a_file_that_ends_its_process_has_a_record(tmp_path, place, monkeypatch):
    monkeypatch.setattr(guarded, "run", lambda *_: ("", "the process ended with status -11: nothing was said"))
    record = guarded.record_of(tmp_path / "a.onnx", UNIT, place, 3, Limits())
    assert record.file == "a.onnx" and "status -11" in record.message and not record.imports


def test_exports_come_from_another_python(tmp_path, place, monkeypatch, capsys):
    """Each network's failure is its own; those of other names are left out."""
    answers = {
        ("--list",): (json.dumps(["torchvision/a", "torchvision/b", "torchvision/c"]), ""),
        ("torchvision/a",): (json.dumps(str(tmp_path / "torchvision_a.onnx")), ""),
        ("torchvision/b",): ("", "it broke"),
    }
    monkeypatch.setattr(published, "run", lambda words, _: next(v for k, v in answers.items() if k[0] in words))
    monkeypatch.setattr(published, "record_of", lambda path, *_: Record(path.name, imports=True, agree=3, pictures=3))
    words = ["--torchvision", "--only", "a,b", "--pictures", str(place), "--json", str(tmp_path / "r.json")]
    assert published.main(words) == 0
    records = json.loads((tmp_path / "r.json").read_text())
    assert [(r["file"], r["message"]) for r in records] == [
        ("torchvision_a.onnx", ""),
        ("torchvision/b", "export: it broke"),
    ]
    monkeypatch.setattr(published, "run", lambda *_: ("", "No module named 'torchvision'"))
    assert published.main(words) == 2
    assert "expected a Python with torchvision to export with" in capsys.readouterr().err


def test_missing_files_are_an_error(place, capsys):
    assert published.main(["no/such", "--pictures", str(place)]) == 2
    assert "no/such: expected a file or folder" in capsys.readouterr().err


def test_the_table_counts_how_far_files_came():
    records = [
        Record("a.onnx", "t QDQ", True, True, True, 200, 12, 199, 3.0),
        Record("b.onnx", "t QDQ", True, False, False, message="why"),
        Record("c.onnx"),
    ]
    lines = table(records).render(None).splitlines()
    assert lines[-1].split() == ["all", "3", "2", "1", "1", "12", "199", "of", "200", "3"]
    assert lines[2].split()[-4:] == ["199", "of", "200", "3"] and messages(records) == ["b.onnx: why"]


def test_the_table_goes_into_a_page(tmp_path):
    """Whatever an error holds, it stays in its cell."""
    records = [Record("a.onnx", "t QDQ", True, True, True, 200, 12, 199, 3.0), Record("b|.onnx", message="| `x` " * 99)]
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nWords.\n\n## Files\n\nold\n")
    write_into(page, records)
    lines = page.read_text().splitlines()
    assert lines[:5] == ["# Title", "", "Words.", "", "## Files"] and "old" not in page.read_text()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 5 and all(line.count("|") == 10 for line in rows)
    page.write_text("# Title\n")
    with pytest.raises(ValueError, match="expected a page with the heading '## Files'"):
        write_into(page, records)
