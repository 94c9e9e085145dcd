"""What a program in the arm64 box executes of one library: machine code by blocks, read from QEMU's own log.

QEMU's user mode logs the text of every block that it translates and a line for every block that runs. A script runs
once with `before` repetitions and once with more of what is to be measured; the difference is that of the repetitions
alone, without imports and preparation.
"""

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections import Counter
from pathlib import Path

from targets.arm.emulation import qemu

_INSTRUCTION = re.compile(rb"^0x([0-9a-f]+):\s+([0-9a-f]{8})\s")
_RAN = re.compile(rb"^Trace \d+: \S+ \[[0-9a-f]+/([0-9a-f]+)/")


def repeated(
    script: Path,
    library: str,
    cpu: str,
    search: list[Path],
    arguments: list[str],
    repetitions: tuple[int, int] = (1, 3),
    timeout: float = 540,
) -> Counter[bytes]:
    """Machine code of blocks -> how often each runs in one repetition, rounded down.

    The script is called with the arguments and a number of repetitions, and prints its address range of `library` (a
    part of the file's name) last, as two hexadecimal numbers. search: folders for PYTHONPATH. Raises BoxError.
    """

    def run(n: int, *options: str) -> subprocess.CompletedProcess:
        command = [*_command(cpu, search, options), str(script), library, *arguments, str(n)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)

    trial = run(1)
    if trial.returncode:
        raise qemu.BoxError(f"{script.name} in the box: {trial.stdout}{trial.stderr}")
    low, high = trial.stdout.split()[-2:]
    counts = []
    for n in repetitions:
        with tempfile.TemporaryDirectory() as folder:
            pipe = Path(folder) / "log"
            os.mkfifo(pipe)
            log = _Log(pipe)
            log.start()
            done = run(n, "-d", "in_asm,exec,nochain", "-dfilter", f"0x{low}..0x{high}", "-D", str(pipe))
            log.join()
        if done.returncode or done.stdout.split()[-2:] != [low, high]:
            raise qemu.BoxError(
                f"{script.name} in the box: expected {library} at {low}, got {done.stdout}{done.stderr}"
            )
        counts.append(log.code())
    first, second = counts
    times = repetitions[1] - repetitions[0]
    return Counter({block: n for block in second if (n := (second[block] - first[block]) // times) > 0})


def _command(cpu: str, search: list[Path], options: tuple[str, ...]) -> list[str]:
    """The emulator without address randomization, then what it runs."""
    if not shutil.which("setarch"):
        raise qemu.BoxError("expected setarch on this machine (util-linux), found none")
    made = qemu.make()
    python = max(made.glob("root/usr/bin/python3.*[0-9]"))
    path = ":".join(str(p) for p in (*search, made / "site"))
    return [
        "setarch",
        "-R",
        str(made / "qemu"),
        *options,
        "-cpu",
        qemu.CPUS[cpu],
        "-L",
        str(made / "roots" / cpu),
        "-E",
        f"PYTHONPATH={path}",
        "-E",
        "OPENBLAS_NUM_THREADS=1",
        "-E",
        "PYTHONDONTWRITEBYTECODE=1",
        str(python),
    ]


class _Log(threading.Thread):
    """Reads QEMU's log while it is written."""

    def __init__(self, pipe: Path):
        super().__init__(daemon=True)
        self._pipe = pipe
        self._texts: dict[int, bytearray] = {}
        self._ran: Counter[bytes] = Counter()

    def run(self) -> None:
        block, expected = None, None
        with open(self._pipe, "rb") as lines:
            for line in lines:
                if line.startswith(b"Trace"):
                    self._ran[_RAN.match(line)[1]] += 1
                    block = None
                elif line.startswith(b"IN:"):
                    block = None
                elif instruction := _INSTRUCTION.match(line):
                    address = int(instruction[1], 16)
                    if block is None or address != expected:
                        block = self._texts[address] = bytearray()
                    block += bytes.fromhex(instruction[2].decode())[::-1]
                    expected = address + 4

    def code(self) -> Counter[bytes]:
        counts: Counter[bytes] = Counter()
        for address, count in self._ran.items():
            counts[bytes(self._texts[int(address, 16)])] += count
        return counts
