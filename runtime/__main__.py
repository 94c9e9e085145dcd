"""Runs the command line of a device: `python -m runtime check | infer | bench | info [BUNDLE]`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.arguments import Request, find_newest, make_parser, parse_arguments
from runtime.commands import check_bundle, classify_files, describe_bundle, measure_latency
from runtime.engine import Engine
from runtime.fields import BundleError
from runtime.json_output import STANDARD_OUTPUT, require_writable, write_output
from runtime.pictures.files import PictureError, pictures_in
from runtime.tables import show_bench, show_check, show_infer, show_info
from runtime.terminal import say, terminal


@dataclass(frozen=True)
class CommandResult:
    """What a command found: as JSON, as text, errors and warnings about single pictures, and the exit status."""

    content: Any
    text: str
    errors: tuple[str, ...] = ()
    status: int = 0
    warnings: tuple[str, ...] = ()


def run_check(bundle: Path) -> CommandResult:
    """Compares golden logits; the status is 1 where any differs."""
    records = check_bundle(bundle)
    status = 1 if any(record.differing for record in records) else 0
    return CommandResult([record.to_dict() for record in records], show_check(records), status=status)


def run_info(bundle: Path) -> CommandResult:
    """Describes the bundle."""
    record = describe_bundle(bundle)
    return CommandResult(record.to_dict(), show_info(record))


def run_bench(bundle: Path, request: Request) -> CommandResult:
    """Measures the latency of each step."""
    with Engine(bundle, budget=request.budget, level=request.level, threads=request.threads) as engine:
        records = measure_latency(engine, request.calls)
    return CommandResult([record.to_dict() for record in records], show_bench(records))


def run_infer(bundle: Path, request: Request) -> CommandResult:
    """Classifies the pictures named, alone or in folders; the status is 1 where any of them cannot be read."""
    files, missing = find_files(request.pictures)
    with Engine(bundle, request.budget, request.variant, request.level, request.threads, request.escalate) as engine:
        classified = classify_files(engine, files)
    budget = "" if engine.budget is None else f"{engine.budget:g}"
    if request.budget is None and engine.bundle.manifest.budget is not None and budget:
        budget += " (the bundle's own)"
    errors = (*missing, *classified.errors)
    text = show_infer(classified.records, engine.level, budget)
    content = [record.to_dict() for record in classified.records]
    return CommandResult(content, text, errors, 1 if errors else 0, tuple(classified.warnings))


def find_files(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Returns the files that were named, alone and in folders, and an error for each folder that holds none.

    Raises PictureError where there are no files at all.
    """
    files: list[Path] = []
    errors = []
    for path in paths:
        try:
            files += pictures_in(path)
        except PictureError as error:
            errors.append(str(error))
    if not files:
        nothing = "expected the files of pictures to classify, got none; name at least one"
        raise PictureError("; ".join(errors) or nothing)
    return files, errors


def run_command(request: Request) -> int:
    """Runs a command, writes what it found and returns the exit status.

    Raises BundleError, ValueError, TypeError or OSError where it cannot be run.
    """
    quiet = request.json == STANDARD_OUTPUT
    bundle = request.bundle
    if bundle is None:
        bundle = find_newest(request)
        if not quiet:
            say(f"bundle: {bundle}")
    if request.json is not None:
        require_writable(request.json, bundle)
    if request.command == "check":
        result = run_check(bundle)
    elif request.command == "info":
        result = run_info(bundle)
    elif request.command == "bench":
        result = run_bench(bundle, request)
    else:
        result = run_infer(bundle, request)
    if request.json is not None:
        write_output(request.json, result.content)
    if not quiet:
        say(result.text)
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for error in result.errors:
        print(f"error: {error}", file=sys.stderr)
    return result.status


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when all went well, 1 when golden logits differ or a picture cannot be read, 2 for an error."""
    request = parse_arguments(argv)
    if request is None:
        say(make_parser().format_help().rstrip())
        return 0
    try:
        return run_command(request)
    except (BundleError, ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    with terminal():
        status = main()
    sys.exit(status)
