"""Measures what layers cost on a target: `python -m compile.profile --target T [RUN | FILE ...]`.

The distinct layers of the networks, at their own bits and at those of --bits, are compiled and timed one by one;
without networks, every layer that any target's table knows. The table is saved as it grows: an interrupted run goes on
where it stopped. Times are microseconds of one thread on this machine, or on a board over RPC; a processor that can
only be emulated has cycles of a model of it instead (targets/arm/cycles.py), and the table says so.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from compile.bundle.folder import require_place
from compile.command_line import parse_profile
from compile.lowering.lower import lower
from compile.settings import ProfileSettings, require_sources
from compile.source.opened import open_source
from compile.times.machine import Machine, missing_features
from compile.times.single_layer import single
from runtime.terminal import terminal
from runtime.version import VERSION
from targets import Target, TargetError, targets
from targets.costs.shapes import Shape, layer_calls
from targets.costs.table import Costs, CostsError, Entry, load, path_of
from targets.kernel import Call
from targets.reference.graph import Graph

Layers = dict[Shape, set[str]]  # shape -> bits such as "w4a8"


def profile(settings: ProfileSettings, console: Console | None = None) -> Costs:
    """Measures the layers that the settings name and returns the table; raises CostsError, TargetError, OSError."""
    require_sources(settings.sources)
    if settings.sources:
        graphs = [variant.graph for variant in open_source(list(settings.sources)).variants]
        return profile_layers(layers_of(graphs, settings.bits), settings, console)
    return profile_layers(known_layers(), settings, console)


def layers_of(graphs: Iterable[Graph], bits: Iterable[str] = ()) -> Layers:
    """Returns the layers of networks at their own bits, and those whose bits are to be chosen at `bits` too.

    The first convolution and the classifier keep their own.
    """
    wanted: Layers = {}
    for graph in graphs:
        first = {conv.name for conv in graph.convs() if conv.input == graph.input}
        for layer in layer_calls(graph):
            widths = wanted.setdefault(layer.shape, set())
            widths.add(layer.bits)
            if layer.shape.kind in ("conv", "depthwise", "grouped") and layer.name not in first:
                widths.update(bits)
    return wanted


def known_layers() -> Layers:
    """Returns the layers that the tables of all targets hold."""
    known: Layers = {}
    for target in targets():
        if path_of(target.name).exists():
            for shape, entries in load(target.name).entries.items():
                known.setdefault(shape, set()).update(entries)
    return known


def machine_for(target: Target, board: str | None = None) -> Machine:
    """Returns what measures a target: a board, this machine, or a model of the processor, which comes last.

    Raises TargetError where there is none, and for a family; ValueError where the model lacks a tool.
    """
    if target.levels:
        raise TargetError(
            f"{target.name}: expected one of its levels, each of which has a table of its own: "
            f"{', '.join(level.name for level in target.levels)}"
        )
    # Here, so that a wrong command line is told before TVM has loaded.
    from compile.times.measured import Board, Local
    from compile.times.modelled import Modelled

    if board:
        return Board(target, board)
    return Modelled(target) if missing_features(target) and target.cpu else Local(target)


def profile_layers(wanted: Layers, settings: ProfileSettings, console: Console | None = None) -> Costs:
    """Measures the layers as the settings say and returns the table; raises CostsError, TargetError and OSError."""
    if not wanted:
        raise CostsError("expected a run folder or ONNX files: no table knows any layer yet")
    if settings.core is not None:
        _stay_on(settings.core)
    console = console or Console(markup=False)
    target = settings.target
    machine = machine_for(target, settings.board)
    path = settings.out or path_of(target.name)
    console.print(
        f"{target.name} on {machine.name}, {machine.unit}: {sum(map(len, wanted.values()))} costs of {len(wanted)} "
        f"layers -> {path}",
        highlight=False,
    )
    costs = measure_costs(wanted, target, machine, path, settings.again, console)
    entries = sum(map(len, costs.entries.values()))
    console.print(f"{path}: {entries} costs, {costs.unit}", highlight=False)
    return costs


def measure_costs(
    wanted: Layers, target: Target, machine: Machine, path: Path, again: bool = False, console: Console | None = None
) -> Costs:
    """Measures the layers that the table in `path` lacks, and returns it; it is saved after each shape.

    again: the layers are measured anew. Raises CostsError for a table of another machine or of other kernels.
    """
    costs = _open_table(target, machine, path)
    if again:
        _forget(costs, wanted)
    missing = {shape: sorted(bits - set(costs.entries.get(shape, ()))) for shape, bits in sorted(wanted.items())}
    missing = {shape: bits for shape, bits in missing.items() if bits}
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console or Console(markup=False)) as progress:
        task = progress.add_task("", total=sum(map(len, missing.values())))
        for shape, pairs in missing.items():
            progress.update(task, description=str(shape))
            calls = [layer_call(shape, bits, target) for bits in pairs]
            times = machine.times(calls)  # the widths of a shape in turn, so that they meet the same noise
            for bits, call, time in zip(pairs, calls, times, strict=True):
                costs.entries.setdefault(shape, {})[bits] = Entry(float(f"{time:.4g}"), call.kernel.rule)
            costs.save(path)
            progress.advance(task, len(pairs))
    return load(target.name, path)


def layer_call(shape: Shape, bits: str, target: Target) -> Call:
    """Returns the target's kernel for one layer, among such neighbours as give it its operands and borders."""
    graph, name = single(shape, bits)
    return next(call for call in lower(graph, target).calls if call.name == name)


def _open_table(target: Target, machine: Machine, path: Path) -> Costs:
    """The table in a file, an empty one where there is none."""
    require_place(path.parent, "--out")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise CostsError(f"--out {path}: expected the name of a file, got a folder")
    new = Costs(target.name, machine.unit, machine.name, VERSION)
    if not path.exists():
        return new
    old = load(target.name, path)
    for member, expected, actual in (
        ("unit", new.unit, old.unit),
        ("machine", new.machine, old.machine),
        ("kernels", new.kernels, old.kernels),
    ):
        if actual != expected:
            raise CostsError(
                f"{path}: expected costs with {member} {expected!r} to add to, got {actual!r}; delete the file, or "
                "write another with --out"
            )
    return old


def _forget(costs: Costs, wanted: Layers) -> None:
    for shape, bits in wanted.items():
        costs.entries[shape] = {b: entry for b, entry in costs.entries.get(shape, {}).items() if b not in bits}


def _stay_on(core: int) -> None:
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:
        raise CostsError(
            f"--cpu {core}: expected a core that this process may run on, got: {error.strerror}"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after one line that says what went wrong."""
    settings = parse_profile(arguments)
    try:
        profile(settings)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    with terminal():
        status = main()
    sys.exit(status)
