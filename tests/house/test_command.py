"""The console command and the import for any folder: every command starts, and hidden packages are told."""

import subprocess
import sys
from pathlib import Path

import pytest

import bitgrade
import runtime

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def bitgrade_in(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """What `bitgrade ...` does in a folder whose files Python finds first."""
    code = f"import sys; sys.path[1:1] = [{str(ROOT)!r}]; import bitgrade; bitgrade.main(sys.argv[1:])"
    return subprocess.run([sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True)


def test_the_usage_names_every_command(capsys):
    bitgrade.main([])
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in bitgrade.COMMANDS)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", bitgrade.COMMANDS)
def test_every_command_has_a_help(tmp_path, command):
    ended = bitgrade_in(tmp_path, command, "--help")
    assert ended.returncode == 0 and "usage: " in ended.stdout and not ended.stderr


def test_the_version_and_the_name_of_a_command(tmp_path):
    assert bitgrade_in(tmp_path, "--version").stdout == f"bitgrade {runtime.__version__}\n"
    assert bitgrade_in(tmp_path, "run", "--help").stdout.startswith("usage: bitgrade run ")
    assert bitgrade_in(tmp_path, "compile", "--targt", "x86").stderr.endswith(" See bitgrade compile --help\n")


def test_an_unknown_command_names_the_known_ones(tmp_path):
    assert bitgrade_in(tmp_path, "trian").stderr.endswith("got 'trian'; did you mean train? See bitgrade --help\n")
    ended = bitgrade_in(tmp_path, "classify")
    assert ended.returncode == 2 and ended.stderr.startswith("error: expected a command among train, ")


@pytest.mark.parametrize("name", ["train.py", "train/__init__.py", "train/notes.txt"])
def test_a_file_or_folder_that_hides_a_package_is_told(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    ended = bitgrade_in(tmp_path, "train", "--help")
    if name.endswith(".txt"):  # a folder without Python files hides nothing
        assert ended.returncode == 0
    else:
        assert ended.returncode == 2
        assert ended.stderr.startswith("error: expected bitgrade's own package train") and str(tmp_path) in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


def test_the_engine_is_there_under_one_name_that_is_ours_alone(tmp_path):
    assert bitgrade.Engine is runtime.Engine and bitgrade.open_bundle is runtime.open_bundle
    with pytest.raises(AttributeError, match="it has Bundle, BundleError, Engine"):
        getattr(bitgrade, "Motor")  # noqa: B009  (the name is the point)
    (tmp_path / "runtime.py").write_text("")
    code = f"import sys; sys.path[1:1] = [{str(ROOT)!r}]; from bitgrade import Engine"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "expected bitgrade's own package runtime" in ended.stderr and str(tmp_path) in ended.stderr
