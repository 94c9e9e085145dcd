"""The benchmark for GPUs: what can be shown of it without one."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

tvm = pytest.importorskip("tvm")
torch = pytest.importorskip("torch")

from benchmarks.cuda import cases as cuda_cases
from benchmarks.cuda import checks as cuda_checks
from benchmarks.cuda import everything as cuda
from benchmarks.cuda import times as cuda_times
from targets import find
from targets.cuda import routes, toolchain
from targets.cuda.emulation import host
from tests.support.graphs import OPS, pictures, random_graph, resnet_like

BATCH, GOLDEN = 2, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prepared without nvcc: a small network for two pictures, and one peak."""
    root, target = tmp_path_factory.mktemp("cases"), find("cuda:sm_87")
    graph = resnet_like(((8, 8), (4, 4)), size=8)
    golden = pictures(graph, GOLDEN, 3)
    logits = cuda_cases.expected(graph, golden)
    cuda_cases.write_case(root, "small", "mixed", graph, target, BATCH, golden, logits, source_only=True)
    cuda_cases.write_peak(root, 4, target, source_only=True)
    return root


def emulated(library, tensors):
    """Stands for the GPU: `main` over torch tensors of this machine."""
    runner = host.Runner(library.with_suffix(".cu"))
    x, weights, table, workspace, logits = (t.numpy() for t in tensors)

    def main():
        logits[:] = runner(x, weights, table, workspace.size, logits.size)

    return main


@pytest.fixture(scope="module")
def ours(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_checks, "bind", emulated)
        yield cuda_checks.Compiled(*cuda.cases(cuda.folders(folder)), device="cpu")


def test_a_prepared_network_gives_its_golden_logits(ours, monkeypatch):
    """Five pictures by two: the last batch is not full."""
    assert ours.differing() == 0 and ours.differing(most=3) == 0
    wrong = np.array(ours.expected)
    wrong[3, 1] += 1
    wrong[4] += 1
    monkeypatch.setattr(ours, "expected", wrong)
    assert ours.differing() == 2 and ours.differing(most=4) == 1


def test_a_call_that_does_nothing_is_seen(ours):
    ours()
    assert ours.differing(lambda: None) == GOLDEN


def test_every_part_of_a_check_is_counted(folder, ours, monkeypatch):
    """Where graphs replay the pictures that they were captured with, only the other pictures show it."""
    (case,) = cuda.cases(cuda.folders(folder))
    monkeypatch.setattr(cuda_checks, "Compiled", lambda case: ours)

    def stuck(call):
        call.put(0)
        call()
        first = call.logits.clone()
        return lambda: call.logits.copy_(first)

    monkeypatch.setattr(cuda_checks, "Captured", stuck)
    assert cuda_checks.case_checks(case) == [
        {"case": "small-mixed-2", "part": "logits", "pictures": GOLDEN, "differing": 0},
        {"case": "small-mixed-2", "part": "CUDA graph", "pictures": GOLDEN, "differing": GOLDEN - BATCH},
    ]


def test_equal_arrays_are_written_once(tmp_path):
    names = [
        cuda_cases.write_array(tmp_path, np.full(shape, 7, dtype))
        for shape, dtype in (((4,), np.int8), ((4,), np.int8), ((2, 2), np.int8), ((4,), np.uint8))
    ]
    assert names[0] == names[1] and len(set(names)) == 3 == len(list(tmp_path.iterdir()))
    assert np.load(tmp_path / names[2]).shape == (2, 2)


def test_golden_pictures_by_shape(tmp_path):
    picture = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
    np.save(tmp_path / "noise.npy", picture)
    for name in ("b.png", "a.png", "c.png"):
        Image.fromarray(picture).save(tmp_path / name)
    golden = cuda_cases.Pictures(pictures=tmp_path, count=2)
    assert golden.of((12, 10, 3)).shape == (2, 12, 10, 3)
    np.testing.assert_array_equal(golden.of((6, 5, 3))[0], picture)
    assert golden.of((32, 32, 3)).shape == (cuda_cases.GOLDEN, 32, 32, 3)
    with pytest.raises(ValueError, match="expected pictures .*found none"):
        cuda_cases.Pictures(pictures=tmp_path / "absent").of((8, 8, 3))


def test_only_known_networks_and_archs(tmp_path, capsys):
    assert cuda_cases.main([str(tmp_path), "--networks", "resnet9", "--source-only"]) == 2
    assert "expected networks among resnet8" in capsys.readouterr().err
    assert cuda_cases.main([str(tmp_path), "--archs", "75"]) == 2
    assert "expected compute capabilities among 80" in capsys.readouterr().err
    assert cuda_cases._target(["90", "86"]).archs == (86, 90)


def test_multiply_adds_are_counted_by_container(folder):
    (case,) = cuda.cases(cuda.folders(folder))
    layers = [d for d in case.facts["layers"] if d["op"] == "Conv"]
    assert set(case.facts["macs"]) == {"8", "4"} and min(case.facts["macs"].values()) > 0
    assert sum(case.facts["macs"].values()) == 2 * sum(_work(d, case.facts["layers"]) for d in layers)


def _work(layer, layers) -> int:
    outputs = {"conv1": 64, "layer1": 64, "layer2": 16, "layer3": 4, "logits": 1}
    area = outputs[layer["output"].split(":")[0].split(".")[0]]
    return area * layer["channels"] * layer["in_channels"] * layer["kernel"][0] * layer["kernel"][1]


@pytest.mark.parametrize("seed", range(2))
def test_the_peer_is_the_same_network(seed):
    """Every operator: the float network has the shapes of ours all the way to the logits."""
    graph = random_graph(seed, ops=OPS, size=(13, 12))
    peer = cuda_times.Peer(json.loads(json.dumps(cuda_cases.layers(graph))))
    logits = peer(torch.rand(2, 3, 13, 12))
    assert logits.shape == (2, graph.tensors[graph.output].shape[2])


def test_engines_take_turns_and_the_least_time_counts():
    ms, order = {"a": iter([9, 0.5, 3, 1, 2]), "b": iter([90, 20.0, 9, 8, 7])}, []

    def timer(call, repeat):
        order.append((call(), repeat))
        return next(ms[call()])

    assert cuda_times.least({"a": lambda: "a", "b": lambda: "b"}, timer, rounds=3) == {"a": 1, "b": 7}
    assert order == [*[("a", 3), ("b", 3)] * 2, *[("a", 20), ("b", 1)] * 3]


def test_share_of_the_peak():
    peaks = {"8": 100.0, "4": 200.0}
    assert cuda_times.peak_share({"8": 100, "4": 200}, 4.0, peaks, 87) == 0.5
    assert cuda_times.peak_share({"8": 100, "4": 200}, 6.0, peaks, 90) == 0.5  # bytes: three units of time
    assert cuda_times.peak_share({"8": 100, "4": 0}, 4.0, {"8": 100.0}, 87) == 0.25
    assert cuda_times.peak_share({"8": 100, "4": 1}, 4.0, {"8": 100.0}, 87) is None


def test_records_say_who_and_how_fast(folder):
    (case,) = cuda.cases(cuda.folders(folder))
    assert cuda_times.record(case, "bitgrade", "mixed", "GPU", 0.5, 0.25) == {
        "network": "small",
        "engine": "bitgrade",
        "bits": "mixed",
        "batch": 2,
        "gpu": "GPU",
        "ms": 0.5,
        "exact": None,
        "peak_share": 0.25,
    }


def test_the_peak_multiplies_as_often_as_it_says(folder, tmp_path, monkeypatch):
    """Few blocks and turns of it, counted in the emulator by ones times ones."""
    for name, value in (("PEAK_BLOCKS", 1), ("PEAK_WARPS", 1), ("PEAK_TURNS", 3), ("PEAK_CHAINS", 1)):
        monkeypatch.setattr(cuda_cases, name, value)
    source = tmp_path / "peak.cu"
    source.write_text(toolchain.source(cuda_cases.peak_module(routes.Route(4, 4)), find("cuda:sm_87")))
    ones = np.full(16, 0x01010101, np.int32)  # as nibbles 0 and 1, joined from pairs of bytes to 1 and 1
    got = host.Runner(source)(np.zeros(16, np.uint8), np.zeros(64, np.int8), ones, 64, 32)
    assert set(got.tolist()) == {0}  # four equal sums: exclusive or
    facts = json.loads((folder / "peak-4" / "case.json").read_text())
    assert facts["macs"] % (16 * 8 * 64) == 0 and facts["bits"] == "4"


def job(tmp_path, code: str, result: bool = True) -> cuda.Job:
    """A process that runs this Python code, where `out` is the file to leave."""
    path = tmp_path / "job.json"
    command = (sys.executable, "-c", f"out = {str(path)!r}\nimport sys, time\n{code}")
    return cuda.Job("checks", "job", command, path if result else None)


@pytest.mark.parametrize(
    "code, result, expected",
    [
        ("open(out, 'w').write('[{\"differing\": 0}]')", True, None),
        ("open(out, 'w').write('[{\"differing\": 2}]'); sys.exit(1)", True, None),
        ("open(out, 'w').write('[{\"differing\": 0}]'); sys.exit(1)", True, "exit code 1: said nothing"),
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
    outcome = cuda.run(job(tmp_path, code, result), seconds=5)
    assert outcome.failure is None if expected is None else outcome.failure.startswith(expected)
    assert cuda.wrong([outcome]) == (expected is not None or "2}" in code)


def test_a_command_that_is_not_there_is_told(tmp_path):
    assert "No such file" in cuda.run(cuda.Job("sanitizer", "memcheck", (str(tmp_path / "absent"),))).failure


def test_jobs_of_a_folder(folder, tmp_path):
    found = cuda.folders(folder)
    assert [j.name for j in cuda.check_jobs(found, tmp_path)] == ["checks-small-mixed-2"]
    (times,) = cuda.time_jobs(found, tmp_path)
    assert times.name == "times-small-2" and times.command[2:] == (
        "benchmarks.cuda.times",
        str(folder / "small-mixed-2"),
        "--json",
        str(tmp_path / "times-small-2.json"),
    )
    jobs = cuda.sanitizer_jobs(found, "/opt/compute-sanitizer")
    assert [j.name.partition("-")[0] for j in jobs] == list(cuda.TOOLS)
    assert jobs[0].command[:3] == ("/opt/compute-sanitizer", "--tool", "memcheck")
    assert dict(jobs[0].environment) == {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def test_times_are_of_one_network_and_batch(folder):
    assert len(cuda_times.one_kind([folder / "small-mixed-2"])) == 1
    with pytest.raises(ValueError, match="expected one network for one batch, each configuration once"):
        cuda_times.one_kind([folder / "small-mixed-2"] * 2)


def test_a_report_joins_times_and_checks(folder, tmp_path):
    found = cuda.folders(folder)
    known = cuda.cases(found)
    (check,), (times,) = cuda.check_jobs(found, tmp_path), cuda.time_jobs(found, tmp_path)
    records = [
        cuda_times.record(known[0], "bitgrade", "mixed", "GPU", 0.5, 0.25),
        cuda_times.record(known[0], "torch fp16", "fp16", "GPU", 1.0, None),
    ]
    counts = [
        {"case": "small-mixed-2", "part": part, "pictures": GOLDEN, "differing": 0} for part in ("logits", "CUDA graph")
    ]
    memcheck = replace(check, part="sanitizer", name="memcheck")
    outcomes = [
        cuda.Outcome(check, counts, None),
        cuda.Outcome(times, records, None),
        cuda.Outcome(memcheck, [], "exit code 9: 1 error"),
    ]
    text = cuda.report(outcomes, known, ["a remark"], tmp_path)
    written = json.loads((tmp_path / "cuda.json").read_text())
    assert written == [{**records[0], "exact": True}, records[1]]
    assert (tmp_path / "cuda.md").read_text() == text + "\n"
    assert "* a remark\n* memcheck: **exit code 9: 1 error**" in text
    assert "| small-mixed-2 | CUDA graph | 5 | 0 |" in text and "| memcheck | exit code 9: 1 error |" in text
    assert "| small | 2 | bitgrade | mixed | 0.5000 | 25.0% | yes |" in text
    assert not cuda.wrong(outcomes[:2]) and cuda.wrong(outcomes)
    counts[1]["differing"] = 1
    assert cuda.records(outcomes, known)[0]["exact"] is False and cuda.wrong(outcomes[:2])
    assert cuda.records(outcomes[1:], known)[0]["exact"] is None  # nobody looked


def test_one_failure_hides_nothing(folder, tmp_path, monkeypatch, capsys):
    """The whole way, the GPU's processes replaced by others: every part runs, and what failed is in the report."""
    codes = {
        "checks": "import json; json.dump([{'case': 'small-mixed-2', 'part': 'logits', 'pictures': 5, "
        "'differing': 1}], open(out, 'w')); sys.exit(1)",
        "sanitizer": "sys.exit(9)",
        "times": "raise RuntimeError('out of memory')",
    }
    real, ran = cuda.run, []

    def run(asked):
        ran.append(asked.part)
        path = asked.result or tmp_path / "none"
        command = (sys.executable, "-c", f"out = {str(path)!r}\nimport sys\n{codes[asked.part]}")
        return real(replace(asked, command=command))

    monkeypatch.setattr(cuda, "run", run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "find_sanitizer", lambda: "compute-sanitizer")
    out = tmp_path / "results"
    assert cuda.main([str(folder), "--out", str(out)]) == 1
    assert ran == ["checks", *["sanitizer"] * len(cuda.TOOLS), "times"]
    said = capsys.readouterr().out
    assert "times-small-2: **exit code 1: RuntimeError: out of memory**" in said and "| 5 | 1 |" in said
    monkeypatch.setattr(cuda, "find_sanitizer", lambda: None)
    ran.clear()
    assert cuda.main([str(folder), "--out", str(out), "--resume"]) == 1
    assert ran == ["times"]  # the checks' result is there
    assert "compute-sanitizer: not found, nothing ran under it" in (out / "cuda.md").read_text()


def test_arguments_that_nobody_takes(tmp_path):
    for words in (["--only", "check"], ["--archs", "90"]):
        with pytest.raises(SystemExit):
            cuda.arguments([str(tmp_path), "--out", "o", *words])
    assert cuda.arguments([str(tmp_path), "--out", "o", "--build", "--archs", "90"])[1] == ["--archs", "90"]


def test_without_a_gpu_it_says_so(folder, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert cuda.main([str(folder), "--out", str(folder / "out")]) == 2
    assert "expected an NVIDIA GPU" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected prepared networks .*found none"):
        cuda.folders(folder / "peak-4")
