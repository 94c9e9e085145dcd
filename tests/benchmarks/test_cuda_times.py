"""How the benchmark for GPUs times: graphs, peers and peaks, as far as they can be looked at without a GPU."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tvm")

from benchmarks.cuda import checks as cuda_checks
from benchmarks.cuda import peak
from benchmarks.cuda import peer as cuda_peer
from benchmarks.cuda import times as cuda_times
from benchmarks.cuda.case import Case, FloatLayer, PeakCase
from benchmarks.cuda.cases import float_layers
from benchmarks.networks.random_networks import NETWORKS
from targets.cuda.kernels import PROCESSORS


class FakeStream:
    def wait_stream(self, other):
        events.append(f"{self.name} waits for {other.name}")

    def __init__(self, name: str = "side"):
        self.name = name


class FakeGraph:
    def replay(self):
        events.append("replay")


events: list[str] = []


@pytest.fixture
def gpu(monkeypatch):
    """torch.cuda as far as a capture needs it; what happened, in order."""
    current = [FakeStream("current")]

    @contextmanager
    def on(stream):
        current.append(stream)
        yield
        current.pop()

    @contextmanager
    def graph(_):
        events.append("begin")
        with on(FakeStream("capture")):
            yield
        events.append("end")

    fakes = {
        "CUDAGraph": FakeGraph,
        "Stream": FakeStream,
        "current_stream": lambda: current[-1],
        "stream": on,
        "graph": graph,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    events.clear()
    return events


def test_a_call_is_warmed_on_the_side_before_it_is_captured(gpu):
    """Kernels load at their first launch, which a capture would not survive; nor is it one in inference mode."""

    def call():
        assert not torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
        gpu.append(torch.cuda.current_stream().name)

    replay = cuda_checks.Captured(call)
    assert gpu == [
        "side waits for current",
        *["side"] * cuda_checks.WARM,
        "current waits for side",
        "begin",
        "capture",
        "end",
    ]
    replay()
    assert gpu[-1] == "replay" and gpu.count("capture") == 1


def small(network: str, bits: str = "w8a8") -> Case:
    return Case(
        folder=Path(f"{network}-{bits}-2"),
        network=network,
        bits=bits,
        batch=2,
        target="cuda",
        requires=("sm_80",),
        workspace=0,
        macs={"8": 100, "4": 0},
        command="",
        layers=tuple(float_layers(NETWORKS[network].graph("w8a8", 64))),
    )


def test_a_case_is_read_as_it_was_written(tmp_path):
    case = replace(small("mobilenetv2"), folder=tmp_path, arrays={"weights": "array-1.npy"})
    case.write()
    assert Case.read(tmp_path) == case and case.work == 100


@pytest.mark.parametrize("network", ["resnet8", "resnet18", "mobilenetv2"])
def test_the_peer_pads_as_one_would_write_it(network, monkeypatch):
    """By the convolutions themselves: a kernel that pads would make the peer look slow."""
    peer = cuda_peer.FloatPeer(small(network).layers)
    monkeypatch.setattr(cuda_peer.F, "pad", lambda *_, **__: pytest.fail("padded by a kernel of its own"))
    assert peer(torch.rand(2, 3, 64, 64)).shape == (2, NETWORKS[network].classes)


@pytest.mark.parametrize(
    "pads, size, even",
    [
        ([1, 1, 1, 1], 8, (1, 1)),
        ([0, 0, 1, 1], 8, (1, 1)),  # the second: TensorFlow's at stride 2
        ([0, 0, 1, 1], 7, None),
        ([0, 0, 0, 0], 8, (0, 0)),
        ([2, 0, 0, 0], 8, None),
    ],
)
def test_even_padding_only_where_the_shape_stays(pads, size, even):
    x, layer = torch.rand(1, 4, size, size), FloatLayer("MaxPool", "y", ("x",), 4, (2, 2), tuple(pads), kernel=(3, 3))
    padded, left = cuda_peer.pad_unevenly(x, layer)
    top, before, bottom, after = pads
    rows, columns = ((size + both - 3) // 2 + 1 for both in (top + bottom, before + after))
    assert torch.nn.functional.max_pool2d(padded, 3, 2, left).shape == (1, 4, rows, columns)
    assert (left == even and padded is x) if even else (left == (0, 0) and padded is not x)


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("no compiler\nfor you"), ImportError("triton")])
def test_a_peer_that_does_not_compile_is_left_out(error, gpu, monkeypatch, capsys):
    def fails(network, mode):
        raise error

    monkeypatch.setattr(torch, "compile", fails)
    assert cuda_times.compile_peer(lambda x: x, torch.zeros(1)) == {}
    assert f"torch.compile: left out, {type(error).__name__}: " in capsys.readouterr().err


class FakeCompiled:
    """One of our networks: it has pictures, and can be called."""

    def __init__(self, _):
        self.golden = torch.zeros(1, 64, 64, 3)

    def __call__(self):
        pass


def test_the_times_are_kept_before_the_peer_is_compiled(gpu, monkeypatch):
    """Compiling may take longer than anybody waits, and fail in ways that end the process."""
    times = {"w8a8": 2.0, "w4a4": 1.0, "torch fp16": 5.0, "torch fp16 compiled": 4.0}
    monkeypatch.setattr(cuda_times, "Compiled", FakeCompiled)
    monkeypatch.setattr(cuda_times, "make_peer", lambda case, shape: (lambda x: x, torch.zeros(1)))
    monkeypatch.setattr(cuda_times, "least_times", lambda calls: {name: times[name] for name in calls})
    monkeypatch.setattr(torch, "compile", lambda network, mode: pytest.fail("too early"))
    cases = [small("resnet8", bits="w8a8"), small("resnet8", bits="w4a4")]
    rounds = cuda_times.time_engines(cases, cuda_times.Gpu("GPU", 90, {"8": 100.0}))
    assert [(r.bits, r.ms, r.peak_share) for r in next(rounds)] == [
        ("w8a8", 2.0, 0.5),
        ("w4a4", 1.0, 1.0),
        ("fp16", 5.0, None),
    ]
    monkeypatch.setattr(torch, "compile", lambda network, mode: network)
    assert [(r.engine, r.ms) for r in next(rounds)] == [
        ("bitgrade", 2.0),
        ("bitgrade", 1.0),
        ("torch fp16", 5.0),
        ("torch fp16 compiled", 4.0),
    ]
    assert not list(rounds)


@pytest.mark.parametrize("processors", [*sorted(PROCESSORS.values()), 8, 46, 84, 170])
def test_the_peak_keeps_every_processor_busy(processors):
    """Blocks that are left when others have none idle at most a twentieth of a GPU's time."""
    rounds = -(-peak.BLOCKS // processors)
    assert peak.BLOCKS / (rounds * processors) > 0.95


@pytest.mark.parametrize("capability, measured", [(90, ["8"]), (120, ["8"]), (87, ["4", "8"])])
def test_peaks_are_of_instructions_that_the_gpu_has(capability, measured, tmp_path, monkeypatch):
    """Over words of all kinds: with zeros a GPU may clock higher than it ever does at work."""
    for container in ("8", "4"):
        (tmp_path / f"peak-{container}").mkdir()
        PeakCase(tmp_path / f"peak-{container}", container, 100, 64, "nvcc").write()
    words, bound = [], []
    monkeypatch.setattr(cuda_times, "buffer", lambda values, device: values)
    monkeypatch.setattr(cuda_times, "least_times", lambda calls: {"peak": 2.0})

    def bind(library, tensors):
        bound.append(library.parent.name)
        words.append(tensors[2])

    monkeypatch.setattr(cuda_times, "bind", bind)
    assert cuda_times.measure_peaks(tmp_path, capability) == dict.fromkeys(measured, 50.0)
    assert bound == [f"peak-{c}" for c in measured]
    assert all(w.dtype == "int32" and len(set(w.tolist())) == 16 and w.min() < 0 < w.max() for w in words)
