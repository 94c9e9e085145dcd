"""Prepared networks on this machine's GPU: how long do they take, beside PyTorch in fp16 and the GPU's own peak?

    python -m benchmarks.cuda.times cases/resnet20-w8a8-8 cases/resnet20-w4a4-8 --json times.json

The cases are one network for one batch. Engines take turns as CUDA graphs over the same pictures; a time is the least
mean of many rounds. peak_share: the time in which this GPU, by its own measured rate of matrix instructions, could do
the multiply-adds, over the time that was taken; by mma.sync, which all code here uses, though GPUs from compute
capability 9.0 on have faster instructions too.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.cuda.case import Case
from benchmarks.cuda.checks import ERRORS, Captured, Compiled, bind, buffer
from runtime.files import write_json

ROUNDS = 15
BYTES_FROM = 90  # compute capability from which codes of 4 bits are multiplied as bytes


class Peer(nn.Module):
    """The same network in floating point, from the layers of case.json; weights are random.

    As one would write it in PyTorch: what pads alike on both sides is left to the convolution or the pooling.
    """

    def __init__(self, layers: list[dict]):
        super().__init__()
        self.layers = layers
        self.convs = nn.ModuleDict(
            {
                str(i): nn.Conv2d(d["in_channels"], d["channels"], d["kernel"], d["stride"], groups=d["groups"])
                for i, d in enumerate(layers)
                if d["op"] == "Conv"
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {}
        for i, layer in enumerate(self.layers):
            inputs = [values.get(name, x) for name in layer["inputs"]]
            values[layer["output"]] = self._layer(i, layer, *inputs)
        return values[self.layers[-1]["output"]].flatten(1)

    def _layer(self, i: int, layer: dict, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        if layer["op"] == "Conv":
            conv, (x, padding) = self.convs[str(i)], _padded(x, layer)
            y = F.conv2d(x, conv.weight, conv.bias, layer["stride"], padding, 1, layer["groups"])
            y = y if other is None else y + other
            return F.relu(y) if layer["relu"] else y
        if layer["op"] == "Add":
            return F.relu(x + other)
        if layer["op"] == "AvgPool":
            return F.avg_pool2d(x, layer["kernel"], layer["stride"])
        if layer["op"] == "MaxPool":
            x, padding = _padded(x, layer, float("-inf"))
            return F.max_pool2d(x, layer["kernel"], layer["stride"], padding)
        if layer["op"] == "Shortcut":
            after = layer["channels"] - layer["before"] - x.shape[1]
            return F.pad(x[:, :, :: layer["stride"], :: layer["stride"]], (0, 0, 0, 0, layer["before"], after))
        raise ValueError(f"{layer['output']}: expected a layer that a peer knows, got {layer['op']}")


def _padded(x: torch.Tensor, layer: dict, value: float = 0.0) -> tuple[torch.Tensor, tuple[int, int]]:
    """Input and padding of a layer's operator: a kernel of its own pads only where no even padding has its shape."""
    top, left, bottom, right = layer["padding"]
    even = max(top, bottom), max(left, right)
    sizes = zip(x.shape[2:], layer["kernel"], (top + bottom, left + right), even, strict=True)
    alike = [
        2 * e <= k and (size + both - k) // layer["stride"] == (size + 2 * e - k) // layer["stride"]
        for size, k, both, e in sizes
    ]
    if all(alike):
        return x, even
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def gpu_ms(call: Callable[[], None], repeat: int) -> float:
    """Mean milliseconds of a call, by the GPU's own clock."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeat):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / repeat


def least(
    calls: dict[str, Callable[[], None]], timer: Callable[[Callable, int], float] = gpu_ms, rounds: int = ROUNDS
) -> dict[str, float]:
    """Least mean milliseconds of each call; they take turns, each round about 10 ms of every one."""
    for call in calls.values():
        timer(call, 3)  # the first replay of a graph brings it to the GPU
    repeat = {name: max(1, min(1000, int(10 / max(timer(call, 3), 1e-3)))) for name, call in calls.items()}
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timer(call, repeat[name]))
    return {name: min(found) for name, found in times.items()}


def peer(case: Case, shape: tuple[int, ...]) -> tuple[Peer, torch.Tensor]:
    """fp16, channels last, and pictures for it. shape: [H, W, C] of a picture."""
    network = Peer(case.facts["layers"]).half().cuda().eval().to(memory_format=torch.channels_last)
    x = torch.rand((case.batch, shape[2], *shape[:2]), device="cuda", dtype=torch.float16)
    return network, x.to(memory_format=torch.channels_last)


def compiled_peer(network: Peer, x: torch.Tensor) -> dict[str, Callable[[], None]]:
    """What torch.compile makes of it, as a CUDA graph; nothing where it cannot, which is told."""
    try:
        compiled = torch.compile(network, mode="max-autotune-no-cudagraphs")
        return {"torch fp16 compiled": Captured(lambda: compiled(x))}
    except Exception as error:  # a compiler's errors are of many kinds, and the other engines have their times
        said = str(error).strip().splitlines() or ["said nothing"]
        print(f"torch.compile: left out, {type(error).__name__}: {said[0]}", file=sys.stderr)
        return {}


def containers(capability: int) -> set[str]:
    """Bits of a code inside a GPU's own matrix instructions."""
    return {"8"} if capability >= BYTES_FROM else {"8", "4"}


def peak_share(work: dict[str, int], ms: float, peaks: dict[str, float], capability: int) -> float | None:
    """work: multiply-adds by container; peaks: multiply-adds a millisecond by container. None where none is known."""
    rate = {c: peaks.get(c if c in containers(capability) else "8") for c in work}
    if any(work[c] and not rate[c] for c in work):
        return None
    return sum(work[c] / rate[c] for c in work if work[c]) / ms


def measured_peaks(folder: Path, capability: int) -> dict[str, float]:
    """Multiply-adds a millisecond by container, of the prepared kernels that do nothing else."""
    found, rng = {}, np.random.default_rng(0)
    words = rng.integers(0, 1 << 32, 16, np.uint32).view(np.int32)  # zeros would cost the GPU less power than codes do
    for container in sorted(containers(capability)):
        path = folder / f"peak-{container}"
        if not path.exists():
            continue
        facts = json.loads((path / "case.json").read_text())
        arrays = (
            np.zeros(16, np.uint8),
            np.zeros(64, np.int8),
            words,
            np.zeros(64, np.uint8),
            np.zeros(facts["outputs"], np.int32),
        )
        call = bind(path / "main.so", tuple(buffer(a, "cuda") for a in arrays))
        found[container] = facts["macs"] / least({"peak": call})["peak"]
    return found


def record(case: Case, engine: str, bits: str, gpu: str, ms: float, share: float | None) -> dict:
    """`exact` is for whoever has compared the logits to fill in."""
    return {
        "network": case.facts["network"],
        "engine": engine,
        "bits": bits,
        "batch": case.batch,
        "gpu": gpu,
        "ms": ms,
        "exact": None,
        "peak_share": share,
    }


def bench(cases: list[Case], gpu: str, capability: int, peaks: dict[str, float]) -> Iterator[list[dict]]:
    """Records of ours, one for each case, and of the peers: first without the compiled one, which may take long."""
    ours = {case.facts["bits"]: Compiled(case) for case in cases}
    network, x = peer(cases[0], next(iter(ours.values())).golden.shape[1:])
    calls = {bits: Captured(compiled) for bits, compiled in ours.items()} | {"torch fp16": Captured(lambda: network(x))}

    def records() -> list[dict]:
        found, times = [], least(calls)
        for case in cases:
            ms = times.pop(case.facts["bits"])
            share = peak_share(case.facts["macs"], ms, peaks, capability)
            found.append(record(case, "bitgrade", case.facts["bits"], gpu, ms, share))
        return found + [record(cases[0], name, "fp16", gpu, ms, None) for name, ms in times.items()]

    yield records()
    if compiled := compiled_peer(network, x):
        calls |= compiled
        yield records()


def one_kind(folders: list[Path]) -> list[Case]:
    """The cases; raises ValueError unless they are one network for one batch, each configuration once."""
    cases = [Case.read(folder) for folder in folders]
    kinds = {(case.facts["network"], case.batch) for case in cases}
    if len(kinds) > 1 or len({case.facts["bits"] for case in cases}) < len(cases):
        raise ValueError(
            f"expected one network for one batch, each configuration once, got {[f.name for f in folders]}"
        )
    return cases


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda.times", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="cases of benchmarks.cuda.cases")
    parser.add_argument("--json", type=Path, help="write the records there too")
    args = parser.parse_args(argv)
    try:
        cases = one_kind(args.folders)
        for case in cases:
            case.require(torch.cuda.get_device_capability())
        torch.backends.cudnn.benchmark = True  # the peer picks the fastest of its algorithms
        major, minor = torch.cuda.get_device_capability()
        peaks = measured_peaks(args.folders[0].parent, 10 * major + minor)
        for container, rate in peaks.items():
            print(f"peak of {container}-bit instructions: {2e3 * rate / 1e12:.1f} TOPS")
        for found in bench(cases, torch.cuda.get_device_name(), 10 * major + minor, peaks):
            if args.json:
                write_json(args.json, found)
    except ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for r in found:
        print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in r.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
