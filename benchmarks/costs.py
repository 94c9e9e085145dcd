"""Fills a target's table of costs from the benchmark networks, and shows how well it predicts whole networks.

    python -m benchmarks.costs --target x86:avx2                       # measure
    python -m benchmarks.costs --target x86:avx2 --check --json F      # predicted and measured times of whole networks
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.networks import NETWORKS
from benchmarks.records import write_records
from compile import profile
from compile.costs import MEASURED, load
from compile.graph import Graph
from compile.lower import lower
from compile.timing import Local, network_time
from targets import find

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


def check(names: list[str], target, costs) -> list[dict]:
    """Records of predicted and measured microseconds of whole networks, one thread, the least of many."""
    machine, records = Local(target), []
    for name in names:
        for bits in CHECKED:
            network = graph(name, bits)
            lowered, predicted = lower(network, target), costs.predict(network)
            measured = network_time(machine.load(lowered.module)["main"], lowered)
            known = sum(time for _, time, how in predicted if how == MEASURED)
            total = sum(time for _, time, _ in predicted)
            records.append({"network": name, "bits": bits, "predicted_us": total, "measured_us": measured,
                            "ratio": total / measured, "from_table": known / total})
    return records


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.costs", description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True)
    parser.add_argument("--networks", default=MEASURE, help=f"default: {MEASURE}")
    parser.add_argument("--bits", default=PAIRS, help=f"widths to combine, and pairs (default {PAIRS})")
    parser.add_argument("--out", type=Path, help="the table; default: the target's own")
    parser.add_argument("--again", action="store_true", help="measure anew what the table has already")
    parser.add_argument("--check", action="store_true", help="only compare predictions with whole networks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="with --check: write the records there too")
    profile.add_machine_arguments(parser)
    args = parser.parse_args(argv)
    try:
        target, names = find(args.target), args.networks.split(",")
        if args.check:
            records = check(names, target, load(target.name, args.out))
            _print(records, args.json)
            return 0
        graphs = [graph(name, bits) for name in names for bits in CONFIGURATIONS]
        profile.run(profile.wanted(graphs, profile.pairs(args.bits)), target, args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _print(records: list[dict], file: Path | None) -> None:
    if file:
        write_records(file, records)
    title = "whole networks, one thread, us"
    columns = ("network", "bits", "predicted", "measured", "ratio", "from the table")
    table = Table(*columns, title=title, title_justify="left")
    for r in records:
        predicted, measured = (f"{r[key]:.1f}" for key in ("predicted_us", "measured_us"))
        table.add_row(r["network"], r["bits"], predicted, measured, f"{r['ratio']:.3f}", f"{r['from_table']:.0%}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
