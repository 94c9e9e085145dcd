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

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.cuda.case import Case, cases, compile_all, folders
from runtime.files import write_json

ROOT = Path(__file__).parents[2]
PARTS = ("checks", "sanitizer", "times")
# tool of compute-sanitizer -> its options; calls of CUDA that fail are told by whoever makes them, torch tries some
TOOLS = {"memcheck": ("--report-api-errors", "no"), "racecheck": (), "initcheck": (), "synccheck": ()}
PACKAGES = {"torch": "torch", "tvm_ffi": "apache-tvm-ffi"}  # module -> what brings it
SANITIZER, FOUND_OBJECTIONS = "/usr/local/cuda/bin/compute-sanitizer", 9
SUMMARY, SAW_NOTHING = re.compile(r"={9} (\w+ )?SUMMARY"), "before first instrumented API call"  # its words
FEW = 2  # pictures under compute-sanitizer
LIMIT = 1200  # seconds: a kernel that never ends must not hide what comes after it


@dataclass(frozen=True)
class Job:
    """One process: its part, a name that is a file name too, and its command; with `result`, it leaves that JSON."""

    part: str
    name: str
    command: tuple[str, ...]
    result: Path | None = None
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a job; `failure` is None where it ended as it should, `found` is what it left."""

    job: Job
    found: list[dict]
    failure: str | None


def check_jobs(found: list[Path], out: Path) -> list[Job]:
    return [_job("checks", f"checks-{p.name}", "benchmarks.cuda.checks", [p], out) for p in found]


def time_jobs(found: list[Path], out: Path) -> list[Job]:
    """One for each network and batch: its configurations take turns with each other and with the peers."""
    together: dict[str, list[Path]] = {}
    for case in cases(found):
        together.setdefault(f"times-{case.facts['network']}-{case.batch}", []).append(case.folder)
    return [_job("times", name, "benchmarks.cuda.times", group, out) for name, group in together.items()]


def sanitizer_jobs(found: list[Path], sanitizer: str) -> list[Job]:
    """The network of least work in all its configurations under each tool, one of every other network under memcheck.

    For the smallest batch there is. Other networks have kernels of their own: depthwise layers, pooling.
    """
    by_work = sorted(cases(found), key=lambda c: (sum(c.facts["macs"].values()), c.folder.name))
    groups: dict[str, list[Case]] = {}
    for case in by_work:
        groups.setdefault(case.facts["network"], []).append(case)
    least, *others = ([c for c in group if c.batch == group[0].batch] for group in groups.values())
    asked = [(case, tool) for case in least for tool in TOOLS]
    asked += [(min(group, key=lambda c: c.folder.name), "memcheck") for group in others]
    # each tensor in memory of its own: inside one large allocation no access would be out of bounds
    alone = (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)
    return [
        Job(
            "sanitizer",
            f"{tool}-{case.folder.name}",
            (
                sanitizer,
                "--tool",
                tool,
                *TOOLS[tool],
                "--error-exitcode",
                str(FOUND_OBJECTIONS),
                *_python("benchmarks.cuda.checks"),
                str(case.folder),
                "--most",
                str(FEW),
            ),
            environment=alone,
        )
        for case, tool in asked
    ]


def find_sanitizer() -> str | None:
    return shutil.which("compute-sanitizer") or (SANITIZER if Path(SANITIZER).exists() else None)


def _python(module: str) -> tuple[str, ...]:
    return sys.executable, "-m", module


def _job(part: str, name: str, module: str, arguments: list[Path], out: Path) -> Job:
    result = out / f"{name}.json"
    return Job(part, name, (*_python(module), *map(str, arguments), "--json", str(result)), result)


def _environment() -> dict[str, str]:
    """This process's, with this checkout where Python looks for modules."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    # tvm_ffi would compile an extension for older versions of torch, which nothing here needs
    return {**os.environ, "PYTHONPATH": path, "TVM_FFI_DISABLE_TORCH_C_DLPACK": "1"}


def run(job: Job, seconds: float = LIMIT) -> Outcome:
    """Runs a job to its end, or for so many seconds at most; shows what it said."""
    print(f"== {job.name}", flush=True)
    if job.result is not None:
        job.result.unlink(missing_ok=True)
    try:
        code, said = _finished(job, seconds)
    except OSError as error:
        return Outcome(job, [], str(error))
    print(said, end="", flush=True)
    found = json.loads(job.result.read_text()) if job.result is not None and job.result.exists() else []
    return Outcome(job, found, f"no end after {seconds:g} s" if code is None else failure(job, found, code, said))


def _finished(job: Job, seconds: float) -> tuple[int | None, str]:
    """Exit code, None after so many seconds, and what was said; processes that the job started end with it.

    Said into a file: a process that stays behind would keep a pipe open, and its reader waiting.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            job.command,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**_environment(), **dict(job.environment)},
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        return code, said.read().decode(errors="replace")


def failure(job: Job, found: list[dict], code: int, said: str) -> str | None:
    """What went wrong, in a line, or None. A check that counted differences has ended as it should.

    compute-sanitizer objects to nothing, too, where it saw no call of CUDA.
    """
    counted = code == 1 and any(f.get("differing") for f in found)
    watched = job.part != "sanitizer" or (SUMMARY.search(said) and SAW_NOTHING not in said)
    if counted or (code == 0 and watched and (found or job.result is None)):
        return None
    if code == 0 and not watched:
        return "compute-sanitizer watched nothing"
    lines = said.strip().splitlines() or ["said nothing"]
    ours = [line for line in lines if line.startswith("error:")]
    telling = [line for line in lines if re.match(r"[\w.]*Error\b", line) or SUMMARY.match(line)]
    return f"exit code {code}: {(ours[:1] or telling[-1:] or lines[-1:])[0].strip()}"


def resumed(job: Job) -> Outcome | None:
    """What an earlier run found, where it got so far."""
    if job.result is None or not job.result.exists():
        return None
    return Outcome(job, json.loads(job.result.read_text()), None)


def records(outcomes: list[Outcome], known: list[Case]) -> list[dict]:
    """Records of all times; `exact` says whether every check of a case found every logit right, None: not checked."""
    counted: dict[str, list[int]] = {}
    for outcome in outcomes:
        for f in outcome.found if outcome.job.part == "checks" else ():
            counted.setdefault(f["case"], []).append(f["differing"])
    exact = {
        (c.facts["network"], c.facts["bits"], c.batch): not any(counted[c.folder.name])
        for c in known
        if c.folder.name in counted
    }
    found = [r for outcome in outcomes if outcome.job.part == "times" for r in outcome.found]
    return [{**r, "exact": exact.get((r["network"], r["bits"], r["batch"]))} for r in found]


def wrong(outcomes: list[Outcome]) -> bool:
    """Whether anything differs or failed."""
    return any(o.failure or any(f.get("differing") for f in o.found) for o in outcomes)


def markdown(outcomes: list[Outcome], found: list[dict], remarks: list[str]) -> str:
    """Failures and differences first, then the tables."""
    failures = [f"* {o.job.name}: **{o.failure}**" for o in outcomes if o.failure]
    gpus = [f"* {gpu}" for gpu in sorted({r["gpu"] for r in found})]
    lines = ["# bitgrade on a GPU", "", *gpus, *(f"* {r}" for r in remarks), *failures, ""]
    checks = [f for o in outcomes if o.job.part == "checks" for f in o.found]
    lines += _table(
        ("network", "by", "pictures", "differing"),
        [(f["case"], f["part"], f["pictures"], f["differing"]) for f in checks],
    )
    lines += _table(
        ("compute-sanitizer", "result"),
        [(o.job.name, o.failure or "no objection") for o in outcomes if o.job.part == "sanitizer"],
    )
    lines += _table(
        ("network", "batch", "engine", "bits", "ms", "share of the peak", "exact"),
        [
            (
                r["network"],
                r["batch"],
                r["engine"],
                r["bits"],
                f"{r['ms']:.4f}",
                _share(r["peak_share"]),
                {True: "yes", False: "NO", None: ""}[r["exact"]],
            )
            for r in found
        ],
    )
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _table(head: tuple[str, ...], rows: list[tuple]) -> list[str]:
    if not rows:
        return []
    return [" | ".join(map(str, row)).join(("| ", " |")) for row in (head, ("---",) * len(head), *rows)] + [""]


def report(outcomes: list[Outcome], known: list[Case], remarks: list[str], out: Path) -> str:
    """Writes cuda.json and cuda.md as far as things have got; returns the text."""
    found = records(outcomes, known)
    text = markdown(outcomes, found, remarks)
    write_json(out / "cuda.json", found)
    (out / "cuda.md").write_text(text + "\n")
    return text


def arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path, help="folder of benchmarks.cuda.cases")
    parser.add_argument("--out", type=Path, required=True, help="folder for cuda.json, cuda.md and each part's results")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts to run (default {','.join(PARTS)})")
    parser.add_argument("--match", default="*", help="networks to run, such as 'resnet20-*' (default '*')")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run has left in --out")
    parser.add_argument("--compile", action="store_true", help="compile the networks with this machine's nvcc first")
    parser.add_argument(
        "--build", action="store_true", help="make the cases first; further arguments go to benchmarks.cuda.cases"
    )
    args, rest = parser.parse_known_args(argv)
    if rest and not args.build:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.only = args.only.split(",")
    if unknown := set(args.only) - set(PARTS):
        parser.error(f"--only: expected parts among {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    return args, rest


def lacking() -> str | None:
    """What keeps this machine from running anything, or None."""
    if absent := [package for module, package in PACKAGES.items() if find_spec(module) is None]:
        return f"expected the packages {', '.join(PACKAGES.values())} for {sys.executable}, got no {', '.join(absent)}"
    import torch  # here, so that its absence can be told

    return None if torch.cuda.is_available() else "expected an NVIDIA GPU and torch with CUDA, got none"


def prepared(args: argparse.Namespace, rest: list[str]) -> list[Path]:
    """Folders of networks, made or compiled first where that was asked for. Raises ValueError, OSError."""
    if args.build:
        subprocess.run([*_python("benchmarks.cuda.cases"), str(args.cases), *rest], env=_environment(), check=True)
    found = folders(args.cases, args.match)
    if args.compile:
        compile_all(found)
    return found


def main(argv: list[str] | None = None) -> int:
    """0 when all is right, 1 when anything differs or fails, 2 where nothing can be run."""
    args, rest = arguments(argv)
    if lack := lacking():
        print(f"error: {lack}", file=sys.stderr)
        return 2
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        found, sanitizer = prepared(args, rest), find_sanitizer()
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    absent = "sanitizer" in args.only and not sanitizer
    remarks = ["compute-sanitizer: not found, nothing ran under it"] if absent else []
    jobs = {
        "checks": check_jobs(found, args.out),
        "times": time_jobs(found, args.out),
        "sanitizer": sanitizer_jobs(found, sanitizer) if sanitizer and cases(found) else [],
    }
    outcomes, text = [], ""
    for job in (job for part in PARTS if part in args.only for job in jobs[part]):
        outcomes.append((args.resume and resumed(job)) or run(job))
        text = report(outcomes, cases(found), remarks, args.out)
    print(text)
    return 1 if wrong(outcomes) else 0
