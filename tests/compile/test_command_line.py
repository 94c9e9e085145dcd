"""Command lines of the compiler: what can be known early is told early, in one line, before TVM has loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from compile import build as builder
from compile import command_line
from compile.qdq.normalization import Normalization

ROOT = Path(__file__).parents[2]


def refused(capsys, *words: str) -> str:
    """The one line that a bad command line is answered with."""
    try:
        status = builder.main(list(words))
    except SystemExit as ended:
        status = ended.code
    err = capsys.readouterr().err
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_refusals_say_what_to_do(run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "python -m train.run" in refused(capsys, "--target", "x86")
    assert "there is no target" in refused(capsys, str(run_folder), "--target", "z80")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    assert "or a bundle to replace" in refused(capsys, str(run_folder), "--target", "x86", "--out", "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"


@pytest.mark.parametrize(
    "words, expected",
    [
        ("absent.onnx", "absent.onnx: expected a run folder, .onnx or .tflite files, but there is no such file"),
        ("runs/absent", "runs/absent: expected a run folder, .onnx or .tflite files, but there is no such folder"),
        ("photos", "photos: expected a run folder, which holds run.json, got a folder without one; if this is"),
        ("photos a.onnx", "photos: expected one run folder, or files alone"),
        ("a.keras", "a.keras: expected a run folder, .onnx or .tflite files, got a file of another kind"),
        ("a.onnx --labels absent.txt", "--labels absent.txt: expected a text file, one class per line, but"),
        ("a.onnx --golden 0", "--golden: expected at least 1 picture"),
        ("a.onnx --batch 0", "--batch: expected at least 1 picture"),
        ("a.onnx --verbos", "unrecognized arguments: --verbos; did you mean --verbose?"),
    ],
)
def test_what_is_missing_is_told(tmp_path, monkeypatch, capsys, words, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("a.onnx", "a.keras"):
        (tmp_path / name).touch()
    assert expected in refused(capsys, *words.split(), "--target", "x86")


def test_places_are_checked_before_the_work(run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(builder, "open_source", lambda *_: pytest.fail("it worked first"))
    (tmp_path / "file").touch()
    for words in (["--out", "file/x"], ["--dump", "file"], ["--out", "b", "--dump", "file/x/y"]):
        words = [str(tmp_path / w) if not w.startswith("-") else w for w in words]
        err = refused(capsys, str(run_folder), "--target", "x86", *words)
        assert f"{words[-2]} {words[-1]}: expected a folder" in err


@pytest.mark.parametrize(
    "words, expected",
    [
        ("--mean 0,nan,0 --std 1,1,1", "expected numbers such as"),
        ("--mean 0,0,0 --std 1,0,1", "expected numbers above 0, got 0"),
        ("--mean 0,0,0 --std 1", "as many numbers each, got 3 and 1"),
        ("--mean a --std 1", "expected numbers such as"),
        ("--mean 0", "belong together"),
        ("--mean 123,117,104 --std 58,57,57", "use --mean 0.482,0.459,0.408 --std 0.227,0.224,0.224"),
        ("--mean 0.485 --std 58", "pictures in 0..1, got --mean 0.485 --std 58, which are of pictures in 0..255"),
    ],
)
def test_impossible_normalizations(capsys, words, expected):
    assert expected in refused(capsys, "x.onnx", *words.split())


def test_flags_become_settings(tmp_path):
    words = "a.onnx b.onnx --target arm:cortex-a72 --out o --no-times --golden 2 --mean 0,0,0 --std 1,1,1 --verbose"
    settings = command_line.parse_build(words.split())
    assert settings.sources == (Path("a.onnx"), Path("b.onnx")) and settings.target.name == "arm:cortex-a72"
    assert (settings.out, settings.times, settings.golden, settings.every_table) == (Path("o"), False, 2, True)
    assert settings.normalization == Normalization((0, 0, 0), (1, 1, 1)) and settings.batch == 1
    assert settings.place_for("a") == Path("o")


def test_the_target_is_this_machine_s_unless_told(run_folder, monkeypatch, capsys):
    names = []
    monkeypatch.setattr(builder, "build", lambda settings, _: names.append(settings.target.name))
    for machine, name in (("x86_64", "x86"), ("aarch64", "arm")):
        monkeypatch.setattr(command_line.cpu, "machine", lambda machine=machine: machine)
        assert builder.main([str(run_folder)]) == 0 and names.pop() == name
    monkeypatch.setattr(command_line.cpu, "machine", lambda: "riscv64")
    assert "--target" in refused(capsys, str(run_folder))


@pytest.mark.parametrize("command", ["build", "profile"])
def test_wrong_words_are_told_before_the_compiler_has_loaded(tmp_path, command):
    """What takes seconds to load is not there yet when a missing file is told."""
    code = (
        f"import sys\nfrom compile.{command} import main\n"
        "status = main(['absent.onnx', '--target', 'x86:avx2'])\n"
        "print(sorted({'tvm', 'tvm_ffi', 'torch'} & set(sys.modules)), status)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[] 2"
    assert ended.stderr.startswith("error: absent.onnx: expected a run folder, .onnx or .tflite files")
