"""Compiles a run's variants for one target: `python -m compile.build [RUN | FILE.onnx ...] --target x86|arm|cuda`.

ONNX -> integer graph -> kernels -> library -> verification ladder -> bundle
"""

import argparse
import importlib.metadata
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from compile import verify
from compile.dump import dump
from compile.libraries import Libraries
from compile.lower import Lowered, lower, table_of_rules
from compile.onnx_import import Normalization
from compile.source import Source, SourceVariant, newest_run, open_source
from compile.writer import Built, write_bundle, write_contents
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
) -> Path:
    """Builds a bundle and returns its folder; every error is a ValueError or OSError that says what to do.

    paths: a run folder or ONNX files. golden: pictures that the compiled code must reproduce during the build (all of
    them travel with the bundle). source_only: leave out what needs the target's own compiler. normalization: (mean,
    std) of ONNX files whose picture is a float tensor, x = (u8 / 255 - mean) / std.
    """
    console = console or Console()
    source = open_source(paths, normalization)
    out = out or Path("bundles") / f"{source.name}-{target.name.replace(':', '-')}"
    console.print(f"{source.name}: {len(source.variants)} variants for {target.name} -> {out}")

    def fill(folder: Path) -> dict:
        built, rungs, libraries = [], [], Libraries(target, folder, dump_to, source_only)
        libraries.require_some_level()
        for variant in source.variants:
            lowered = [lower(variant.graph, level) for level in target.compiled_for]
            _print_rules(console, variant, target, lowered)
            if dump_to:
                dump(dump_to, variant, target, lowered)
            library = libraries.add(variant.name, lowered)
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
    return {"bitgrade": "0.1.0", **{p: importlib.metadata.version(p) for p in packages}}


def _print_rules(console: Console, variant: SourceVariant, target: Target, lowered: list[Lowered]) -> None:
    """The rule of every layer; levels that take the same ones share a column."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for level, one in zip(target.compiled_for, lowered, strict=True):
        rules = tuple(rule for _, rule, _, _ in table_of_rules(variant.graph, one))
        columns.setdefault(rules, []).append(level.name)
    title = f"{variant.name}: kernels"
    table = Table("layer", "bits", "MACs", *(", ".join(names) for names in columns.values()), title=title,
                  title_justify="left")
    for (layer, _, bits, work), *rules in zip(table_of_rules(variant.graph, lowered[0]), *columns, strict=True):
        table.add_row(layer, bits, f"{work:,}" if work else "", *rules)
    console.print(table)


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
        mean = f", accuracy {np.mean(list(v.facts['accuracy'].values())):.1%}" if v.facts["accuracy"] else ""
        console.print(f"  {v.name}: {v.facts['macs'] / 1e6:.1f} M MACs, cost {v.facts['cost']:.3f} of W8A8{mean}")
    size = sum(p.stat().st_size for p in bundle.rglob("*") if p.is_file())
    console.print(f"bundle: {bundle} ({size / 1e6:.2f} MB); try `python -m runtime check {bundle}` on the device")


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(v) for v in text.split(","))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m compile.build", description=__doc__.splitlines()[0])
    parser.add_argument(
        "source", nargs="*", type=Path, help="a run folder or ONNX files; default: the newest run under runs/"
    )
    parser.add_argument("--target", required=True, help=", ".join(t.name for t in targets()))
    parser.add_argument("--out", type=Path, help="bundle folder; default: bundles/<run>-<target>")
    parser.add_argument("--dump", type=Path, metavar="DIR", help="leave a readable file for each stage there")
    parser.add_argument(
        "--source-only", action="store_true", help="cuda without nvcc: keep the source for the board to compile"
    )
    parser.add_argument(
        "--golden", type=int, default=4, help="golden pictures the compiled code must reproduce now (default 4)"
    )
    parser.add_argument("--mean", type=_floats, metavar="R,G,B", help="of ONNX files with a float picture, which is")
    parser.add_argument("--std", type=_floats, metavar="R,G,B", help="(u8 / 255 - mean) / std")
    args = parser.parse_args(argv)
    if args.golden < 1:
        parser.error(f"--golden: expected at least 1 picture to check the compiled code with, got {args.golden}")
    if (args.mean is None) != (args.std is None):
        parser.error("--mean and --std belong together; give both, or neither for files with a uint8 picture")
    try:
        build(
            args.source or [newest_run()],
            find(args.target),
            args.out,
            args.dump,
            args.source_only,
            args.golden,
            None if args.mean is None else (args.mean, args.std),
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
