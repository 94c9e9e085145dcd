"""Fills a target's table of costs from the benchmark networks, and shows how well it predicts whole networks.

    python -m benchmarks.costs --target x86:avx2                       # measure
    python -m benchmarks.costs --target x86:avx2 --check --json F      # predicted and measured times of whole networks

For processors that are only emulated both are cycles of a model of them (targets/arm/cycles.py), never times; needs
llvm-mca.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.networks.random_networks import NETWORKS
from compile import profile
from compile.command_line import add_machine_arguments, parse_pairs
from compile.lowering.lower import Lowered, lower
from compile.settings import ProfileSettings
from compile.times.machine import Machine
from compile.times.measured import network_time
from compile.times.modelled import Modelled
from runtime.files import write_json
from runtime.terminal import OneLineParser
from targets import Target, find
from targets.costs.table import MEASURED, Costs, CostsError, load
from targets.reference.graph import Graph

MEASURE = "resnet8,resnet20,resnet18,mobilenetv2-96,mobilenetv2-224"
PAIRS = "2,4,8,w7a8"
CONFIGURATIONS = ("w8a8", "w4a4", "mixed")  # of them, layers with and without copies in other widths are found
CHECKED = ("w8a8", "w4a4", "w2a2", "mixed")


def graph(name: str, bits: str) -> Graph:
    """A network by name and, behind a dash, the side of its picture: "mobilenetv2-96"; raises ValueError."""
    network, _, side = name.partition("-")
    if network not in NETWORKS or (side and not side.isdigit()):
        raise ValueError(f"expected networks among {', '.join(NETWORKS)}, or such as mobilenetv2-96; got {name!r}")
    return NETWORKS[network].graph(bits, int(side) if side else None)


def check(names: list[str], target: Target, costs: Costs) -> Iterator[dict]:
    """Yields what the table predicts for whole networks and what they take, in the table's unit, one thread.

    Raises CostsError for a table in another unit than is measured here.
    """
    machine = profile.machine_for(target)
    if machine.unit != costs.unit:
        raise CostsError(f"{target.name}: expected a table in {machine.unit} to compare with, got {costs.unit}")
    for name in names:
        for bits in CHECKED:
            network = graph(name, bits)
            predicted, whole = costs.predict(network), _whole(machine, lower(network, target))
            known = sum(time for _, time, how in predicted if how == MEASURED)
            total = sum(time for _, time, _ in predicted)
            yield {
                "network": name,
                "bits": bits,
                "unit": costs.unit,
                "predicted": total,
                "whole": whole,
                "ratio": total / whole,
                "from_table": known / total,
            }


def _whole(machine: Machine, lowered: Lowered) -> float:
    if isinstance(machine, Modelled):
        return machine.network(lowered)
    return network_time(machine.load(lowered.module)["main"], lowered)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    parser = OneLineParser(prog="python -m benchmarks.costs", description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True)
    parser.add_argument("--networks", default=MEASURE, help=f"default: {MEASURE}")
    parser.add_argument("--bits", default=PAIRS, help=f"widths to combine, and pairs (default {PAIRS})")
    parser.add_argument("--out", type=Path, help="the table; default: the target's own")
    parser.add_argument("--again", action="store_true", help="measure anew what the table has already")
    parser.add_argument("--check", action="store_true", help="only compare predictions with whole networks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="with --check: write the records there too")
    add_machine_arguments(parser)
    args = parser.parse_args(argv)
    try:
        target, names = find(args.target), args.networks.split(",")
        if args.check:
            costs, records = load(target.name, args.out), []
            for record in track(check(names, target, costs), total=len(names) * len(CHECKED)):
                records.append(record)
                if args.json:
                    write_json(args.json, records)
            _print(records, costs)
            return 0
        graphs = [graph(name, bits) for name in names for bits in CONFIGURATIONS]
        settings = ProfileSettings(target, out=args.out, again=args.again, board=args.board, core=args.core)
        profile.profile_layers(profile.layers_of(graphs, parse_pairs(args.bits)), settings)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _print(records: list[dict], costs: Costs) -> None:
    title = f"whole networks, one thread; {costs.unit}; {costs.machine}"
    columns = ("network", "bits", "predicted", "whole", "ratio", "from the table")
    table = Table(*columns, title=title, title_justify="left")
    for r in records:
        predicted, whole = (f"{r[key]:,.1f}" for key in ("predicted", "whole"))
        table.add_row(r["network"], r["bits"], predicted, whole, f"{r['ratio']:.3f}", f"{r['from_table']:.0%}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
