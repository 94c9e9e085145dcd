"""Processes of `python -m benchmarks.cuda`: one for each thing to look at, so that what fails hides nothing else."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cuda.case import Case, read_cases
from benchmarks.cuda.records import CheckRecord, Record, read_records

ROOT = Path(__file__).parents[2]
# tool of compute-sanitizer -> its options; calls of CUDA that fail are told by whoever makes them, torch tries some
TOOLS: dict[str, tuple[str, ...]] = {
    "memcheck": ("--report-api-errors", "no"),
    "racecheck": (),
    "initcheck": (),
    "synccheck": (),
}
SANITIZER = "/usr/local/cuda/bin/compute-sanitizer"
FOUND_OBJECTIONS = 9  # exit code of compute-sanitizer that we ask for
SUMMARY = re.compile(r"={9} (\w+ )?SUMMARY")  # its words
SAW_NOTHING = "before first instrumented API call"
FEW = 2  # pictures under compute-sanitizer
LIMIT = 1200  # seconds: a kernel that never ends must not hide what comes after it


@dataclass(frozen=True)
class Job:
    """One process: its part, a name that is a file name too, and its command.

    result: the JSON file of records that it leaves, None where it leaves none.
    """

    part: str
    name: str
    command: tuple[str, ...]
    result: Path | None = None
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class JobResult:
    """What a job left; failure: one line, None where it ended as it should."""

    job: Job
    records: tuple[Record, ...]
    failure: str | None

    @property
    def is_wrong(self) -> bool:
        """Whether it failed, or counted differences."""
        return self.failure is not None or has_differences(self.records)


def has_differences(records: Sequence[Record]) -> bool:
    """Whether any check counted a picture that differs."""
    return any(isinstance(record, CheckRecord) and record.differing for record in records)


def check_jobs(networks: Sequence[Path], out: Path) -> list[Job]:
    """Returns a job for each case and bundle."""
    return [_job("checks", f"checks-{p.name}", "benchmarks.cuda.checks", [p], out) for p in networks]


def time_jobs(networks: Sequence[Path], out: Path) -> list[Job]:
    """Returns a job for each network and batch: its configurations take turns with each other and with the peers."""
    together: dict[str, list[Path]] = {}
    for case in read_cases(networks):
        together.setdefault(f"times-{case.network}-{case.batch}", []).append(case.folder)
    return [_job("times", name, "benchmarks.cuda.times", group, out) for name, group in together.items()]


def sanitizer_jobs(networks: Sequence[Path], sanitizer: str) -> list[Job]:
    """Returns jobs of the least network in all configurations under each tool, and of one of every other network.

    The others run under memcheck alone. All take the smallest batch there is. Other networks have kernels of their own:
    depthwise layers, pooling.
    """
    by_work = sorted(read_cases(networks), key=lambda case: (case.work, case.name))
    groups: dict[str, list[Case]] = {}
    for case in by_work:
        groups.setdefault(case.network, []).append(case)
    least, *others = ([c for c in group if c.batch == group[0].batch] for group in groups.values())
    pairs = [(case, tool) for case in least for tool in TOOLS]
    pairs += [(min(group, key=lambda case: case.name), "memcheck") for group in others]
    return [_sanitizer_job(case, tool, sanitizer) for case, tool in pairs]


def _sanitizer_job(case: Case, tool: str, sanitizer: str) -> Job:
    watched = (*_python("benchmarks.cuda.checks"), str(case.folder), "--most", str(FEW))
    command = (sanitizer, "--tool", tool, *TOOLS[tool], "--error-exitcode", str(FOUND_OBJECTIONS), *watched)
    # each tensor in memory of its own: inside one large allocation no access would be out of bounds
    return Job("sanitizer", f"{tool}-{case.name}", command, environment=(("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),))


def find_sanitizer() -> str | None:
    """Returns the path of compute-sanitizer; None where there is none."""
    return shutil.which("compute-sanitizer") or (SANITIZER if Path(SANITIZER).exists() else None)


def _python(module: str) -> tuple[str, ...]:
    return sys.executable, "-m", module


def _job(part: str, name: str, module: str, folders: Sequence[Path], out: Path) -> Job:
    result = out / f"{name}.json"
    return Job(part, name, (*_python(module), *map(str, folders), "--json", str(result)), result)


def run_python(module: str, arguments: Sequence[str]) -> None:
    """Runs `python -m module arguments` to its end; raises subprocess.CalledProcessError where it fails."""
    subprocess.run([*_python(module), *arguments], env=_environment(), check=True)


def _environment() -> dict[str, str]:
    """This process's, with this checkout where Python looks for modules."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    # tvm_ffi would compile an extension for older versions of torch, which nothing here needs
    return {**os.environ, "PYTHONPATH": path, "TVM_FFI_DISABLE_TORCH_C_DLPACK": "1"}


def run_job(job: Job, seconds: float = LIMIT) -> JobResult:
    """Runs a job to its end, or for so many seconds at most, and prints what it said."""
    print(f"== {job.name}", flush=True)
    if job.result is not None:
        job.result.unlink(missing_ok=True)
    try:
        code, output = _run_to_end(job, seconds)
        print(output, end="", flush=True)
        records = _records_of(job)
    except (OSError, ValueError) as error:
        return JobResult(job, (), str(error))
    if code is None:
        return JobResult(job, records, f"no end after {seconds:g} s")
    return JobResult(job, records, describe_failure(job, records, code, output))


def resume_job(job: Job) -> JobResult | None:
    """Returns what an earlier run of a job left; None where it left nothing. Raises ValueError for a damaged file."""
    if job.result is None or not job.result.exists():
        return None
    return JobResult(job, _records_of(job), None)


def _records_of(job: Job) -> tuple[Record, ...]:
    if job.result is None or not job.result.exists():
        return ()
    return read_records(job.result, job.part)


def _run_to_end(job: Job, seconds: float) -> tuple[int | None, str]:
    """Exit code, None after so many seconds, and what was said; processes that the job started end with it.

    Said into a file: a process that stays behind would keep a pipe open, and its reader waiting.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            job.command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**_environment(), **dict(job.environment)},
        )
        code: int | None = None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return code, output.read().decode(errors="replace")


def describe_failure(job: Job, records: Sequence[Record], code: int, output: str) -> str | None:
    """Returns what went wrong, in a line, or None. A check that counted differences has ended as it should.

    compute-sanitizer objects to nothing, too, where it saw no call of CUDA.
    """
    counted = code == 1 and has_differences(records)
    watched = job.part != "sanitizer" or (SUMMARY.search(output) is not None and SAW_NOTHING not in output)
    if counted or (code == 0 and watched and (records or job.result is None)):
        return None
    if code == 0 and not watched:
        return "compute-sanitizer watched nothing"
    return f"exit code {code}: {_telling_line(output)}"


def _telling_line(output: str) -> str:
    """Our own error, else the last line that names an error, else the last line."""
    lines = output.strip().splitlines() or ["said nothing"]
    own = [line for line in lines if line.startswith("error:")]
    named = [line for line in lines if re.match(r"[\w.]*Error\b", line) or SUMMARY.match(line)]
    return (own[:1] or named[-1:] or lines[-1:])[0].strip()
