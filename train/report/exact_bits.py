"""The report's section on what exact bits cost where a search trained with soft bit planes."""

from collections.abc import Sequence

from train.evidence.metrics import MetricsRecord

LARGEST_GAP = 0.1  # points that soft bit planes may be better than exact ones


def exact_bits(metrics: Sequence[MetricsRecord]) -> list[str]:
    """Returns the lines of the section, from the search's last record with a "gap"; none without one."""
    last = next((record.values for record in reversed(metrics) if "gap" in record.values), None)
    if last is None:
        return []
    if last["gap"] > LARGEST_GAP:
        verdict = f"over {LARGEST_GAP} point: planes are not sharp enough yet, so search for longer (`--search-epochs`)"
    else:
        verdict = f"not over {LARGEST_GAP} point"
    return [
        "## Soft and exact bits",
        "",
        f"At the search's end soft bit planes got {100 * last['accuracy/soft']:.2f} % of the held pictures, the "
        f"exact integers {100 * last['accuracy/hard']:.2f} %: {last['gap']:+.2f} points lost, {verdict}.",
        "",
    ]
