"""Compiles a run's variants for one target: `python -m compile.build [RUN | FILE.onnx ...] [--target x86|arm|cuda]`.

ONNX -> integer graph -> kernels -> library -> verification ladder -> bundle
"""

import argparse
import importlib.metadata
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from compile import verify
from compile.bundle.libraries import Libraries
from compile.bundle.writer import Built, require_place, write_bundle, write_contents
from compile.dump import dump
from compile.lowering.lower import Lowered, lower, table_of_rules
from compile.qdq.importer import Normalization
from compile.source.opened import Source, BuildVariant, newest_run, open_source, read_labels
from compile.times.layer_table import Report, print_report, report
from compile.times.measured import missing
from runtime.machine import cpu
from runtime.terminal import terminal
from runtime.version import VERSION
from targets import Target, find, targets


def build(
    paths: list[Path],
    target: Target,
    out: Path | None = None,
    dump_to: Path | None = None,
    source_only: bool = False,
    golden: int = 4,
    normalization: Normalization | None = None,
    console: Console | None = None,
    times: bool = True,
    batch: int = 1,
    labels: list[str] | None = None,
    verbose: bool = False,
) -> Path:
    """Builds a bundle and returns its folder; every error is a ValueError or OSError that says what to do.

    paths: a run folder or ONNX files. golden: pictures that the compiled code must reproduce during the build (all of
    them travel with the bundle). source_only: leave out what needs the target's own compiler. normalization: (mean,
    std) of ONNX files whose picture is a float tensor, x = (u8 / 255 - mean) / std. times: time each kernel where the
    target's code runs here; what is found is printed (and dumped), no part of the bundle. batch: pictures
    that the compiled code takes at once, on a GPU; fewer cost as much. labels: of ONNX files, one a class. verbose:
    print the table of layers of every variant, not only of the first of those that share their code.
    """
    console = console or Console(markup=False)
    for place, option in ((out, "--out"), (dump_to, "--dump")):
        if place is not None:
            require_place(place, option)
    source = open_source(paths, normalization, labels)
    out = out or Path("bundles") / f"{source.name}-{target.name.replace(':', '-')}"
    console.print(f"{source.name}: {len(source.variants)} variants for {target.name} -> {out}")

    def fill(folder: Path) -> dict:
        built, rungs, libraries = [], [], Libraries(target, folder, dump_to, source_only)
        libraries.require_some_level()
        for count, variant in enumerate(source.variants, 1):
            lowered = [lower(variant.graph, level, batch) for level in target.compiled_for]
            if dump_to:
                dump(dump_to, variant, target, lowered)
            library = libraries.add(variant.name, lowered)
            first = next((b.source.name for b in built if b.library == library), None)
            console.print(
                f"{count} of {len(source.variants)}: {variant.name}" + (f", the code of {first}" if first else ""),
                highlight=False,
            )
            layers = {}
            if first is None or verbose or dump_to:
                layers = _layers(variant, target, lowered, folder / library, times)
            for levels, one in layers.items() if first is None or verbose else ():
                print_report(one, f"{variant.name}: kernels, {levels}", console)
            if dump_to:
                path = dump_to / variant.name / "5-times.json"
                path.write_text(json.dumps({levels: asdict(one) for levels, one in layers.items()}, indent=1))
            rungs += verify.climb(variant, source.pictures, lowered, libraries.runners(library, lowered), golden)
            built.append(Built(variant, lowered, library))
        _print_rungs(console, rungs)
        verify.require(rungs)
        return write_contents(folder, source, target, built, {**_versions(), "built": libraries.facts})

    bundle = write_bundle(out, fill)
    _print_variants(console, source, bundle)
    return bundle


def _versions() -> dict:
    packages = ("apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "onnxruntime")
    return {"bitgrade": VERSION, **{p: importlib.metadata.version(p) for p in packages}}


def _layers(
    variant: BuildVariant, target: Target, lowered: list[Lowered], library: Path, times: bool
) -> dict[str, Report]:
    """Names of levels that take the same kernels -> the table of their layers, timed where one of them runs here."""
    alike: dict[tuple[str, ...], list[tuple[Target, Lowered]]] = {}
    for pair in zip(target.compiled_for, lowered, strict=True):
        alike.setdefault(tuple(rule for _, rule, _, _ in table_of_rules(variant.graph, pair[1])), []).append(pair)
    found = {}
    for pairs in alike.values():
        level, one = next((pair for pair in pairs if not missing(pair[0])), pairs[0])
        names = ", ".join(level.name for level, _ in pairs)
        found[names] = report(variant.graph, level, one, library, "main" + target.suffix(level), times)
    return found


def _print_rungs(console: Console, rungs: list[verify.Rung]) -> None:
    table = Table(
        "variant", "rung", "pictures", "logits", "differing", "", title="verification ladder", title_justify="left"
    )
    for r in rungs:
        verdict = "not run here" if not r.values else "ok" if r.holds else "FAILED"
        table.add_row(r.variant, r.name, str(r.pictures), str(r.values), str(r.differing), verdict)
    console.print(table)


def _print_variants(console: Console, source: Source, bundle: Path) -> None:
    for v in source.variants:
        mean = f", accuracy {np.mean(list(v.facts.accuracy.values())):.1%}" if v.facts.accuracy else ""
        console.print(f"  {v.name}: {v.facts.macs / 1e6:.1f} M MACs, cost {v.facts.cost:.3f} of W8A8{mean}")
    size = sum(p.stat().st_size for p in bundle.rglob("*") if p.is_file())
    console.print(f"bundle: {bundle} ({size / 1e6:.2f} MB); try `python -m runtime check {bundle}` on the device")


def _floats(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(v) for v in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise argparse.ArgumentTypeError(f"expected numbers such as 0.5,0.5,0.5, got {text!r}")
    return found


def _normalization(parser: argparse.ArgumentParser, mean, std) -> Normalization | None:
    if (mean is None) != (std is None):
        parser.error("--mean and --std belong together; give both, or neither for files with a uint8 picture")
    if mean is None:
        return None
    if len(mean) != len(std):
        parser.error(f"--mean and --std: expected as many numbers each, got {len(mean)} and {len(std)}")
    if min(std) <= 0:
        parser.error(f"--std: expected numbers above 0, got {min(std):g}")
    return mean, std


def _here() -> str | None:
    """The target of this machine's architecture, all its levels; None where there is none."""
    return next((t.name for t in targets() if t.levels and t.machine == cpu.machine()), None)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m compile.build", description=__doc__.splitlines()[0])
    parser.add_argument(
        "source", nargs="*", type=Path, help="a run folder or ONNX files; default: the newest run under runs/"
    )
    here, names = _here(), ", ".join(t.name for t in targets())
    parser.add_argument(
        "--target",
        default=here,
        required=here is None,
        help=names + (f" (default {here}, this machine)" if here else ""),
    )
    parser.add_argument("--out", type=Path, help="bundle folder; default: bundles/<run>-<target>")
    parser.add_argument("--dump", type=Path, metavar="DIR", help="leave a readable file for each stage there")
    parser.add_argument(
        "--source-only", action="store_true", help="cuda without nvcc: keep the source for the board to compile"
    )
    parser.add_argument(
        "--golden", type=int, default=4, help="golden pictures the compiled code must reproduce now (default 4)"
    )
    parser.add_argument("--no-times", action="store_true", help="do not time the kernels")
    parser.add_argument("--mean", type=_floats, metavar="R,G,B", help="of ONNX files with a float picture, which is")
    parser.add_argument("--std", type=_floats, metavar="R,G,B", help="(u8 / 255 - mean) / std")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="of ONNX files: a class a line, in their order")
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="a table of layers for each variant, not only the first of those that share their code",
    )
    parser.add_argument("--batch", type=int, default=1, help="cuda: pictures that run together (default 1)")
    args = parser.parse_args(argv)
    if args.batch < 1:
        parser.error(f"--batch: expected at least 1 picture, got {args.batch}")
    if args.golden < 1:
        parser.error(f"--golden: expected at least 1 picture to check the compiled code with, got {args.golden}")
    normalization = _normalization(parser, args.mean, args.std)
    try:
        build(
            args.source or [newest_run()],
            find(args.target),
            args.out,
            args.dump,
            args.source_only,
            args.golden,
            normalization,
            batch=args.batch,
            times=not args.no_times,
            labels=None if args.labels is None else read_labels(args.labels),
            verbose=args.verbose,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    with terminal():
        status = main()
    sys.exit(status)
