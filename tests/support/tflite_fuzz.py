"""Damages small .tflite files field by field and byte by byte, and sees what the importer makes of them:

    python -m tests.support.tflite_fuzz --count 10000 --seed 0

Each file is read in a process of its own. Only two outcomes are right: one TfliteError, or a graph whose layers are
within a step of LiteRT's (fed with LiteRT's own codes, where it is installed and takes the file).
"""

import argparse
import collections
import copy
import multiprocessing
import resource
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from compile.tflite.errors import TfliteError
from compile.tflite.file import read_bytes
from compile.tflite.importer import from_model
from compile.tflite.peer import PeerError
from targets.reference.graph import Graph
from tests.compile.tflite.test_operators import CASES
from tests.support.tflite_cases import Case, photos
from tests.support.tflite_layers import layer_differences
from tests.support.tflite_writer import Network

NUMBERS = (-(1 << 31), -129, -2, -1, 0, 1, 2, 3, 4, 7, 8, 126, 127, 128, 255, 256, 65536, (1 << 31) - 1)
SCALES = (0.0, -1.0, 1e-38, 1e-9, 1e-3, 0.5, 1.0, 3e4, 1e38, float("inf"), float("nan"))
SECONDS, MEMORY = 20, 2 << 30  # of one file


def damaged(case: Case, rng: np.random.Generator) -> bytes:
    """The content of a case's file with one to three fields, or some bytes, changed."""
    net = copy.deepcopy(case.net)
    kind = rng.integers(4)
    if kind:
        for _ in range(rng.integers(1, 4)):
            change(net, rng)
    try:
        content = bytearray(net.to_bytes())
    except (TypeError, ValueError, OverflowError):  # a number that its field cannot hold
        return case.net.to_bytes()
    if kind == 0:
        for place in rng.integers(0, len(content), rng.integers(1, 6)):
            content[place] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
        if rng.integers(10) == 0:
            content = content[: rng.integers(len(content))]
    return bytes(content)


def change(net: Network, rng: np.random.Generator) -> None:
    """Changes one field: a shape, type, scale, zero point, axis or value of a tensor, or an index or option."""
    tensor = net.tensors[rng.integers(len(net.tensors))]
    operator = net.operators[rng.integers(len(net.operators))]
    number = int(rng.choice(NUMBERS)) if rng.integers(2) else int(rng.integers(-3, 10))
    near = float(rng.choice(SCALES)) if rng.integers(2) else float(tensor.scale[:1].sum() * rng.uniform(0.5, 2))
    match rng.integers(10):
        case 0 if tensor.shape:
            shape = list(tensor.shape)
            shape[rng.integers(len(shape))] = number
            tensor.shape = tuple(shape)
        case 1:
            tensor.shape = tuple(rng.permutation(tensor.shape).tolist())
        case 2:
            tensor.kind = str(rng.choice(["INT8", "UINT8", "INT32", "INT16", "FLOAT32", "INT4"]))
            tensor.data = None if tensor.data is None else tensor.data.astype(np.int8)
        case 3:
            tensor.scale = np.float32([near] * int(rng.choice([1, max(1, tensor.scale.size), 3])))
            tensor.zero_point = np.resize(tensor.zero_point if tensor.zero_point.size else [0], tensor.scale.shape)
        case 4:
            tensor.zero_point = np.full(tensor.scale.shape, number)
        case 5:
            tensor.axis = number
        case 6 if tensor.data is not None and tensor.data.size:
            tensor.data = tensor.data.copy()
            place = rng.integers(tensor.data.size)
            info = np.iinfo(tensor.data.dtype) if tensor.data.dtype.kind in "iu" else None
            tensor.data.reshape(-1)[place] = number if info is None else np.clip(number, info.min, info.max)
        case 7:
            numbers = operator.inputs if rng.integers(3) else operator.outputs
            numbers[rng.integers(len(numbers))] = int(rng.integers(-1, len(net.tensors) + 1))
        case 8 if operator.options:
            operator.options[str(rng.choice(list(operator.options)))] = number
        case _:
            operator.kind = str(rng.choice([o.kind for c in CASES.values() for o in c().net.operators][:200]))


def imported(content: bytes, case: Case) -> Graph | None:
    """The graph of a file; None where it is refused."""
    try:
        return from_model(read_bytes(content), "fuzzed", case.normalization)
    except TfliteError:
        return None


def outcome(content: bytes, case: Case) -> str:
    """What came of one file, in words."""
    graph = imported(content, case)
    if graph is None:
        return "refused"
    pictures = photos(1, graph.tensors[graph.input].shape)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.tflite"
        path.write_bytes(content)
        try:
            layers = layer_differences(path, graph, pictures, case.normalization)
        except (PeerError, ValueError, RuntimeError) as error:
            return (
                "taken, not compared: LiteRT is not installed" if "not installed" in str(error) else "taken by us alone"
            )
    largest = max((layer.largest for layer in layers), default=0)
    return "equal within a step" if largest <= 1 else f"WRONG by {largest} steps"


def child(content: bytes, name: str, pipe: Connection) -> None:
    """Sends the outcome of one file."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limit))
    try:
        pipe.send(outcome(content, CASES[name]()))
    except BaseException as error:
        pipe.send(f"TRACEBACK {type(error).__name__}: {error}")


def run_apart(content: bytes, name: str) -> str:
    """The outcome of one file in a process of its own."""
    receiver, sender = multiprocessing.Pipe(False)
    process = multiprocessing.get_context("fork").Process(target=child, args=(content, name, sender))
    process.start()
    sender.close()
    try:
        result = receiver.recv() if receiver.poll(SECONDS) else "HANG"
    except EOFError:
        # LiteRT may end the process with a file that it should refuse; the importer, which is Python, cannot.
        result = "LiteRT crashed" if imported(content, CASES[name]()) is not None else "CRASH"
    process.kill()
    process.join()
    return result


def main() -> None:
    """Prints how many files came to each outcome, and keeps those that are wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.tflite_fuzz")
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzzed"))
    args = parser.parse_args()
    names = sorted(CASES)
    outcomes: collections.Counter[str] = collections.Counter()
    for i in range(args.count):
        rng = np.random.default_rng([args.seed, i])
        name = names[rng.integers(len(names))]
        content = damaged(CASES[name](), rng)
        result = run_apart(content, name)
        outcomes[result] += 1
        if (i + 1) % 1000 == 0:
            print(f"{i + 1} files: {dict(outcomes.most_common())}", flush=True)
        if result.split()[0] in ("WRONG", "HANG", "TRACEBACK", "CRASH"):
            args.keep.mkdir(exist_ok=True)
            (args.keep / f"{args.seed}-{i}-{name.replace(' ', '_')}.tflite").write_bytes(content)
            print(i, name, result, flush=True)
    for result, count in outcomes.most_common():
        print(f"{count:6} {result}")
    print(f"largest process {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10} MB")


if __name__ == "__main__":
    main()
