"""What jobs on a GPU have shown, as records (cuda.json) and as tables (cuda.md)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.cuda.case import Case
from benchmarks.cuda.jobs import JobResult
from benchmarks.cuda.records import CheckRecord, TimeRecord, write_records

EXACT = {True: "yes", False: "NO", None: ""}


def join_records(results: Sequence[JobResult], cases: Sequence[Case]) -> list[TimeRecord]:
    """Returns the records of all times, each with whether every check of its case found every logit right."""
    differing: dict[str, list[int]] = {}
    for check in _checks(results):
        differing.setdefault(check.case, []).append(check.differing)
    exact = {(c.network, c.bits, c.batch): not any(differing[c.name]) for c in cases if c.name in differing}
    times = [record for result in results for record in result.records if isinstance(record, TimeRecord)]
    return [replace(r, exact=exact.get((r.network, r.bits, r.batch))) for r in times]


def make_markdown(results: Sequence[JobResult], times: Sequence[TimeRecord], remarks: Sequence[str]) -> str:
    """Returns failures and differences first, then the tables."""
    failures = [f"* {result.job.name}: **{result.failure}**" for result in results if result.failure]
    gpus = [f"* {gpu}" for gpu in sorted({record.gpu for record in times})]
    lines = ["# bitgrade on a GPU", "", *gpus, *(f"* {remark}" for remark in remarks), *failures, ""]
    lines += _table(
        ("network", "by", "pictures", "differing"),
        [(check.case, check.part, str(check.pictures), str(check.differing)) for check in _checks(results)],
    )
    lines += _table(
        ("compute-sanitizer", "result"),
        [(r.job.name, r.failure or "no objection") for r in results if r.job.part == "sanitizer"],
    )
    lines += _table(
        ("network", "batch", "engine", "bits", "ms", "share of the peak", "exact"),
        [
            (r.network, str(r.batch), r.engine, r.bits, f"{r.ms:.4f}", _share(r.peak_share), EXACT[r.exact])
            for r in times
        ],
    )
    return "\n".join(lines)


def write_results(results: Sequence[JobResult], cases: Sequence[Case], remarks: Sequence[str], out: Path) -> str:
    """Writes cuda.json and cuda.md as far as things have got; returns the text."""
    times = join_records(results, cases)
    text = make_markdown(results, times, remarks)
    write_records(out / "cuda.json", times)
    (out / "cuda.md").write_text(text + "\n")
    return text


def _checks(results: Sequence[JobResult]) -> list[CheckRecord]:
    return [record for result in results for record in result.records if isinstance(record, CheckRecord)]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)] + [""]
