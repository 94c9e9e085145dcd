"""How large a map may be, so that a small file cannot ask for more memory and time than a build has."""

import math

from compile.qdq.values import MapShape, require

MOST_SIDE = (1 << 16) - 1  # rows, columns or channels
MOST_CODES = 1 << 24  # of one map, whose sums take 128 MB


def require_moderate(shape: MapShape, where: str) -> None:
    """Raises OnnxError for a map [H, W, C] with nothing in it, or with more than any classifier has."""
    expected = f"a map of 1..{MOST_SIDE} rows, columns and channels, and of {MOST_CODES:,} codes at most"
    fits = all(1 <= n <= MOST_SIDE for n in shape) and math.prod(shape) <= MOST_CODES
    require(fits, where, expected, " x ".join(map(str, shape)), "export the network for smaller pictures")
