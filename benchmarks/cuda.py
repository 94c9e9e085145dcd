"""Everything that prepared networks can show on this machine's GPU: are they right, are they clean, how fast are they?

    python -m benchmarks.cuda cases --out results               # prepared elsewhere by benchmarks.cuda_cases
    python -m benchmarks.cuda cases --build --out results       # TVM and nvcc are here: prepare them first

Needs numpy, torch with CUDA and apache-tvm-ffi; compute-sanitizer where there is one. In parts, each in processes of
its own, so that what fails hides nothing else:

    checks      all logits of all pictures, by `main` and by a CUDA graph of it; bundles through the engine
    sanitizer   the smallest network under compute-sanitizer
    times       milliseconds beside PyTorch in fp16, and the share of the GPU's own peak

Leaves cuda.json (records) and cuda.md (tables) in --out; exits with 1 if anything differs or fails.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch

from benchmarks.cuda_checks import Case
from benchmarks.records import write_records

ROOT = Path(__file__).parents[1]
PARTS = ("checks", "sanitizer", "times")
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SANITIZER, FOUND_OBJECTIONS = "/usr/local/cuda/bin/compute-sanitizer", 9
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


def folders(root: Path, only: str = "*") -> list[Path]:
    """Cases and bundles under a folder whose names match; raises ValueError where there is none."""
    kept = (p for p in sorted(root.glob("*")) if fnmatch(p.name, only) and not p.name.startswith("peak-"))
    found = [p for p in kept if (p / "case.json").exists() or (p / "manifest.json").exists()]
    if not found:
        raise ValueError(f"{root}: expected prepared networks named {only}, found none; make some with "
                         "`python -m benchmarks.cuda_cases`, or with --build where TVM and nvcc are")
    return found


def cases(found: Iterable[Path]) -> list[Case]:
    """Those that are no bundles."""
    return [Case.read(p) for p in found if (p / "case.json").exists()]


def check_jobs(found: list[Path], out: Path) -> list[Job]:
    return [_job("checks", f"checks-{p.name}", "benchmarks.cuda_checks", [p], out) for p in found]


def time_jobs(found: list[Path], out: Path) -> list[Job]:
    """One for each network and batch: its configurations take turns with each other and with the peers."""
    together: dict[str, list[Path]] = {}
    for case in cases(found):
        together.setdefault(f"times-{case.facts['network']}-{case.batch}", []).append(case.folder)
    return [_job("times", name, "benchmarks.cuda_times", group, out) for name, group in together.items()]


def sanitizer_jobs(found: list[Path], sanitizer: str) -> list[Job]:
    """The network of least work for the smallest batch, several configurations of it, under each tool."""
    by_work = sorted(cases(found), key=lambda c: (sum(c.facts["macs"].values()), c.folder.name))
    least = [c for c in by_work if (c.facts["network"], c.batch) == (by_work[0].facts["network"], by_work[0].batch)]
    # each tensor in memory of its own: inside one large allocation no access would be out of bounds
    alone = (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)
    return [Job("sanitizer", f"{tool}-{case.folder.name}",
                (sanitizer, "--tool", tool, "--error-exitcode", str(FOUND_OBJECTIONS),
                 *_python("benchmarks.cuda_checks"), str(case.folder), "--most", str(FEW)), environment=alone)
            for case in least for tool in TOOLS]


def find_sanitizer() -> str | None:
    return shutil.which("compute-sanitizer") or (SANITIZER if Path(SANITIZER).exists() else None)


def _python(module: str) -> tuple[str, ...]:
    return sys.executable, "-m", module


def _job(part: str, name: str, module: str, arguments: list[Path], out: Path) -> Job:
    result = out / f"{name}.json"
    return Job(part, name, (*_python(module), *map(str, arguments), "--json", str(result)), result)


def _environment() -> dict[str, str]:
    """This process's, with this checkout where Python looks for modules."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}


def run(job: Job, seconds: float = LIMIT) -> Outcome:
    """Runs a job to its end, or for so many seconds at most; shows what it said."""
    print(f"== {job.name}", flush=True)
    if job.result is not None:
        job.result.unlink(missing_ok=True)
    try:
        done = subprocess.run(job.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds,
                              env={**_environment(), **dict(job.environment)})
    except subprocess.TimeoutExpired:
        return Outcome(job, [], f"no end after {seconds:g} s")
    except OSError as error:
        return Outcome(job, [], str(error))
    print(done.stdout, end="", flush=True)
    found = json.loads(job.result.read_text()) if job.result is not None and job.result.exists() else []
    return Outcome(job, found, failure(job, found, done.returncode, done.stdout))


def failure(job: Job, found: list[dict], code: int, said: str) -> str | None:
    """What went wrong, in a line, or None. A check that counted differences has ended as it should."""
    counted = code == 1 and any(f.get("differing") for f in found)
    if counted or (code == 0 and (found or job.result is None)):
        return None
    lines = said.strip().splitlines() or ["said nothing"]
    telling = [line for line in lines if re.match(r"error:|[\w.]*Error\b|========= ERROR SUMMARY", line)]
    return f"exit code {code}: {(telling or lines)[-1].strip()}"


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
    exact = {(c.facts["network"], c.facts["bits"], c.batch): not any(counted[c.folder.name])
             for c in known if c.folder.name in counted}
    found = [r for outcome in outcomes if outcome.job.part == "times" for r in outcome.found]
    return [{**r, "exact": exact.get((r["network"], r["bits"], r["batch"]))} for r in found]


def wrong(outcomes: list[Outcome]) -> bool:
    """Whether anything differs or failed."""
    return any(o.failure or any(f.get("differing") for f in o.found) for o in outcomes)


def markdown(outcomes: list[Outcome], found: list[dict], remarks: list[str]) -> str:
    """Failures and differences first, then the tables."""
    failures = [f"* {o.job.name}: **{o.failure}**" for o in outcomes if o.failure]
    lines = ["# bitgrade on a GPU", "", *(f"* {r}" for r in remarks), *failures, ""]
    checks = [f for o in outcomes if o.job.part == "checks" for f in o.found]
    lines += _table(("network", "by", "pictures", "differing"),
                    [(f["case"], f["part"], f["pictures"], f["differing"]) for f in checks])
    lines += _table(("compute-sanitizer", "result"), [(o.job.name, o.failure or "no objection") for o in outcomes
                                                     if o.job.part == "sanitizer"])
    lines += _table(("network", "batch", "engine", "bits", "ms", "share of the peak", "exact"),
                    [(r["network"], r["batch"], r["engine"], r["bits"], f"{r['ms']:.4f}", _share(r["peak_share"]),
                      {True: "yes", False: "NO", None: ""}[r["exact"]]) for r in found])
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
    write_records(out / "cuda.json", found)
    (out / "cuda.md").write_text(text + "\n")
    return text


def arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path, help="folder of benchmarks.cuda_cases")
    parser.add_argument("--out", type=Path, required=True, help="folder for cuda.json, cuda.md and each part's results")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts to run (default {','.join(PARTS)})")
    parser.add_argument("--match", default="*", help="networks to run, such as 'resnet20-*' (default '*')")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run has left in --out")
    parser.add_argument("--build", action="store_true",
                        help="make the cases first; further arguments go to benchmarks.cuda_cases")
    args, rest = parser.parse_known_args(argv)
    if rest and not args.build:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.only = args.only.split(",")
    if unknown := set(args.only) - set(PARTS):
        parser.error(f"--only: expected parts among {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    return args, rest


def main(argv: list[str] | None = None) -> int:
    """0 when all is right, 1 when anything differs or fails, 2 where nothing can be run."""
    args, rest = arguments(argv)
    if not torch.cuda.is_available():
        print("error: expected an NVIDIA GPU and torch with CUDA, got none", file=sys.stderr)
        return 2
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        if args.build:
            subprocess.run([*_python("benchmarks.cuda_cases"), str(args.cases), *rest], env=_environment(), check=True)
        found, sanitizer = folders(args.cases, args.match), find_sanitizer()
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    absent = "sanitizer" in args.only and not sanitizer
    remarks = ["compute-sanitizer: not found, nothing ran under it"] if absent else []
    jobs = {"checks": check_jobs(found, args.out), "times": time_jobs(found, args.out),
            "sanitizer": sanitizer_jobs(found, sanitizer) if sanitizer and cases(found) else []}
    outcomes, text = [], ""
    for job in (job for part in PARTS if part in args.only for job in jobs[part]):
        outcomes.append((args.resume and resumed(job)) or run(job))
        text = report(outcomes, cases(found), remarks, args.out)
    print(text)
    return 1 if wrong(outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
