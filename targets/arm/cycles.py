"""Cycles of machine code by a model of the processor: how often each block ran, times what llvm-mca says it takes.

The model is LLVM's own: latencies and pipes of the core, blocks back to back with themselves, no caches, no wrong
branches, nothing between two blocks, one cycle for a call, none for the few instructions (atomics) that it lacks. So it
is a lower bound that does not vary, good to compare code with code; it is never a time. llvm-mca and llvm-mc come with
LLVM (Debian: llvm-19).
"""

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targets import Target
from targets.arm.emulation import processor

# LLVM has no tables of its own for the A76 and A78AE and takes the A57's; Neoverse N1 is the A76 for servers
MODELS = {"cortex-a72": "cortex-a72", "cortex-a76": "neoverse-n1", "cortex-a78ae": "neoverse-n1"}
ITERATIONS = 20  # of each block in a row
VERSIONS = range(19, 40)  # earlier ones cannot say what a call costs
_TRIPLE = "aarch64-linux-gnu"


class CyclesError(ValueError):
    """llvm-mca is missing or refused the code; the message says what was expected and what to install."""


@dataclass(frozen=True)
class Block:
    """A run of instructions; `cycles` of one pass where it follows itself, `count` how often it ran."""

    text: tuple[str, ...]
    count: int
    cycles: float

    @property
    def total(self) -> float:
        """Cycles of all passes."""
        return self.count * self.cycles


@dataclass(frozen=True)
class Cost:
    """What executed code cost; instructions and cycles count all of it, blocks are sorted, the dearest first."""

    instructions: int
    cycles: float
    blocks: tuple[Block, ...]


class LlvmModel:
    """LLVM's model as the compiler asks it; see targets.family.CycleModel."""

    unit = "cycles, modelled by llvm-mca"

    def source(self, target: Target) -> str:
        """Returns where the cycles of a target come from. Raises CyclesError where they cannot be had."""
        return f"{target.cpu}, emulated: executed blocks, each by LLVM {version()}'s model of {model_of(target.cpu)}"

    def estimate(self, library: Path, target: Target, arguments: tuple[Any, ...]) -> float:
        """Returns the cycles of one call of `main` on an emulated processor; arguments: those of processor.Runner."""
        return executed(library, target.cpu, arguments).cycles


def executed(library: Path, cpu: str, arguments: tuple[Any, ...]) -> Cost:
    """Returns what one call of a library's `main` cost; raises CyclesError, processor.EmulationError."""
    runner = processor.Runner(library, cpu, count=True)
    runner(*arguments)
    return cost(runner.code(), cpu)


def version() -> int:
    """Returns the number of the first LLVM that has both tools; raises CyclesError where there is none."""
    for number in VERSIONS:
        if all(shutil.which(f"{name}-{number}") for name in ("llvm-mca", "llvm-mc")):
            return number
    raise CyclesError(
        f"cycles are modelled by llvm-mca and llvm-mc of LLVM {VERSIONS[0]} or later (named "
        f"llvm-mca-{VERSIONS[0]} and so on), found none; install them: apt install llvm-{VERSIONS[0]}"
    )


def model_of(cpu: str) -> str:
    """Returns LLVM's name of the model that stands for a processor; raises CyclesError for one that has none."""
    if cpu not in MODELS:
        raise CyclesError(f"expected a processor among {', '.join(MODELS)}, got {cpu!r}")
    return MODELS[cpu]


def cost(code: Counter[bytes], cpu: str) -> Cost:
    """Returns the cost of machine code of aarch64, block -> how often it ran, on one of MODELS; raises CyclesError."""
    name, texts = model_of(cpu), disassemble(list(code))
    cycles = model(texts, name)
    blocks = [Block(*each) for each in zip(texts, code.values(), cycles, strict=True)]
    blocks.sort(key=lambda b: -b.total)
    return Cost(sum(len(b.text) * b.count for b in blocks), sum(b.total for b in blocks), tuple(blocks))


def disassemble(blocks: list[bytes]) -> list[tuple[str, ...]]:
    """Returns the instructions of each block, one a line of assembly."""
    words = [b[i : i + 4] for b in blocks for i in range(0, len(b), 4)]
    distinct = list(dict.fromkeys(words))
    lines = [" ".join(f"0x{byte:02x}" for byte in word) for word in distinct]
    output = _run(["llvm-mc", f"-triple={_TRIPLE}", "-disassemble", "-mattr=+all"], "\n".join(lines))
    text = dict(zip(distinct, _instructions(output, len(distinct)), strict=True))
    return [tuple(text[b[i : i + 4]] for i in range(0, len(b), 4)) for b in blocks]


def _instructions(output: str, expected: int) -> list[str]:
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.strip().startswith(".")]
    if len(lines) != expected:
        raise CyclesError(f"expected {expected} instructions from llvm-mc, got {len(lines)}")
    return lines


def model(blocks: list[tuple[str, ...]], cpu: str) -> list[float]:
    """Returns the cycles of each block where it follows itself. Raises CyclesError; cpu: a name of LLVM's."""
    if not blocks:
        return []
    regions = []
    for number, block in enumerate(blocks):
        regions += [f"# LLVM-MCA-BEGIN {number}", *block, "# LLVM-MCA-END"]
    options = [
        f"-mtriple={_TRIPLE}",
        f"-mcpu={cpu}",
        "-mattr=+all",
        f"-iterations={ITERATIONS}",
        "-call-latency=1",
        "-skip-unsupported-instructions=lack-sched",
        "-all-views=false",
        "-summary-view",
    ]
    output = _run(["llvm-mca", *options], "\n".join([*regions, ""]))
    cycles = re.findall(r"^Total Cycles: +(\d+)", output, re.MULTILINE)
    if len(cycles) != len(blocks):
        raise CyclesError(f"expected {len(blocks)} blocks from llvm-mca, got {len(cycles)}")
    return [int(c) / ITERATIONS for c in cycles]


def _run(command: list[str], text: str) -> str:
    command = [f"{command[0]}-{version()}", *command[1:]]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if not line.startswith(("warning", "note"))]
        raise CyclesError(f"{' '.join(command)}: exit code {done.returncode}\n" + "\n".join(errors[:20]))
    return done.stdout
