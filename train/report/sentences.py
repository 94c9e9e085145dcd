"""Differences in words by rule: better or worse is said only where the whole confidence interval says so."""

from train.report.bootstrap import Estimate


def versus(difference: Estimate, what: str) -> str:
    """Says how an accuracy (0..1) differs from that of `what`, in percentage points with the interval in brackets."""
    points = difference.scaled(100)
    interval = f"[{points.low:.2f}, {points.high:.2f}]"
    if difference.verdict > 0:
        return f"better than {what} by {points.value:.2f} points {interval}"
    if difference.verdict < 0:
        return f"worse than {what} by {-points.value:.2f} points [{-points.high:.2f}, {-points.low:.2f}]"
    return f"not better than {what} ({points.value:+.2f} points {interval})"


def with_interval(estimate: Estimate, digits: int = 2) -> str:
    """Writes a signed number with its interval in brackets."""
    return f"{estimate.value:+.{digits}f} [{estimate.low:+.{digits}f}, {estimate.high:+.{digits}f}]"
