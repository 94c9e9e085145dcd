"""Runs work on one file in a process of its own, with a limit of time and of memory."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.published.record import Record, short
from compile.qdq.normalization import Normalization

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Limits:
    """What a process may take: seconds, and bytes of memory."""

    seconds: float = 600.0
    memory: int = 8 << 30


def run(command: Sequence[str], limits: Limits) -> tuple[str, str]:
    """Returns the last line that a command printed, and in words what ended it; one of the two is ""."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory, limits.memory))

    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=limits.seconds, preexec_fn=limit
        )
    except subprocess.TimeoutExpired:
        return "", f"expected an answer within {limits.seconds:g} s, got none"
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        return lines[-1], ""
    last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
    return "", f"the process ended with status {done.returncode}: {last}"


def record_of(path: Path, normalization: Normalization, place: Path, count: int, limits: Limits) -> Record:
    """Returns the record of a file, judged in a process of its own; place: real pictures, `count` are asked."""
    numbers = ["--mean", json.dumps(list(normalization.mean)), "--std", json.dumps(list(normalization.std))]
    words = ["-m", "benchmarks.published.judge", str(path.resolve()), *numbers]
    start = time.perf_counter()
    line, end = run([sys.executable, *words, "--pictures", str(place.resolve()), "--count", str(count)], limits)
    seconds = round(time.perf_counter() - start, 1)
    return Record(path.name, seconds=seconds, message=short(end)) if end else _parsed(json.loads(line))


def _parsed(members: dict[str, Any]) -> Record:
    return Record(**{field.name: members[field.name] for field in fields(Record)})
