"""Prepared networks on this machine's GPU: are all logits right, how long do they take, beside PyTorch in fp16?

    python -m benchmarks.cuda cases --json cuda.json            # also: --check, only the logits

Needs numpy, torch with CUDA and apache-tvm-ffi; `python -m benchmarks.cuda_cases` prepares the folder elsewhere.
Engines take turns as CUDA graphs; a time is the least mean of many rounds. peak_share: the time in which this GPU, by
its own measured rate of matrix instructions, could do the multiply-adds, over the time that was taken.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.records import write_records

ROUNDS, WARM = 15, 3
BYTES_UNTIL = 90  # compute capability from which codes of 4 bits are multiplied as bytes


@dataclass(frozen=True)
class Case:
    """One folder: a network in one configuration, compiled for one batch."""

    folder: Path
    facts: dict

    @staticmethod
    def read(folder: Path) -> "Case":
        return Case(folder, json.loads((folder / "case.json").read_text()))

    @property
    def batch(self) -> int:
        return self.facts["batch"]

    def data(self) -> dict[str, np.ndarray]:
        """weights int8, table int32, pictures uint8 [N, H, W, C], logits int32 [N, classes]; N a multiple of batch."""
        with np.load(self.folder / "data.npz", allow_pickle=False) as file:
            return dict(file)


class Compiled:
    """A case's `main` over buffers on the GPU that stay where they are."""

    def __init__(self, case: Case, device: str = "cuda"):
        self.data = case.data()
        to = lambda array: torch.tensor(array.reshape(-1), device=device)  # noqa: E731
        self.pictures = to(self.data["pictures"][:case.batch])
        self.logits = torch.zeros(case.batch * self.data["logits"].shape[1], dtype=torch.int32, device=device)
        workspace = torch.zeros(case.facts["workspace"], dtype=torch.uint8, device=device)
        self.arguments = (self.pictures, to(self.data["weights"]), to(self.data["table"]), workspace, self.logits)
        self.main = load(case.folder / "main.so")

    def __call__(self) -> None:
        self.main(*self.arguments)

    def differing(self) -> int:
        """Logits of the golden pictures that are not what they must be."""
        batch, wrong = len(self.pictures) * len(self.data["pictures"]) // self.data["pictures"].size, 0
        for i in range(0, len(self.data["pictures"]), batch):
            self.pictures.copy_(torch.from_numpy(self.data["pictures"][i:i + batch].reshape(-1)))
            self()
            expected = self.data["logits"][i:i + batch].reshape(-1)
            wrong += int((self.logits.cpu().numpy() != expected).sum())
        return wrong


def load(library: Path) -> Callable:
    """`main`, launching on torch's current stream."""
    import tvm_ffi

    main = tvm_ffi.load_module(str(library.absolute()))["main"]

    def on_stream(*tensors) -> None:
        with tvm_ffi.use_torch_stream():
            main(*tensors)

    return on_stream


class Peer(nn.Module):
    """The same network in floating point, from the layers of case.json; weights are random."""

    def __init__(self, layers: list[dict]):
        super().__init__()
        self.layers = layers
        self.convs = nn.ModuleDict({
            str(i): nn.Conv2d(d["in_channels"], d["channels"], d["kernel"], d["stride"], groups=d["groups"])
            for i, d in enumerate(layers) if d["op"] == "Conv"
        })

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {}
        for i, layer in enumerate(self.layers):
            inputs = [values.get(name, x) for name in layer["inputs"]]
            values[layer["output"]] = self._layer(i, layer, *inputs)
        return values[self.layers[-1]["output"]].flatten(1)

    def _layer(self, i: int, layer: dict, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        if layer["op"] == "Conv":
            y = self.convs[str(i)](_padded(x, layer["padding"]))
            y = y if other is None else y + other
            return F.relu(y) if layer["relu"] else y
        if layer["op"] == "Add":
            return F.relu(x + other)
        if layer["op"] == "AvgPool":
            return F.avg_pool2d(x, layer["kernel"], layer["stride"])
        if layer["op"] == "MaxPool":
            return F.max_pool2d(_padded(x, layer["padding"], float("-inf")), layer["kernel"], layer["stride"])
        if layer["op"] == "Shortcut":
            after = layer["channels"] - layer["before"] - x.shape[1]
            return F.pad(x[:, :, ::layer["stride"], ::layer["stride"]], (0, 0, 0, 0, layer["before"], after))
        raise ValueError(f"{layer['output']}: expected a layer that a peer knows, got {layer['op']}")


def _padded(x: torch.Tensor, padding: list[int], value: float = 0.0) -> torch.Tensor:
    top, left, bottom, right = padding
    return F.pad(x, (left, right, top, bottom), value=value) if any(padding) else x


def graph_of(call: Callable[[], object]) -> Callable[[], None]:
    """The call as a CUDA graph: a replay costs one launch."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.inference_mode():
        for _ in range(WARM):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        call()
    return graph.replay


def gpu_ms(call: Callable[[], None], repeat: int) -> float:
    """Mean milliseconds of a call, by the GPU's own clock."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeat):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / repeat


def least(calls: dict[str, Callable[[], None]], timer: Callable[[Callable, int], float] = gpu_ms,
          rounds: int = ROUNDS) -> dict[str, float]:
    """Least mean milliseconds of each call; they take turns, each round about 10 ms of every one."""
    repeat = {name: max(1, min(1000, int(10 / max(timer(call, 3), 1e-3)))) for name, call in calls.items()}
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timer(call, repeat[name]))
    return {name: min(found) for name, found in times.items()}


def peers(case: Case, shape: tuple[int, ...]) -> dict[str, Callable[[], None]]:
    """fp16, channels last: eager and compiled, both as CUDA graphs."""
    network = Peer(case.facts["layers"]).half().cuda().eval().to(memory_format=torch.channels_last)
    x = torch.rand((case.batch, shape[2], *shape[:2]), device="cuda", dtype=torch.float16)
    x = x.to(memory_format=torch.channels_last)
    found = {"torch fp16": graph_of(lambda: network(x))}
    try:
        compiled = torch.compile(network, mode="max-autotune-no-cudagraphs")
        found["torch fp16 compiled"] = graph_of(lambda: compiled(x))
    except RuntimeError as error:
        print(f"torch.compile: left out, {str(error).splitlines()[0]}", file=sys.stderr)
    return found


def peak_share(work: dict[str, int], ms: float, peaks: dict[str, float], capability: int) -> float | None:
    """work: multiply-adds by container; peaks: multiply-adds a millisecond by container. None where none is known."""
    rate = {c: peaks.get("8" if capability >= BYTES_UNTIL else c) for c in work}
    if any(work[c] and not rate[c] for c in work):
        return None
    return sum(work[c] / rate[c] for c in work if work[c]) / ms


def measured_peaks(folder: Path) -> dict[str, float]:
    """Multiply-adds a millisecond by container, of the prepared kernels that do nothing else."""
    found = {}
    for path in sorted(folder.glob("peak-*/case.json")):
        facts = json.loads(path.read_text())
        main = load(path.parent / "main.so")
        make = lambda n, dtype: torch.zeros(n, dtype=dtype, device="cuda")  # noqa: E731
        arguments = (make(16, torch.uint8), make(64, torch.int8), make(16, torch.int32), make(64, torch.uint8),
                     make(facts["outputs"], torch.int32))
        ms = least({"peak": lambda run=main, a=arguments: run(*a)})["peak"]
        found[facts["bits"]] = facts["macs"] / ms
    return found


def record(case: Case, engine: str, bits: str, gpu: str, ms: float, exact: bool | None, share: float | None) -> dict:
    return {"network": case.facts["network"], "engine": engine, "bits": bits, "batch": case.batch, "gpu": gpu, "ms": ms,
            "exact": exact, "peak_share": share}


def bench(case: Case, gpu: str, capability: int, peaks: dict[str, float]) -> list[dict]:
    """Records of ours and of the peers."""
    ours = Compiled(case)
    exact = ours.differing() == 0
    calls = {"bitgrade": graph_of(ours), **peers(case, ours.data["pictures"].shape[1:])}
    times = least(calls)
    share = peak_share(case.facts["macs"], times["bitgrade"], peaks, capability)
    return [record(case, "bitgrade", case.facts["bits"], gpu, times.pop("bitgrade"), exact, share),
            *(record(case, name, "fp16", gpu, ms, None, None) for name, ms in times.items())]


def cases(folder: Path) -> list[Case]:
    """Every network under a folder; raises ValueError where there is none."""
    found = [Case.read(p.parent) for p in sorted(folder.glob("*/case.json")) if not p.parent.name.startswith("peak-")]
    if not found:
        raise ValueError(f"{folder}: expected prepared networks, found none; make some with "
                         "`python -m benchmarks.cuda_cases`")
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path, help="folder of benchmarks.cuda_cases")
    parser.add_argument("--check", action="store_true", help="compare the logits, measure nothing")
    parser.add_argument("--json", type=Path, help="write the records there too")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("error: expected an NVIDIA GPU and torch with CUDA, got none", file=sys.stderr)
        return 2
    try:
        found, wrong = cases(args.cases), 0
        if args.check:
            for case in found:
                differing = Compiled(case).differing()
                wrong += differing
                print(f"{case.folder.name}: {differing} logits differ")
            return 1 if wrong else 0
        major, minor = torch.cuda.get_device_capability()
        peaks, records = measured_peaks(args.cases), []
        for case in found:
            records += bench(case, torch.cuda.get_device_name(), 10 * major + minor, peaks)
            for r in records[-3:]:
                print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in r.items()))
        if args.json:
            write_records(args.json, records)
        return 0 if all(r["exact"] is not False for r in records) else 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
