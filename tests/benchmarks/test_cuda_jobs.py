"""Jobs of the benchmark for GPUs and what they show, as far as that can be had without a GPU."""

import json
import sys
from dataclasses import asdict, replace

import pytest

tvm = pytest.importorskip("tvm")
torch = pytest.importorskip("torch")

from benchmarks.cuda import everything, jobs
from benchmarks.cuda.case import find_networks
from benchmarks.cuda.records import CheckRecord, TimeRecord
from benchmarks.cuda.results import join_records, write_results
from tests.benchmarks.conftest import GOLDEN

pytestmark = pytest.mark.slow


def leave(differing: int) -> str:
    """Python code that leaves one record of a check in the file `out`."""
    return f"open(out, 'w').write({json.dumps([asdict(CheckRecord('a', 'logits', 5, differing))])!r})"


def job(tmp_path, code: str, result: bool = True) -> jobs.Job:
    """A process that runs this Python code, where `out` is the file to leave."""
    path = tmp_path / "job.json"
    command = (sys.executable, "-c", f"out = {str(path)!r}\nimport sys, time\n{code}")
    return jobs.Job("checks", "job", command, path if result else None)


@pytest.mark.parametrize(
    "code, result, expected",
    [
        (leave(0), True, None),
        (f"{leave(2)}; sys.exit(1)", True, None),
        (f"{leave(0)}; sys.exit(1)", True, "exit code 1: said nothing"),
        ("open(out, 'w').write('[7]')", True, "{out}: expected a list of checks, got other content"),
        ("print('error: no such thing'); print('more'); sys.exit(2)", True, "exit code 2: error: no such thing"),
        (
            "raise RuntimeError('CUDA error: an illegal memory access')",
            True,
            "exit code 1: RuntimeError: CUDA error: an",
        ),
        ("print('all is well')", True, "exit code 0: all is well"),
        ("print('all is well')", False, None),
        ("print('========= ERROR SUMMARY: 3 errors'); sys.exit(9)", False, "exit code 9: ========= ERROR SUMMARY: 3"),
        ("import os; os.kill(os.getpid(), 11)", True, "exit code -11: said nothing"),
        ("time.sleep(60)", True, "no end after 5 s"),
    ],
)
def test_what_a_job_did_is_told(tmp_path, code, result, expected):
    (tmp_path / "job.json").write_text("[1]")  # of an earlier run
    outcome = jobs.run_job(job(tmp_path, code, result), seconds=5)
    if expected is None:
        assert outcome.failure is None
    else:
        assert outcome.failure.startswith(expected.format(out=tmp_path / "job.json"))
    assert outcome.is_wrong == (expected is not None or "2}" in code)


def test_a_command_that_is_not_there_is_told(tmp_path):
    assert "No such file" in jobs.run_job(jobs.Job("sanitizer", "memcheck", (str(tmp_path / "absent"),))).failure


def test_jobs_of_a_folder(cuda_folder, tmp_path):
    networks = find_networks(cuda_folder)
    assert [j.name for j in jobs.check_jobs(networks, tmp_path)] == ["checks-small-mixed-2"]
    (times,) = jobs.time_jobs(networks, tmp_path)
    assert times.name == "times-small-2" and times.command[2:] == (
        "benchmarks.cuda.times",
        str(cuda_folder / "small-mixed-2"),
        "--json",
        str(tmp_path / "times-small-2.json"),
    )
    watched = jobs.sanitizer_jobs(networks, "/opt/compute-sanitizer")
    assert [j.name.partition("-")[0] for j in watched] == list(jobs.TOOLS)
    assert watched[0].command[:3] == ("/opt/compute-sanitizer", "--tool", "memcheck")
    assert dict(watched[0].environment) == {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def test_a_report_joins_times_and_checks(cuda_folder, cuda_case, tmp_path):
    networks = find_networks(cuda_folder)
    (check,), (times,) = jobs.check_jobs(networks, tmp_path), jobs.time_jobs(networks, tmp_path)
    own = TimeRecord("small", "bitgrade", "mixed", 2, "GPU", 0.5, None, 0.25)
    peer = TimeRecord("small", "torch fp16", "fp16", 2, "GPU", 1.0)
    counts = tuple(CheckRecord("small-mixed-2", part, GOLDEN, 0) for part in ("logits", "CUDA graph"))
    memcheck = replace(check, part="sanitizer", name="memcheck")
    results = [
        jobs.JobResult(check, counts, None),
        jobs.JobResult(times, (own, peer), None),
        jobs.JobResult(memcheck, (), "exit code 9: 1 error"),
    ]
    text = write_results(results, [cuda_case], ["a remark"], tmp_path)
    written = json.loads((tmp_path / "cuda.json").read_text())
    assert written == [{**asdict(own), "exact": True}, asdict(peer)]
    assert (tmp_path / "cuda.md").read_text() == text + "\n"
    assert "* a remark\n* memcheck: **exit code 9: 1 error**" in text
    assert "| small-mixed-2 | CUDA graph | 5 | 0 |" in text and "| memcheck | exit code 9: 1 error |" in text
    assert "| small | 2 | bitgrade | mixed | 0.5000 | 25.0% | yes |" in text
    assert [result.is_wrong for result in results] == [False, False, True]
    results[0] = replace(results[0], records=(counts[0], replace(counts[1], differing=1)))
    assert join_records(results, [cuda_case])[0].exact is False and results[0].is_wrong
    assert join_records(results[1:], [cuda_case])[0].exact is None  # nobody looked


def test_one_failure_hides_nothing(cuda_folder, tmp_path, monkeypatch, capsys):
    """The whole way, the GPU's processes replaced by others: every part runs, and what failed is in the report."""
    codes = {
        "checks": f"{leave(1)}; sys.exit(1)",
        "sanitizer": "sys.exit(9)",
        "times": "raise RuntimeError('out of memory')",
    }
    real, ran = everything.run_job, []

    def run(job):
        ran.append(job.part)
        path = job.result or tmp_path / "none"
        command = (sys.executable, "-c", f"out = {str(path)!r}\nimport sys\n{codes[job.part]}")
        return real(replace(job, command=command))

    monkeypatch.setattr(everything, "run_job", run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(everything, "find_sanitizer", lambda: "compute-sanitizer")
    out = tmp_path / "results"
    assert everything.main([str(cuda_folder), "--out", str(out)]) == 1
    assert ran == ["checks", *["sanitizer"] * len(jobs.TOOLS), "times"]
    said = capsys.readouterr().out
    assert "times-small-2: **exit code 1: RuntimeError: out of memory**" in said and "| 5 | 1 |" in said
    monkeypatch.setattr(everything, "find_sanitizer", lambda: None)
    ran.clear()
    assert everything.main([str(cuda_folder), "--out", str(out), "--resume"]) == 1
    assert ran == ["times"]  # the checks' result is there
    assert "compute-sanitizer: not found, nothing ran under it" in (out / "cuda.md").read_text()


def test_arguments_that_nobody_takes(tmp_path):
    for words in (["--only", "check"], ["--archs", "90"]):
        with pytest.raises(SystemExit):
            everything.parse([str(tmp_path), "--out", "o", *words])
    settings = everything.parse([str(tmp_path), "--out", "o", "--build", "--archs", "90"])
    assert settings.case_arguments == ("--archs", "90")


def test_without_a_gpu_it_says_so(cuda_folder, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert everything.main([str(cuda_folder), "--out", str(cuda_folder / "out")]) == 2
    assert "expected an NVIDIA GPU" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected prepared networks .*found none"):
        find_networks(cuda_folder / "peak-4")
