"""Everything that prepared networks can show on this machine's GPU: are they right, are they clean, how fast are they?

    python -m benchmarks.cuda cases --out results               # prepared elsewhere by benchmarks.cuda.cases
    python -m benchmarks.cuda cases --compile --out results     # the same, compiled by this machine's nvcc first
    python -m benchmarks.cuda cases --build --out results       # TVM and nvcc are here: prepare them first

Needs numpy, torch with CUDA and apache-tvm-ffi; compute-sanitizer where there is one. --compile is for a driver older
than the CUDA that compiled the networks, and for another processor than theirs. In parts, each in processes of its own,
so that what fails hides nothing else:

    checks      all logits of all pictures, by `main` and by a CUDA graph of it; bundles through the engine
    sanitizer   the smallest network under each tool of compute-sanitizer, the others under memcheck
    times       milliseconds beside PyTorch in fp16, and the share of the GPU's own peak

Leaves cuda.json (records) and cuda.md (tables) in --out; exits with 1 if anything differs or fails.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.cuda.case import find_networks, read_cases
from benchmarks.cuda.jobs import (
    Job,
    JobResult,
    check_jobs,
    find_sanitizer,
    resume_job,
    run_job,
    run_python,
    sanitizer_jobs,
    time_jobs,
)
from benchmarks.cuda.nvcc import compile_networks
from benchmarks.cuda.results import write_results
from runtime.terminal import OneLineParser

PARTS = ("checks", "sanitizer", "times")
GPU_PACKAGES = {"torch": "torch", "tvm_ffi": "apache-tvm-ffi"}  # module -> what brings it


@dataclass(frozen=True)
class EverythingSettings:
    """What is run; case_arguments: those of benchmarks.cuda.cases, where the networks are built first."""

    cases: Path
    out: Path
    parts: tuple[str, ...]
    pattern: str
    resume: bool
    compile: bool
    build: bool
    case_arguments: tuple[str, ...]


def parse(arguments: Sequence[str] | None = None) -> EverythingSettings:
    """Returns the settings of a command line; a bad one ends the program with one line that says what is wrong."""
    parser = OneLineParser(prog="python -m benchmarks.cuda", description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path, help="folder of benchmarks.cuda.cases")
    parser.add_argument("--out", type=Path, required=True, help="folder for cuda.json, cuda.md and each part's results")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts to run (default {','.join(PARTS)})")
    parser.add_argument("--match", default="*", help="networks to run, such as 'resnet20-*' (default '*')")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run has left in --out")
    parser.add_argument("--compile", action="store_true", help="compile the networks with this machine's nvcc first")
    parser.add_argument(
        "--build", action="store_true", help="make the cases first; further arguments go to benchmarks.cuda.cases"
    )
    args, rest = parser.parse_known_args(arguments)
    if rest and not args.build:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    parts = tuple(args.only.split(","))
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only: expected parts among {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    return EverythingSettings(
        args.cases, args.out, parts, args.match, args.resume, args.compile, args.build, tuple(rest)
    )


def describe_missing() -> str | None:
    """Returns what keeps this machine from running anything, or None."""
    if absent := [package for module, package in GPU_PACKAGES.items() if find_spec(module) is None]:
        names = ", ".join(GPU_PACKAGES.values())
        return f"expected the packages {names} for {sys.executable}, got no {', '.join(absent)}"
    import torch  # here, so that its absence can be told

    return None if torch.cuda.is_available() else "expected an NVIDIA GPU and torch with CUDA, got none"


def prepare_networks(settings: EverythingSettings) -> list[Path]:
    """Returns the folders of networks, made or compiled first where that was asked for.

    Raises ValueError, OSError, and subprocess.CalledProcessError where they cannot be made.
    """
    if settings.build:
        run_python("benchmarks.cuda.cases", [str(settings.cases), *settings.case_arguments])
    networks = find_networks(settings.cases, settings.pattern)
    if settings.compile:
        compile_networks(networks)
    return networks


def list_jobs(settings: EverythingSettings, networks: Sequence[Path], sanitizer: str | None) -> list[Job]:
    """Returns the jobs of the parts that were asked for, in the order of PARTS."""
    jobs = {
        "checks": check_jobs(networks, settings.out),
        "sanitizer": sanitizer_jobs(networks, sanitizer) if sanitizer and read_cases(networks) else [],
        "times": time_jobs(networks, settings.out),
    }
    return [job for part in PARTS if part in settings.parts for job in jobs[part]]


def run_everything(settings: EverythingSettings, networks: Sequence[Path]) -> list[JobResult]:
    """Runs all jobs, writes what they show after each, prints it at the end, and returns it.

    Raises OSError and ValueError where results cannot be written, or read again.
    """
    sanitizer = find_sanitizer()
    absent = "sanitizer" in settings.parts and not sanitizer
    remarks = ["compute-sanitizer: not found, nothing ran under it"] if absent else []
    cases = read_cases(networks)
    results: list[JobResult] = []
    text = ""
    for job in list_jobs(settings, networks, sanitizer):
        earlier = resume_job(job) if settings.resume else None
        results.append(run_job(job) if earlier is None else earlier)
        text = write_results(results, cases, remarks, settings.out)
    print(text)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0 when all is right, 1 when anything differs or fails, 2 where nothing can run."""
    settings = parse(arguments)
    if missing := describe_missing():
        print(f"error: {missing}", file=sys.stderr)
        return 2
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
        results = run_everything(settings, prepare_networks(settings))
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if any(result.is_wrong for result in results) else 0
