"""Compiles a run's variants for one target: `python -m compile.build [RUN | FILE.onnx ...] --target x86|arm|cuda`.

ONNX -> integer graph -> kernels -> library -> verification ladder -> bundle
"""

import argparse
import importlib
import importlib.metadata
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tvm_ffi import StructuralKey

from compile import verify
from compile.dump import dump
from compile.lower import Lowered, lower
from compile.onnx_import import Normalization
from compile.report import print_report, report
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
    times: bool = True,
) -> Path:
    """Builds a bundle and returns its folder; every error is a ValueError or OSError that says what to do.

    paths: a run folder or ONNX files. golden: pictures that the compiled code must reproduce during the build (all of
    them travel with the bundle). source_only: leave out what needs the target's own compiler. normalization: (mean,
    std) of ONNX files whose picture is a float tensor, x = (u8 / 255 - mean) / std. times: time each kernel where the
    target's code runs here; what is found is printed (and dumped), no part of the bundle.
    """
    console = console or Console()
    source = open_source(paths, normalization)
    toolchain = importlib.import_module(f"targets.{target.family}.toolchain")
    out = out or Path("bundles") / f"{source.name}-{target.name.replace(':', '-')}"
    console.print(f"{source.name}: {len(source.variants)} variants for {target.name} -> {out}")

    def fill(folder: Path) -> dict:
        built, rungs, known, facts = [], [], {}, {}
        for variant in source.variants:
            lowered = lower(variant.graph, target)
            if dump_to:
                dump(dump_to, variant, lowered)
            key = StructuralKey(lowered.module)
            if key not in known:
                known[key] = f"lib/{variant.name}.so"
                facts[known[key]] = _compile(toolchain, lowered, target, folder, variant, dump_to, source_only)
            layers = report(variant.graph, target, lowered, folder / known[key], times=times)
            print_report(layers, f"{variant.name}: kernels", console)
            if dump_to:
                (dump_to / variant.name / "5-times.json").write_text(json.dumps(asdict(layers), indent=1))
            runner = toolchain.runner(folder / known[key], target)
            rungs += verify.climb(variant, source.pictures, lowered, runner, golden)
            built.append(Built(variant, lowered, known[key]))
        _print_rungs(console, rungs)
        verify.require(rungs)
        return write_contents(folder, source, target, built, {**_versions(), "built": facts})

    bundle = write_bundle(out, fill)
    _print_variants(console, source, bundle)
    return bundle


def _compile(
    toolchain,
    lowered: Lowered,
    target: Target,
    folder: Path,
    variant: SourceVariant,
    dump_to: Path | None,
    source_only: bool,
) -> dict:
    library = folder / "lib" / f"{variant.name}.so"
    library.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        where = dump_to / variant.name if dump_to else Path(scratch)
        return toolchain.build(lowered.module, target, library, where, source_only=source_only)


def _versions() -> dict:
    packages = ("apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "onnxruntime")
    return {"bitgrade": "0.1.0", **{p: importlib.metadata.version(p) for p in packages}}


def _print_rungs(console: Console, rungs: list[verify.Rung]) -> None:
    table = Table(
        "variant", "rung", "pictures", "logits", "differing", "", title="verification ladder", title_justify="left"
    )
    for r in rungs:
        table.add_row(
            r.variant, r.name, str(r.pictures), str(r.values), str(r.differing), "ok" if r.holds else "FAILED"
        )
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
    parser.add_argument("--no-times", action="store_true", help="do not time the kernels")
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
            times=not args.no_times,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
