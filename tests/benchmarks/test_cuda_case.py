"""Running prepared networks' processes: what a machine must have, how jobs end, what they leave; nvcc where it is."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

tvm = pytest.importorskip("tvm")

from benchmarks.cuda import nvcc, peak
from benchmarks.cuda.case import Case, find_networks
from benchmarks.cuda.cases import PreparedNetwork, make_target, write_case
from benchmarks.cuda.golden import expected_logits
from benchmarks.cuda.jobs import TOOLS, Job, describe_failure, run_job, sanitizer_jobs
from benchmarks.cuda.records import TimeRecord
from targets import TargetError, find
from targets.cuda import toolchain
from tests.support.graphs import pictures, resnet_like

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def job(tmp_path, code: str) -> Job:
    """A process that runs this Python code, where `out` is the file to leave."""
    path = tmp_path / "job.json"
    whole = f"out = {str(path)!r}\nimport subprocess, sys, time\n{code}"
    return Job("times", "job", (sys.executable, "-c", whole), path)


RECORD = TimeRecord("small", "bitgrade", "w8a8", 1, "GPU", 1.0)
LEAVES = f"open(out, 'w').write({json.dumps([asdict(RECORD)])!r})"
CHILD = "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)']); print(c.pid, flush=True)"


@pytest.mark.parametrize("rest, failure", [("", None), ("time.sleep(100)", "no end after 3 s")])
def test_what_a_job_started_ends_with_it(tmp_path, rest, failure, capfd):
    """A child that holds the output open, as a compiler's worker or a program under compute-sanitizer does."""
    began = time.perf_counter()
    outcome = run_job(job(tmp_path, f"{LEAVES}\n{CHILD}\n{rest}"), seconds=3)
    assert time.perf_counter() - began < 20
    assert outcome.failure == failure and outcome.records == (RECORD,)  # what was left in time is kept
    child = int(capfd.readouterr().out.splitlines()[1])
    for _ in range(100):  # the system takes it from whoever inherits it
        if not (status := Path(f"/proc/{child}/status")).exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.05)
    pytest.fail("a child goes on")


def test_output_may_be_any_bytes(tmp_path):
    outcome = run_job(job(tmp_path, f"{LEAVES}\nsys.stdout.buffer.write(bytes([255, 10]))"))
    assert outcome.failure is None


@pytest.mark.parametrize(
    "said, told",
    [
        (
            "error: cases/a: CUDA launch: an illegal memory access\nruntime.fields.BundleError: expected cuMemFree_v2",
            "error: cases/a: CUDA launch: an illegal memory access",
        ),
        ("error: no GPU\n========= ERROR SUMMARY: 0 errors", "error: no GPU"),
        (
            "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n",
            "========= RACECHECK SUMMARY: 2 haz",
        ),
        ("ValueError: first\nKeyError: second\nbye", "KeyError: second"),
    ],
)
def test_the_telling_line(tmp_path, said, told):
    assert describe_failure(job(tmp_path, ""), [], 2, said).startswith(f"exit code 2: {told}")


@pytest.mark.parametrize(
    "said, failure",
    [
        ("a: 0 of 2 pictures differ\n========= ERROR SUMMARY: 0 errors", None),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", None),
        ("a: 0 of 2 pictures differ", "compute-sanitizer watched nothing"),
        (
            "========= Target application terminated before first instrumented API call\n"
            "========= ERROR SUMMARY: 0 errors",
            "compute-sanitizer watched nothing",
        ),
    ],
)
def test_a_sanitizer_that_watched_nothing_has_found_nothing(said, failure):
    assert describe_failure(Job("sanitizer", "memcheck-a", ()), [], 0, said) == failure


@pytest.mark.parametrize("module, package", [("torch", "torch"), ("tvm_ffi", "apache-tvm-ffi")])
def test_a_missing_package_is_told(tmp_path, module, package):
    """At once, not by every job."""
    code = f"import sys; sys.modules[{module!r}] = None; from benchmarks.cuda.everything import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "--out", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: expected the packages torch, apache-tvm-ffi")
    assert done.stderr.rstrip().endswith(f"got no {package}")


def test_jobs_compile_no_extension_of_tvm_ffi(tmp_path):
    code = f"import os, json; json.dump(dict(os.environ), open({str(tmp_path / 'environment')!r}, 'w'))"
    run_job(job(tmp_path, code))
    environment = json.loads((tmp_path / "environment").read_text())
    assert environment["TVM_FFI_DISABLE_TORCH_C_DLPACK"] == "1"
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)


@pytest.mark.parametrize("requires, capability", [("sm_90", (8, 9)), ("sm_80", (7, 5)), ("sm_87", (8, 6))])
def test_a_gpu_that_is_too_old_is_told(requires, capability):
    case = Case(Path("a"), "small", "w8a8", 1, "cuda", (requires,), 0, {}, "")
    got = f"{capability[0]}.{capability[1]}"
    with pytest.raises(ValueError, match=f"expected a GPU of .* or later, got {got}.*--archs"):
        case.require(capability)
    case.require((12, 0))
    case.require((9, 0))


def test_every_network_runs_under_memcheck(tmp_path):
    """All tools only where there is least to do: a race costs them a lot of time."""
    for network, work in (("large", 900), ("small", 100)):
        for bits, batch in (("w8a8", 1), ("mixed", 1), ("mixed", 8)):
            folder = tmp_path / f"{network}-{bits}-{batch}"
            folder.mkdir()
            Case(folder, network, bits, batch, "cuda", ("sm_80",), 0, {"8": work * batch, "4": 0}, "").write()
    jobs = sanitizer_jobs(find_networks(tmp_path), "compute-sanitizer")
    assert [j.name for j in jobs] == [
        *(f"{tool}-small-{bits}-1" for bits in ("mixed", "w8a8") for tool in TOOLS),
        "memcheck-large-mixed-1",
    ]
    # torch tries calls of CUDA that a driver may lack, and goes on: those are no objections
    assert [j.name for j in jobs if "--report-api-errors" in j.command] == [
        j.name for j in jobs if j.name.startswith("memcheck")
    ]


REBUILD = """#!/bin/sh
test -n "$NVCC" && "$PYTHON" -c "open('rebuilt', 'w')"
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Without nvcc: a case, a small peak, and what looks like a bundle."""
    root, target = tmp_path_factory.mktemp("cases"), make_target(["87"])
    graph = resnet_like(((4, 4),), size=8)
    golden = pictures(graph, 2, 3)
    network = PreparedNetwork("small", "w4a4", graph, golden, expected_logits(graph, golden))
    write_case(root, network, target, 1, source_only=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TURNS", "CHAINS"):
            patch.setattr(peak, name, 1)
        peak.write_peak(root, 8, target, source_only=True)
    script = root / "bundle" / "lib" / "rebuild.sh"
    script.parent.mkdir(parents=True)
    script.write_text(REBUILD)
    script.chmod(0o755)
    (root / "bundle" / "manifest.json").write_text("{}")
    return root


def test_without_nvcc_it_says_so(prepared, monkeypatch):
    monkeypatch.setattr(nvcc.shutil, "which", lambda name: None)
    monkeypatch.setattr(nvcc, "NVCC", "/nowhere/nvcc")
    monkeypatch.delenv("NVCC", raising=False)
    with pytest.raises(ValueError, match="expected nvcc in .NVCC, PATH or /nowhere/nvcc"):
        nvcc.compile_networks(find_networks(prepared))


def test_a_compiler_that_fails_is_told(prepared, monkeypatch):
    monkeypatch.setenv("NVCC", "false")
    with pytest.raises(ValueError, match="expected `.*` to succeed, got exit code 1"):
        nvcc.compile_networks(find_networks(prepared, "small-*"))


def test_networks_are_compiled_where_they_lie(prepared, monkeypatch):
    """With what the machine that runs them has: the same nvcc words, no TVM."""
    try:
        toolchain.nvcc()
    except TargetError as missing:
        pytest.skip(str(missing))
    monkeypatch.chdir(prepared)
    nvcc.compile_networks(find_networks(Path(".")))
    assert sorted(p.parent.name for p in prepared.glob("*/main.so")) == ["peak-8", "small-w4a4-1"]
    for library in prepared.glob("*/main.so"):
        toolchain.check_library(library, find("cuda"))
    assert (prepared / "rebuilt").exists()
