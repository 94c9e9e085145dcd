"""Changes bundles at random, with the digests made anew: each is refused by one BundleError, or answers right.

    python -m tests.runtime.fuzz_bundles --count 100000 --seed 1 --bundle bundles/NAME

Every case is a function of the seed and its number, and runs in a child process with guarded buffers, so that a signal,
a wait without end and any other exception are seen, with the number of the case.
"""

import argparse
import collections
import multiprocessing
import resource
import shutil
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from tests.runtime.bundle_changes import make_case

PATIENCE = 120  # seconds for one case
ROOM = 6 << 30  # bytes of address space for a child
REFUSED, RIGHT, OTHER = "refused", "right answers", "other logits, as the data say"
GOOD = (REFUSED, RIGHT, OTHER)


def judge(folder: Path, pictures: np.ndarray, expected: dict[str, np.ndarray], may_differ: bool, threads: int) -> str:
    """Opens a bundle and runs every variant; returns what came of it, one of GOOD or what is wrong."""
    from runtime import BundleError, Engine

    try:
        with Engine(folder, threads=threads) as engine:
            if engine.bundle.manifest.shape != pictures.shape[1:]:
                return f"wrong: a shape of {engine.bundle.manifest.shape}"
            logits = {name: np.stack([engine.logits(x, name) for x in pictures]) for name in engine.variants}
            engine.infer(pictures[0])
    except BundleError as error:
        text = str(error)
        told = text.isprintable() and len(text) < 3000 and "; " in text  # what is wrong, and what to do
        return REFUSED if told else f"unclear: {text[:300]!r}"
    except Exception as error:
        return f"wrong: {type(error).__name__}: {str(error)[:300]}"
    right = all(name in expected and np.array_equal(logits[name], expected[name]) for name in logits)
    return RIGHT if right else OTHER if may_differ else "wrong: other logits"


def work(sound: Path, seed: int, numbers: range, answers: Connection) -> None:
    """A child's life: sends (number, None) before each case and (number, way, outcome) behind it."""
    import runtime.bundle.opened
    import runtime.bundle.weights
    import runtime.execution.library
    from runtime import Engine, open_bundle
    from tests.support.guarded import guarded_buffer

    pictures = open_bundle(sound).golden()[0][:2]
    with Engine(sound) as engine:
        expected = {name: np.stack([engine.logits(x, name) for x in pictures]) for name in engine.variants}
    for module in (runtime.bundle.opened, runtime.bundle.weights, runtime.execution.library):
        module.aligned_buffer = guarded_buffer
    resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
    for number in numbers:
        answers.send((number, "", ""))
        with tempfile.TemporaryDirectory(dir=sound.parent) as folder:
            way, may_differ = make_case(sound, Path(folder), seed, number)
            outcome = judge(Path(folder), pictures, expected, may_differ, 1 + number % 2)
        answers.send((number, way, outcome))
    answers.send((-1, "", str(_peak_memory() >> 10)))


def _peak_memory() -> int:
    """Returns the most kB this process has held; getrusage also counts what its parent had held."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1])


@dataclass
class Outcomes:
    """What came of all cases: counts by way and outcome, what was wrong, and the most memory of a child in MB."""

    counts: collections.Counter
    wrong: list[str]
    memory: int = 0


def fuzz(sound: Path, count: int, seed: int) -> Outcomes:
    """Runs cases 0..count - 1 of a seed, in one child after another."""
    outcomes, first = Outcomes(collections.Counter(), []), 0
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(sound, Path(scratch) / "sound")
        while first < count:
            first = _watch_child(copy, seed, range(first, count), outcomes)
    return outcomes


def _watch_child(sound: Path, seed: int, numbers: range, outcomes: Outcomes) -> int:
    """Returns the number of the case to go on with after a child has ended."""
    context = multiprocessing.get_context("spawn")
    answers, sender = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(sound, seed, numbers, sender), daemon=True)
    child.start()
    sender.close()
    begun = numbers.start - 1
    try:
        while answers.poll(PATIENCE):
            number, way, outcome = answers.recv()
            if number < 0:
                outcomes.memory = max(outcomes.memory, int(outcome))
                child.join()
                return numbers.stop
            begun = number
            if outcome:
                outcomes.counts[way, outcome if outcome in GOOD else "WRONG"] += 1
                outcomes.wrong += [] if outcome in GOOD else [f"case {number} of seed {seed}, {way}: {outcome}"]
        end = f"no answer within {PATIENCE} s"
        child.kill()
    except EOFError:
        end = ""
    child.join()
    outcomes.counts["", "WRONG"] += 1
    outcomes.wrong.append(f"case {begun} of seed {seed}: {end or f'exit code {child.exitcode}'}")
    return begun + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", type=Path, required=True, help="A sound bundle for this machine.")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    outcomes = fuzz(args.bundle, args.count, args.seed)
    for (way, outcome), count in sorted(outcomes.counts.items()):
        print(f"{way:16} {outcome:32} {count:7}")
    print("\n".join(outcomes.wrong[:50]))
    print(f"{sum(outcomes.counts.values())} cases, {len(outcomes.wrong)} wrong, {outcomes.memory} MB at most")
    raise SystemExit(1 if outcomes.wrong else 0)


if __name__ == "__main__":
    main()
