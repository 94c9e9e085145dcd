"""Damages quantized ONNX files with a sense for their structure, and judges what the importer makes of each.

    python -m tests.compile.fuzz_onnx --count 20000 --seed 1

A file is either refused by one clear error, or every layer gives onnxruntime's codes (optimizations off), fed with the
same ones; "near" are those that are off by more than rounding, and by less than 1/16 of the range. Files are judged in
processes of 20 s a file and 2 GB; a failing one is named by its seed and number.
"""

import argparse
import collections
import json
import resource
import select
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx

from compile.ladder.layers import compare_layers
from compile.ladder.onnx_file import OnnxRunError, PictureInput
from compile.qdq.importer import Normalization, OnnxError, from_model
from tests.compile.onnx_damages import damaged

SECONDS, MEMORY = 20, 2 << 30  # of one file
START_SECONDS = 120  # of a process until its first answer
UNIT = Normalization((0.0,), (1.0,))
GOOD = ("refused", "refused by onnxruntime", "equal")
MOST_TIES = 0.3  # of a layer's codes that may lie on ties, which float32 may round otherwise


def judge(model: onnx.ModelProto) -> tuple[str, str]:
    """Returns what became of a file, one of GOOD where it is well, and its words."""
    try:
        graph = from_model(model, normalization=None if _takes_uint8(model) else UNIT)
    except OnnxError as error:
        return _clear(str(error), "refused")
    shape = graph.tensors[graph.input].shape
    pictures = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    source = PictureInput(None if _takes_uint8(model) else UNIT, channels_last=False)
    try:
        sides = compare_layers(model, graph, pictures, source)
    except OnnxRunError as error:
        return _clear(str(error), "refused by onnxruntime")
    for layer in sides.layers:
        if layer.is_misread:
            return "differs", str(layer)
    for layer in sides.layers:
        if layer.is_approximated or (layer.codes >= 64 and layer.alone_differing > MOST_TIES * layer.codes):
            return "near", str(layer)
    if not sides.layers:
        same = np.abs(sides.runtime - sides.reference).max(initial=0) <= 1
        return ("equal", "") if same else ("differs", "no layer is known by name, and logits differ")
    return "equal", ""


def _clear(message: str, outcome: str) -> tuple[str, str]:
    is_clear = len(message) < 2500 and "\n" not in message and "expected" in message
    return (outcome if is_clear else "unclear", message[:300])


def _takes_uint8(model: onnx.ModelProto) -> bool:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in constants]
    return bool(inputs) and inputs[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def work(seed: int, first: int, count: int) -> None:
    """Judges the files first .. first + count - 1 of a seed; prints a JSON line for each."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    for number in range(first, first + count):
        model, damages = damaged(seed, number)
        try:
            outcome, words = judge(model)
        except BaseException as error:
            outcome, words = "exception", f"{type(error).__name__}: {str(error)[:300]}"
        print(json.dumps({"number": number, "outcome": outcome, "damages": damages, "words": words}), flush=True)


def fuzz(seed: int, count: int, report: Path | None = None) -> dict[str, int]:
    """Returns how many files of a seed came to each outcome; those that are not well are printed."""
    outcomes: collections.Counter[str] = collections.Counter()
    number = 0
    while number < count:
        for record in answers(worker_command(seed, number, count - number), seed, number, count - number):
            number += 1
            outcomes[record["outcome"]] += 1
            if record["outcome"] not in GOOD:
                print(json.dumps(record), flush=True)
            if report is not None:
                with report.open("a") as lines:
                    lines.write(json.dumps(record) + "\n")
    return dict(outcomes)


def worker_command(seed: int, first: int, count: int) -> list[str]:
    words = [sys.executable, "-m", "tests.compile.fuzz_onnx", "--worker", str(first)]
    return [*words, "--seed", str(seed), "--count", str(count)]


def answers(command: list[str], seed: int, first: int, count: int):
    """Yields the records that a process prints, and one more for the file that ended it, or that takes too long."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    done, seconds = 0, START_SECONDS
    try:
        while done < count:
            ready, _, _ = select.select([process.stdout], [], [], seconds)
            line = process.stdout.readline() if ready else ""
            if not line:
                outcome = "crash" if ready else "hang"
                yield {
                    "number": first + done,
                    "outcome": outcome,
                    "damages": damaged(seed, first + done)[1],
                    "words": "",
                }
                return
            yield json.loads(line)
            done, seconds = done + 1, SECONDS
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def main() -> int:
    """Runs the command line; returns 1 where a file was neither refused clearly nor right."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="files (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", type=int, metavar="FIRST", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="appends a line for every file")
    args = parser.parse_args()
    if args.worker is not None:
        work(args.seed, args.worker, args.count)
        return 0
    outcomes = fuzz(args.seed, args.count, args.json)
    print(", ".join(f"{outcome} {outcomes[outcome]}" for outcome in sorted(outcomes)))
    return 0 if set(outcomes) <= set(GOOD) else 1


if __name__ == "__main__":
    sys.exit(main())
