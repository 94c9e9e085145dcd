"""Measures what layers cost on a target: `python -m compile.profile --target T [RUN | FILE.onnx ...]`.

The distinct layers of the networks, at their own bits and at those of --bits, are compiled and timed one by one;
without networks, every layer that any target's table knows. The table is saved as it grows: an interrupted run goes on
where it stopped. Times are microseconds of one thread on this machine, or on a board over RPC; a processor that can
only be emulated has cycles of a model of it instead (targets/arm/cycles.py), and the table says so.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from compile.bundle.writer import require_place
from compile.lowering.lower import lower
from compile.source.opened import open_source
from compile.times.measured import Board, Local, missing
from compile.times.modelled import Modelled
from compile.times.single_layer import single
from runtime.terminal import terminal
from runtime.version import VERSION
from targets import Target, TargetError, find, targets
from targets.costs.shapes import Shape, format_bits, layer_calls, parse_bits
from targets.costs.table import Costs, CostsError, Entry, load, path_of
from targets.kernel import Call
from targets.reference.graph import Graph
from targets.reference.nodes import BITS

Wanted = dict[Shape, set[str]]  # shape -> bits
Machine = Local | Board | Modelled


def pairs(text: str) -> list[str]:
    """Bits of convolutions: "2,4,8,w7a8" is every pair of the widths 2, 4 and 8, and one pair more."""
    words = text.split(",")
    widths = [int(word) for word in words if word.isdigit()]
    named = [word for word in words if not word.isdigit()]
    if not set(widths) <= set(BITS) or any(parse_bits(word)[0] is None for word in named):
        raise CostsError(f"expected widths of {BITS.start}..{BITS.stop - 1}, or pairs such as w4a8, got {text!r}")
    return [*(format_bits(*pair) for pair in itertools.product(widths, widths)), *named]


def _pairs(text: str) -> list[str]:
    try:
        return pairs(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _core(text: str) -> int:
    count = os.cpu_count() or 1
    if not (text.isascii() and text.isdigit() and int(text) < count):
        raise argparse.ArgumentTypeError(f"expected a processor core in 0..{count - 1}, got {text!r}")
    return int(text)


def wanted(graphs: Iterable[Graph], extra: Iterable[str] = ()) -> Wanted:
    """The layers of networks at their own bits; those whose bits are to be chosen at the extra ones too: all but the
    first convolution and the classifier, which keep theirs."""
    found: Wanted = {}
    for graph in graphs:
        first = {conv.name for conv in graph.convs() if conv.input == graph.input}
        for layer in layer_calls(graph):
            widths = found.setdefault(layer.shape, set())
            widths.add(layer.bits)
            if layer.shape.kind in ("conv", "depthwise", "grouped") and layer.name not in first:
                widths.update(extra)
    return found


def known() -> Wanted:
    """What the tables of all targets hold."""
    found: Wanted = {}
    for target in targets():
        if path_of(target.name).exists():
            for shape, widths in load(target.name).entries.items():
                found.setdefault(shape, set()).update(widths)
    return found


def machine_for(target: Target, rpc: str | None = None) -> Machine:
    """A board, this machine, or a model of the processor, which comes last.

    Raises TargetError where there is none, and for a family; ValueError where the model lacks a tool.
    """
    if target.levels:
        raise TargetError(
            f"{target.name}: expected one of its levels, each of which has a table of its own: "
            f"{', '.join(level.name for level in target.levels)}"
        )
    if rpc:
        return Board(target, rpc)
    return Modelled(target) if missing(target) and target.cpu else Local(target)


def profile(
    todo: Wanted, target: Target, machine: Machine, path: Path, again: bool = False, console: Console | None = None
) -> Costs:
    """Measures what `todo` asks for and the table in `path` lacks; the table, which keeps its other entries.

    again: what is asked for is measured anew. Raises CostsError for a table of another machine or of other kernels.
    """
    costs = _table(target, machine, path)
    if again:
        for shape in todo:
            costs.entries[shape] = {b: e for b, e in costs.entries.get(shape, {}).items() if b not in todo[shape]}
    todo = {shape: sorted(widths - set(costs.entries.get(shape, ()))) for shape, widths in sorted(todo.items())}
    todo = {shape: widths for shape, widths in todo.items() if widths}
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console or Console(markup=False)) as progress:
        task = progress.add_task("", total=sum(map(len, todo.values())))
        for shape, widths in todo.items():
            progress.update(task, description=str(shape))
            calls = [layer_call(shape, bits, target) for bits in widths]
            times = machine.times(calls)  # the widths of a shape in turn, so that they meet the same noise
            for bits, call, time in zip(widths, calls, times, strict=True):
                costs.entries.setdefault(shape, {})[bits] = Entry(float(f"{time:.4g}"), call.kernel.rule)
            costs.save(path)
            progress.advance(task, len(widths))
    return load(target.name, path)


def layer_call(shape: Shape, bits: str, target: Target) -> Call:
    """The target's kernel for one layer, among such neighbours as give it its operands and borders."""
    graph, name = single(shape, bits)
    return next(call for call in lower(graph, target).calls if call.name == name)


def _table(target: Target, machine: Machine, path: Path) -> Costs:
    """The one in `path`, or an empty one."""
    require_place(path.parent, "--out")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise CostsError(f"--out {path}: expected the name of a file, got a folder")
    new = Costs(target.name, machine.unit, machine.name, VERSION)
    if not path.exists():
        return new
    old = load(target.name, path)
    for what in ("unit", "machine", "kernels"):
        if getattr(old, what) != getattr(new, what):
            raise CostsError(
                f"{path}: expected costs with {what} {getattr(new, what)!r} to add to, got "
                f"{getattr(old, what)!r}; delete the file, or write another with --out"
            )
    return old


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m compile.profile", description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="*", type=Path, help="a run folder or ONNX files; default: all known layers")
    parser.add_argument("--target", required=True, help=", ".join(t.name for t in targets()))
    parser.add_argument(
        "--bits",
        type=_pairs,
        default=[],
        metavar="2,4,8,w7a8",
        help="widths to combine, and pairs; default: the networks' own",
    )
    parser.add_argument("--out", type=Path, help="default: the target's own table, targets/<family>/costs-*.json")
    parser.add_argument("--again", action="store_true", help="measure anew what the table has already")
    add_machine_arguments(parser)
    args = parser.parse_args(argv)
    try:
        target = find(args.target)
        todo = wanted((v.graph for v in open_source(args.source).variants), args.bits) if args.source else known()
        if not todo:
            raise CostsError("expected a run folder or ONNX files: no table knows any layer yet")
        run(todo, target, args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rpc", metavar="HOST:PORT", help="a board where `python -m tvm.exec.rpc_server` runs")
    parser.add_argument("--cpu", type=_core, metavar="N", help="stay on this processor core of this machine")


def run(todo: Wanted, target: Target, args: argparse.Namespace) -> Costs:
    """profile() as the command's arguments say; prints where the table lies."""
    if args.cpu is not None:
        try:
            os.sched_setaffinity(0, {args.cpu})
        except OSError as error:
            raise CostsError(
                f"--cpu {args.cpu}: expected a core that this process may run on, got: {error.strerror}"
            ) from error
    console, machine, path = Console(markup=False), machine_for(target, args.rpc), args.out or path_of(target.name)
    console.print(
        f"{target.name} on {machine.name}, {machine.unit}: {sum(map(len, todo.values()))} costs of "
        f"{len(todo)} layers -> {path}",
        highlight=False,
    )
    costs = profile(todo, target, machine, path, args.again, console)
    console.print(f"{path}: {sum(map(len, costs.entries.values()))} costs, {costs.unit}", highlight=False)
    return costs


if __name__ == "__main__":
    with terminal():
        status = main()
    sys.exit(status)
