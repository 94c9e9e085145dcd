"""Prepared networks on this machine's GPU: are all logits of every picture those of the integer reference?

    python -m benchmarks.cuda.checks cases/resnet20-w8a8-8 --json checks.json      # or a bundle built for the GPU

Needs numpy, torch with CUDA and apache-tvm-ffi. `python -m benchmarks.cuda` runs this for every folder, each in a
process of its own, since an error of a kernel leaves its process without a GPU.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.cuda.case import Case
from benchmarks.cuda.records import CheckRecord, write_records
from runtime import Engine
from runtime.abi import SLACK
from runtime.terminal import OneLineParser

ERRORS = (ValueError, OSError, RuntimeError, AssertionError, ImportError)  # torch without CUDA: AssertionError
WARM = 3
STALE = 0xA5  # what logits and workspace hold before a call: nothing an earlier call left may matter


class Compiled:
    """A case's `main` over buffers on the GPU that stay where they are."""

    def __init__(self, case: Case, device: str = "cuda"):
        self.batch = case.batch
        self.expected = case.array("logits")
        self.golden = case.array("pictures")
        self.pictures = buffer(np.zeros(self.batch * self.golden[0].size, np.uint8), device)
        self.workspace = buffer(np.zeros(case.workspace, np.uint8), device)
        self.logits = buffer(np.zeros(self.batch * self.expected.shape[1], np.int32), device)
        weights, table = (buffer(case.array(name), device) for name in ("weights", "table"))
        self._call = bind(case.folder / "main.so", (self.pictures, weights, table, self.workspace, self.logits))
        self.put_pictures(0)

    def __call__(self) -> None:
        """Computes the logits of the pictures in the buffer."""
        self._call()

    def put_pictures(self, begin: int) -> None:
        """Copies the pictures from `begin` on into the buffer; where the last batch lacks some, it repeats its own."""
        shape = (self.batch, *self.golden.shape[1:])
        pictures = np.resize(self.golden[begin : begin + self.batch], shape).reshape(-1)
        self.pictures.copy_(torch.from_numpy(pictures))

    def count_differing(self, call: Callable[[], object] | None = None, most: int | None = None) -> int:
        """Returns how many of the first `most` pictures have any logit that is not what it must be.

        call: is called instead of `main` itself.
        """
        count = min(len(self.golden), most or len(self.golden))
        wrong = 0
        for begin in range(0, count, self.batch):
            self.put_pictures(begin)
            self.workspace.fill_(STALE)
            self.logits.fill_(-STALE)
            (call or self)()
            here = min(self.batch, count - begin)
            got = self.logits.cpu().numpy().reshape(self.batch, -1)[:here]
            wrong += int((got != self.expected[begin : begin + here]).any(1).sum())
        return wrong


def buffer(values: np.ndarray, device: str) -> torch.Tensor:
    """Returns the values [...] one after the other, [n], with the room behind them that kernels may read."""
    flat = torch.from_numpy(np.array(values).reshape(-1))  # a copy: what was read from a file may not be written
    whole = torch.zeros(len(flat) + SLACK, dtype=flat.dtype, device=device)
    whole[: len(flat)].copy_(flat)
    return whole[: len(flat)]


def bind(library: Path, tensors: tuple[torch.Tensor, ...]) -> Callable[[], None]:
    """Returns what launches `main` of a library over these tensors [n], on torch's current stream."""
    import tvm_ffi

    main = tvm_ffi.load_module(str(library.absolute()))["main"]
    arguments = [tvm_ffi.from_dlpack(tensor) for tensor in tensors]  # once: nothing of torch's then happens at a launch
    gpu = tvm_ffi.device("cuda", tensors[0].device.index)

    def launch() -> None:
        with tvm_ffi.use_raw_stream(gpu, torch.cuda.current_stream().cuda_stream):
            main(*arguments)

    return launch


class Captured:
    """A call as a CUDA graph: a replay costs one launch, on torch's current stream.

    It holds the call, too: the graph knows addresses only, and what lies there must stay as long as the graph. Not in
    inference mode: a first graph that is captured in it leaves torch's random numbers in tensors that nothing outside
    that mode may write, such as a later capture.
    """

    def __init__(self, call: Callable[[], object]):
        self._call, self._graph = call, torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.no_grad():
            for _ in range(WARM):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.no_grad(), torch.cuda.graph(self._graph):
            call()

    def __call__(self) -> None:
        """Launches the graph."""
        self._graph.replay()


def check_case(case: Case, most: int | None = None) -> list[CheckRecord]:
    """Checks `main` itself, then replayed from a CUDA graph, on the first `most` pictures."""
    compiled = Compiled(case)
    count = min(len(compiled.golden), most or len(compiled.golden))
    plain = compiled.count_differing(compiled, most)
    replayed = compiled.count_differing(Captured(compiled), most)
    return [CheckRecord(case.name, "logits", count, plain), CheckRecord(case.name, "CUDA graph", count, replayed)]


def check_bundle(folder: Path) -> list[CheckRecord]:
    """Checks the engine's golden logits, then those of Engine.launch in a CUDA graph."""
    parts = {"engine": engine_logits, "Engine.launch in a CUDA graph": graph_logits}
    pictures_of = dict.fromkeys(parts, 0)
    differing_of = dict.fromkeys(parts, 0)
    with Engine(folder) as engine:
        pictures, expected = engine.bundle.golden()
        for name, logits in expected.items():
            for part, run in parts.items():
                pictures_of[part] += len(pictures)
                differing_of[part] += int((run(engine, name, pictures) != logits).any(1).sum())
    return [CheckRecord(folder.name, part, pictures_of[part], differing_of[part]) for part in parts]


def engine_logits(engine: Engine, variant: str, pictures: np.ndarray) -> np.ndarray:
    """Returns int32 [N, classes] of pictures uint8 [N, H, W, C]."""
    return np.stack([p.logits for p in engine.infer_batch(pictures, variant=variant)])


def graph_logits(engine: Engine, variant: str, pictures: np.ndarray) -> np.ndarray:
    """Returns int32 [N, classes] of pictures uint8 [N, H, W, C].

    A graph is captured once and replayed over all of them.
    """
    batch, classes = engine.bundle.manifest.pictures, len(engine.bundle.manifest.labels)
    x = buffer(np.zeros((batch, *pictures.shape[1:]), np.uint8), "cuda")
    y = buffer(np.zeros((batch, classes), np.int32), "cuda")
    replay = Captured(
        lambda: engine.launch(variant, x.data_ptr(), y.data_ptr(), torch.cuda.current_stream().cuda_stream)
    )
    logits = []
    for begin in range(0, len(pictures), batch):
        part = pictures[begin : begin + batch]
        x.copy_(torch.from_numpy(np.resize(part, (batch, *part.shape[1:])).reshape(-1)))
        y.fill_(-STALE)
        replay()
        logits.append(y.to("cpu", copy=True).numpy().reshape(batch, classes)[: len(part)])
    return np.concatenate(logits)


def check_folder(folder: Path, most: int | None = None) -> list[CheckRecord]:
    """Checks a bundle, or a case on its first `most` pictures; raises ERRORS."""
    if (folder / "manifest.json").exists():
        return check_bundle(folder)
    case = Case.read(folder)
    case.require(torch.cuda.get_device_capability())
    return check_case(case, most)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0 when nothing differs, 1 when anything does, 2 for an error."""
    parser = OneLineParser(prog="python -m benchmarks.cuda.checks", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a case of benchmarks.cuda.cases, or a bundle")
    parser.add_argument("--most", type=int, help="pictures of a case (default all)")
    parser.add_argument("--json", type=Path, help="write the counts there too")
    args = parser.parse_args(arguments)
    try:
        records = check_folder(args.folder, args.most)
    except ERRORS as error:
        print(f"error: {args.folder}: {error}", file=sys.stderr)
        return 2
    for record in records:
        print(f"{record.case}: {record.part}: {record.differing} of {record.pictures} pictures differ")
    if args.json:
        write_records(args.json, records)
    return 1 if any(record.differing for record in records) else 0


if __name__ == "__main__":
    sys.exit(main())
