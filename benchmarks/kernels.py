"""GMAC/s of convolution kernels on this machine, one thread, whole layers: borders, requantization, stores and all.

    python -m benchmarks.kernels --target x86:avx2 --json kernels.json

The share is that of the most multiply-adds this processor can do by the kernel's own way (benchmarks/peaks.py),
measured in the same run.
"""

import re
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import peaks
from compile.profile import layer_call
from compile.times.measured import Local
from runtime.files import write_json
from runtime.terminal import OneLineParser
from targets import Target, find
from targets.costs.shapes import Shape

BITS = ("w8a8", "w7a8", "w4a4", "w2a2", "w4a8", "w8a4", "w2a4", "w4a2")
# words of a rule -> the peak that belongs to it, the first that fits; a chain of one step is a plain multiply-add
PEAKS = (
    ("look-up", "look-up"),
    (r"chain (?!1\b)", "int16 chain"),
    ("wide dot product", "wide dot product"),
    ("dot product", "dot product"),
    ("", "multiply-add"),
)


def _conv(side: int, inputs: int, outputs: int, kernel: int) -> Shape:
    return Shape("conv", (kernel, kernel), (1, 1), (side, side, inputs), (side, side, outputs))


def _depthwise(side: int, channels: int) -> Shape:
    return Shape("depthwise", (3, 3), (1, 1), (side, side, channels), (side, side, channels), channels)


SHAPES = (
    *(_conv(side, c, c, 3) for side, c in ((32, 16), (16, 32), (8, 64), (56, 64), (28, 128), (14, 256), (7, 512))),
    *(_conv(*sizes, 1) for sizes in ((56, 24, 144), (14, 64, 384), (14, 384, 64), (7, 320, 1280))),
    *(_depthwise(side, c) for side, c in ((112, 32), (56, 144), (28, 192), (14, 576), (7, 960))),
)


def peak_of(rule: str, peaks: dict[str, float]) -> float | None:
    """GMAC/s that the rule's way of multiplying could reach; None where peaks do not tell."""
    return peaks.get(next(peak for words, peak in PEAKS if re.search(words, rule)))


def measure(target: Target, shapes: tuple[Shape, ...] = SHAPES, bits: tuple[str, ...] = BITS) -> list[dict]:
    """Records of every shape at all bits; the bits of a shape take turns."""
    machine, reached, records = Local(target), peaks.measure(), []
    for shape in shapes:
        calls = [layer_call(shape, widths, target) for widths in bits]
        for widths, call, us in zip(bits, calls, machine.times(calls), strict=True):
            rule = call.kernel.rule
            records.append(
                {
                    "target": target.name,
                    "layer": str(shape),
                    "rule": rule,
                    "bits": widths,
                    "us": us,
                    "gmacs": shape.work / us / 1e3,
                    "peak_gmacs": peak_of(rule, reached),
                }
            )
    return records


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    parser = OneLineParser(prog="python -m benchmarks.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="x86:avx2", help="one this machine runs (default x86:avx2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there too")
    args = parser.parse_args(argv)
    try:
        records = measure(find(args.target))
        if args.json:
            write_json(args.json, records)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    title = f"{args.target}, one thread, GMAC/s"
    table = Table("layer", "bits", "rule", "GMAC/s", "peak", "share", title=title, title_justify="left")
    for r in records:
        peak = r["peak_gmacs"]
        share = ("-", "-") if peak is None else (f"{peak:.0f}", f"{r['gmacs'] / peak:.0%}")
        table.add_row(_label(Shape.parse(r["layer"])), r["bits"], r["rule"], f"{r['gmacs']:.1f}", *share)
    Console().print(table)
    return 0


def _label(shape: Shape) -> str:
    channels = shape.input[2] if shape.groups > 1 else f"{shape.input[2]}>{shape.output[2]}"
    return f"{shape.kind} {shape.kernel[0]}x{shape.kernel[1]} {shape.output[0]} px {channels}"


if __name__ == "__main__":
    sys.exit(main())
