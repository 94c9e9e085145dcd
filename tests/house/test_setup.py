"""The set-up: what is pinned and why, what `make` and CI do, and how large files may grow."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FOLDERS = ("train", "compile", "runtime", "targets", "benchmarks", "tests")
FILES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))
MAX_LINES = 350


def locked() -> dict[str, str]:
    """Package -> exact version of requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def project() -> dict:
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_lock_is_exact_and_serves_every_dependency():
    lock, about = locked(), project()
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in lock.values())  # no local builds, no paths
    optional = {name: lines for name, lines in about["optional-dependencies"].items() if name != "peers"}
    for line in sum(optional.values(), about["dependencies"]):  # engines to compare with are for who wants to compare
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            assert lock[canonicalize_name(requirement.name)] in requirement.specifier, line


def test_what_is_installed_is_what_is_locked():
    """Exactness is promised for the pinned compiler and its runtime; both must be those of the lock."""
    for name in ("apache-tvm", "apache-tvm-ffi"):
        assert importlib.metadata.version(name) == locked()[name]


def test_device_needs_two_packages():
    assert [Requirement(line).name for line in project()["dependencies"]] == ["numpy", "apache-tvm-ffi"]
    assert project()["requires-python"] == ">=3.10"


def test_save_json_works_with_the_pinned_ffi():
    """With apache-tvm-ffi 0.1.15 this ends the process; so it gets one of its own."""
    code = """
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T
with IRBuilder() as builder:
    with T.prim_func(s_tir=True):
        T.func_name("main")
        x = T.arg("x", T.Buffer((4,), "int8"))
        T.buffer_store(x, T.int8(1), [0])
module = tvm.IRModule({"main": builder.get()})
tvm.ir.assert_structural_equal(tvm.ir.load_json(tvm.ir.save_json(module)), module)
print("same")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "same", done.stderr


def make(*words: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    """Runs make as a user would, also when these tests themselves were started by it."""
    alone = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON")}
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True, env=alone)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_has_its_targets():
    words_of = {"test": "-m pytest", "demo": "-m benchmarks.demo", "lint": "-m ruff check", "venv": "-m venv"}
    for target, words in words_of.items():
        done = make("-B", "-n", target)
        assert done.returncode == 0 and words in done.stdout, done.stderr
        assert done.stdout.index("torch") < done.stdout.index("-r requirements.lock")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_refuses_an_old_python(tmp_path):
    (tmp_path / "old").write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.8.1 && exit 0\nexit 1\n')
    (tmp_path / "old").chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    done = make("venv", f"PYTHON={tmp_path / 'old'}", folder=tmp_path)
    assert done.returncode != 0 and "needs Python 3.10 or later" in done.stdout and "3.8.1" in done.stdout
    assert not (tmp_path / ".venv").exists()


def test_ci_calls_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and "make test" in script.read_text()
    assert subprocess.run(["bash", "-n", script]).returncode == 0


def test_licence():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and len(text) > 11000


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    if text:
        doc = ast.get_docstring(ast.parse(text)) or ""
        first = doc.splitlines()[0] if doc else ""
        assert re.search(r"[.:?!]$", first), f"{path}: open with a one-sentence docstring, not {first!r}"
