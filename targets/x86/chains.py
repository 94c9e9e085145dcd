"""How many products may be added in a narrow integer, whatever the codes: proved from a layer's real weights."""

import numpy as np

INT8 = (-(1 << 7), (1 << 7) - 1)
INT16 = (-(1 << 15), (1 << 15) - 1)


def fits(high: np.ndarray, low: np.ndarray, limits: tuple[int, int]) -> bool:
    """Whether all steps, int64 [lanes, kH, K] each (the largest and the smallest they may add), stay within limits."""
    return high.sum((1, 2)).max() <= limits[1] and low.sum((1, 2)).min() >= limits[0]


def longest_run(high: np.ndarray, low: np.ndarray, limits: tuple[int, int]) -> int:
    """How many steps, int64 [lanes, kH, K] each, fit; 0: not even one.

    Every run of that many consecutive steps within a kernel row is checked, or all steps of all rows together.
    """
    if fits(high, low, limits):
        return high.shape[1] * high.shape[2]
    start = np.zeros_like(high[:, :, :1])
    most, least = (np.concatenate([start, np.cumsum(s, 2)], 2) for s in (high, low))
    run = 0
    while run < high.shape[2]:
        sums = [t[:, :, run + 1 :] - t[:, :, : -run - 1] for t in (most, least)]
        if sums[0].max() > limits[1] or sums[1].min() < limits[0]:
            break
        run += 1
    return run
