"""The benchmark for GPUs: what can be shown of it without one."""

import json
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image

tvm = pytest.importorskip("tvm")
torch = pytest.importorskip("torch")

from benchmarks.cuda import cases as cuda_cases
from benchmarks.cuda import checks as cuda_checks
from benchmarks.cuda import everything, golden, jobs, peak
from benchmarks.cuda import times as cuda_times
from benchmarks.cuda.case import Case, FloatLayer, find_networks, read_cases
from benchmarks.cuda.peer import FloatPeer
from benchmarks.cuda.records import CheckRecord, TimeRecord
from benchmarks.cuda.results import join_records, write_results
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
    x = pictures(graph, GOLDEN, 3)
    network = cuda_cases.PreparedNetwork("small", "mixed", graph, x, golden.expected_logits(graph, x))
    cuda_cases.write_case(root, network, target, BATCH, source_only=True)
    peak.write_peak(root, 4, target, source_only=True)
    return root


@pytest.fixture(scope="module")
def case(folder) -> Case:
    (case,) = read_cases(find_networks(folder))
    return case


def emulated(library, tensors):
    """Stands for the GPU: `main` over torch tensors of this machine."""
    runner = host.Runner(library.with_suffix(".cu"))
    x, weights, table, workspace, logits = (t.numpy() for t in tensors)

    def main():
        logits[:] = runner(x, weights, table, workspace.size, logits.size)

    return main


@pytest.fixture(scope="module")
def ours(case):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_checks, "bind", emulated)
        yield cuda_checks.Compiled(case, device="cpu")


def test_a_prepared_network_gives_its_golden_logits(ours, monkeypatch):
    """Five pictures by two: the last batch is not full."""
    assert ours.count_differing() == 0 and ours.count_differing(most=3) == 0
    wrong = np.array(ours.expected)
    wrong[3, 1] += 1
    wrong[4] += 1
    monkeypatch.setattr(ours, "expected", wrong)
    assert ours.count_differing() == 2 and ours.count_differing(most=4) == 1


def test_a_call_that_does_nothing_is_seen(ours):
    ours()
    assert ours.count_differing(lambda: None) == GOLDEN


def test_every_part_of_a_check_is_counted(case, ours, monkeypatch):
    """Where graphs replay the pictures that they were captured with, only the other pictures show it."""
    monkeypatch.setattr(cuda_checks, "Compiled", lambda case: ours)

    def stuck(call):
        call.put_pictures(0)
        call()
        first = call.logits.clone()
        return lambda: call.logits.copy_(first)

    monkeypatch.setattr(cuda_checks, "Captured", stuck)
    assert cuda_checks.check_case(case) == [
        CheckRecord("small-mixed-2", "logits", GOLDEN, 0),
        CheckRecord("small-mixed-2", "CUDA graph", GOLDEN, GOLDEN - BATCH),
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
    some = golden.GoldenPictures(folder=tmp_path, count=2)
    assert some.of_shape((12, 10, 3)).shape == (2, 12, 10, 3)
    np.testing.assert_array_equal(some.of_shape((6, 5, 3))[0], picture)
    assert some.of_shape((32, 32, 3)).shape == (golden.NOISY, 32, 32, 3)
    with pytest.raises(ValueError, match="expected pictures .*found none"):
        golden.GoldenPictures(folder=tmp_path / "absent").of_shape((8, 8, 3))


def test_only_known_networks_and_archs(tmp_path, capsys):
    assert cuda_cases.main([str(tmp_path), "--networks", "resnet9", "--source-only"]) == 2
    assert "expected networks among resnet8" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cuda_cases.main([str(tmp_path), "--archs", "75"])
    assert "expected compute capabilities among 80" in capsys.readouterr().err
    assert cuda_cases.make_target(["90", "86"]).archs == (86, 90)


def test_multiply_adds_are_counted_by_container(case):
    assert set(case.macs) == {"8", "4"} and min(case.macs.values()) > 0
    assert case.work == 2 * sum(work_of(layer) for layer in case.layers if layer.op == "Conv")


def work_of(layer: FloatLayer) -> int:
    outputs = {"conv1": 64, "layer1": 64, "layer2": 16, "layer3": 4, "logits": 1}
    area = outputs[layer.output.split(":")[0].split(".")[0]]
    return area * layer.channels * layer.in_channels * layer.kernel[0] * layer.kernel[1]


@pytest.mark.parametrize("seed", range(2))
def test_the_peer_is_the_same_network(seed):
    """Every operator: the float network has the shapes of ours all the way to the logits."""
    graph = random_graph(seed, ops=OPS, size=(13, 12))
    logits = FloatPeer(cuda_cases.float_layers(graph))(torch.rand(2, 3, 13, 12))
    assert logits.shape == (2, graph.tensors[graph.output].shape[2])


def test_engines_take_turns_and_the_least_time_counts():
    ms, order = {"a": iter([9, 0.5, 3, 1, 2]), "b": iter([90, 20.0, 9, 8, 7])}, []

    def timer(call, repeat):
        order.append((call(), repeat))
        return next(ms[call()])

    assert cuda_times.least_times({"a": lambda: "a", "b": lambda: "b"}, timer, rounds=3) == {"a": 1, "b": 7}
    assert order == [*[("a", 3), ("b", 3)] * 2, *[("a", 20), ("b", 1)] * 3]


def test_share_of_the_peak():
    peaks = {"8": 100.0, "4": 200.0}
    assert cuda_times.Gpu("", 87, peaks).peak_share({"8": 100, "4": 200}, 4.0) == 0.5
    assert cuda_times.Gpu("", 90, peaks).peak_share({"8": 100, "4": 200}, 6.0) == 0.5  # bytes: three units of time
    assert cuda_times.Gpu("", 87, {"8": 100.0}).peak_share({"8": 100, "4": 0}, 4.0) == 0.25
    assert cuda_times.Gpu("", 87, {"8": 100.0}).peak_share({"8": 100, "4": 1}, 4.0) is None


def test_records_say_who_and_how_fast(case):
    gpu = cuda_times.Gpu("GPU", 90, {})
    own, other = cuda_times._records([case], gpu, {"mixed": 0.5, "torch fp16": 1.0})
    assert asdict(own) == {
        "network": "small",
        "engine": "bitgrade",
        "bits": "mixed",
        "batch": 2,
        "gpu": "GPU",
        "ms": 0.5,
        "exact": None,
        "peak_share": None,
    }
    assert (other.engine, other.bits, other.ms) == ("torch fp16", "fp16", 1.0)


def test_the_peak_multiplies_as_often_as_it_says(folder, tmp_path, monkeypatch):
    """Few blocks and turns of it, counted in the emulator by ones times ones."""
    for name, value in (("BLOCKS", 1), ("WARPS", 1), ("TURNS", 3), ("CHAINS", 1)):
        monkeypatch.setattr(peak, name, value)
    source = tmp_path / "peak.cu"
    source.write_text(toolchain.source(peak.make_peak_module(routes.Route(4, 4)), find("cuda:sm_87")))
    ones = np.full(16, 0x01010101, np.int32)  # as nibbles 0 and 1, joined from pairs of bytes to 1 and 1
    got = host.Runner(source)(np.zeros(16, np.uint8), np.zeros(64, np.int8), ones, 64, 32)
    assert set(got.tolist()) == {0}  # four equal sums: exclusive or
    facts = json.loads((folder / "peak-4" / "case.json").read_text())
    assert facts["macs"] % (16 * 8 * 64) == 0 and facts["bits"] == "4"


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


def test_jobs_of_a_folder(folder, tmp_path):
    networks = find_networks(folder)
    assert [j.name for j in jobs.check_jobs(networks, tmp_path)] == ["checks-small-mixed-2"]
    (times,) = jobs.time_jobs(networks, tmp_path)
    assert times.name == "times-small-2" and times.command[2:] == (
        "benchmarks.cuda.times",
        str(folder / "small-mixed-2"),
        "--json",
        str(tmp_path / "times-small-2.json"),
    )
    watched = jobs.sanitizer_jobs(networks, "/opt/compute-sanitizer")
    assert [j.name.partition("-")[0] for j in watched] == list(jobs.TOOLS)
    assert watched[0].command[:3] == ("/opt/compute-sanitizer", "--tool", "memcheck")
    assert dict(watched[0].environment) == {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def test_times_are_of_one_network_and_batch(folder):
    assert len(cuda_times.read_one_network([folder / "small-mixed-2"])) == 1
    with pytest.raises(ValueError, match="expected one network for one batch, each configuration once"):
        cuda_times.read_one_network([folder / "small-mixed-2"] * 2)


def test_a_report_joins_times_and_checks(folder, case, tmp_path):
    networks = find_networks(folder)
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
    text = write_results(results, [case], ["a remark"], tmp_path)
    written = json.loads((tmp_path / "cuda.json").read_text())
    assert written == [{**asdict(own), "exact": True}, asdict(peer)]
    assert (tmp_path / "cuda.md").read_text() == text + "\n"
    assert "* a remark\n* memcheck: **exit code 9: 1 error**" in text
    assert "| small-mixed-2 | CUDA graph | 5 | 0 |" in text and "| memcheck | exit code 9: 1 error |" in text
    assert "| small | 2 | bitgrade | mixed | 0.5000 | 25.0% | yes |" in text
    assert [result.is_wrong for result in results] == [False, False, True]
    results[0] = replace(results[0], records=(counts[0], replace(counts[1], differing=1)))
    assert join_records(results, [case])[0].exact is False and results[0].is_wrong
    assert join_records(results[1:], [case])[0].exact is None  # nobody looked


def test_one_failure_hides_nothing(folder, tmp_path, monkeypatch, capsys):
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
    assert everything.main([str(folder), "--out", str(out)]) == 1
    assert ran == ["checks", *["sanitizer"] * len(jobs.TOOLS), "times"]
    said = capsys.readouterr().out
    assert "times-small-2: **exit code 1: RuntimeError: out of memory**" in said and "| 5 | 1 |" in said
    monkeypatch.setattr(everything, "find_sanitizer", lambda: None)
    ran.clear()
    assert everything.main([str(folder), "--out", str(out), "--resume"]) == 1
    assert ran == ["times"]  # the checks' result is there
    assert "compute-sanitizer: not found, nothing ran under it" in (out / "cuda.md").read_text()


def test_arguments_that_nobody_takes(tmp_path):
    for words in (["--only", "check"], ["--archs", "90"]):
        with pytest.raises(SystemExit):
            everything.parse([str(tmp_path), "--out", "o", *words])
    settings = everything.parse([str(tmp_path), "--out", "o", "--build", "--archs", "90"])
    assert settings.case_arguments == ("--archs", "90")


def test_without_a_gpu_it_says_so(folder, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert everything.main([str(folder), "--out", str(folder / "out")]) == 2
    assert "expected an NVIDIA GPU" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected prepared networks .*found none"):
        find_networks(folder / "peak-4")
