"""Picks a variant for each picture with a tiny fixed-point predictor of accuracy: the same choice on every machine.

    z         = clamp(((features - offset) * multiplier) >> shift)          # standardized, in 1/1024
    distance2 = min over groups g of |((z @ group_weight[g] - group_offset[g]) >> 10)|**2
    hidden    = max(0, (hidden_weight @ z + hidden_bias) >> hidden_shift)
    score     = (output_weight @ hidden + output_bias) >> output_shift       # one per group, in 1/256 octave of odds
    accuracy  = sum over g of 2**(score[g] / 256) * group_accuracy[g] / sum over g of 2**(score[g] / 256)
    variant   = argmax(accuracy - lambda * cost)                             # ties: the cheaper one

A group is a kind of picture quality. A picture's accuracy is thus the mean over the groups, each weighted by how likely
the picture belongs to it. Each variant has a `threshold`: beyond that distance a picture looks too little like those of
training, and `fallback` replaces the prediction, which nobody has tested there. A variant for all pictures falls back
to its mean accuracy; a variant for some groups only cannot be chosen then. Making a Selector proves that no sum
overflows.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from runtime.choice.quality import NAMES

FORMAT = 3
ONE = 1 << 16  # 1.0 of accuracies, costs and lambdas
Z_ONE, Z_MAX = 1 << 10, 1 << 13  # one standard deviation, and eight
GROUP_SHIFT = 10
MAX_LAMBDA = 1 << 14
MAX_COST = 256 * ONE
NEVER = -(1 << 40)  # fallback of a variant for some groups only: below any accuracy - lambda * cost
SAFE = 1 << 62  # no sum may reach it; int64 ends at 1 << 63
OCTAVE = 256  # score units in which odds double
FAINTEST = 24 * OCTAVE  # scores that far below the best count as that far: 2**-24 of its likelihood
CHUNK = 4096  # pictures worked on at a time
EXPORT = "export the run again"


def _root(octaves: int) -> int:
    """Returns floor(2**16 * 2**(octaves / 256)), by integers alone: eight square roots in a row are the 256th root."""
    x = 1 << (16 * OCTAVE + octaves)
    for _ in range(8):
        x = math.isqrt(x)
    return x


POWERS = np.array([_root(i) for i in range(OCTAVE)], np.int64)


class SelectorError(ValueError):
    """A selector cannot be used; the message names the field, what was expected and what came instead."""


@dataclass(frozen=True, eq=False)
class Selector:
    """The integers of one predictor, for D features, H hidden units, K variants and G groups; all arrays are int64.

    Raises SelectorError where a shape or a value is not as below, or a sum might overflow.
    """

    offset: np.ndarray  # [D] in units of the features
    multiplier: np.ndarray  # [D] 0 <= m < 2**30
    shift: np.ndarray  # [D] 0..40
    hidden_weight: np.ndarray  # [H, D]
    hidden_bias: np.ndarray  # [H]
    hidden_shift: np.ndarray  # [] 0..40
    output_weight: np.ndarray  # [G, H]
    output_bias: np.ndarray  # [G]
    output_shift: np.ndarray  # [] 0..40
    group_accuracy: np.ndarray  # [G, K] in 1/65536
    group_weight: np.ndarray  # [G, D, D] in 1/1024: whitens z of a group
    group_offset: np.ndarray  # [G, D] the group's mean, multiplied by its weight
    threshold: np.ndarray  # [K] of distance2, in 1/2**20
    fallback: np.ndarray  # [K] mean accuracy of a variant for all pictures, in 1/65536; NEVER for the others
    costs: np.ndarray  # [K] relative to 8 bits everywhere, in 1/65536

    def __post_init__(self) -> None:
        sizes = {"D": len(NAMES)}
        for name, array in self._arrays().items():
            _check_shape(name, array, _AXES[name], sizes)
        self._check_ranges()
        self._check_sums()

    @property
    def variants(self) -> int:
        """K, the number of variants to choose from."""
        return len(self.costs)

    @classmethod
    def from_dict(cls, data: Any) -> "Selector":
        """Reads the JSON object of a run or a manifest. Raises SelectorError for anything but a sound selector."""
        if not isinstance(data, dict):
            raise SelectorError(f"selector: expected an object, got {type(data).__name__}")
        if data.get("format") != FORMAT:
            raise SelectorError(f"selector: expected format {FORMAT}, got {data.get('format')!r}; {EXPORT}")
        if data.get("features") != list(NAMES):
            raise SelectorError(
                f"selector: expected the features {list(NAMES)}, got {data.get('features')!r}; "
                f"it was made for another version of bitgrade: {EXPORT}"
            )
        names = [field.name for field in fields(cls)]
        missing = sorted(set(names) - set(data))
        unknown = sorted(map(str, set(data) - {*names, "format", "features"}))
        if missing or unknown:
            raise SelectorError(f"selector: missing fields {missing}, unknown fields {unknown}; {EXPORT}")
        return cls(**{name: _parse_integers(name, data[name]) for name in names})

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object, in which arrays are nested lists of integers."""
        arrays = {name: array.tolist() for name, array in self._arrays().items()}
        return {"format": FORMAT, "features": list(NAMES), **arrays}

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Returns predicted accuracies int64 [M, K], in 1/65536, of pictures with features int32 [M, D].

        Beyond a variant's threshold that is its fallback. Raises ValueError for features of another shape or dtype.
        """
        z = standardize(features, self.offset, self.multiplier, self.shift)
        hidden = np.maximum(0, (z @ self.hidden_weight.T + self.hidden_bias) >> self.hidden_shift)
        score = (hidden @ self.output_weight.T + self.output_bias) >> self.output_shift
        below = np.minimum(score.max(1, keepdims=True) - score, FAINTEST)
        likelihood = POWERS[-below % OCTAVE] >> -(-below // OCTAVE)
        accuracy = likelihood @ self.group_accuracy // likelihood.sum(1, keepdims=True)
        return np.where(self._distance2(z)[:, None] > self.threshold, self.fallback, accuracy)

    def far(self, features: np.ndarray) -> np.ndarray:
        """Returns whether each picture is beyond every variant's threshold, bool [M], of features int32 [M, D]."""
        is_far: np.ndarray = self.distance2(features) > self.threshold.max()
        return is_far

    def distance2(self, features: np.ndarray) -> np.ndarray:
        """Returns the squared Mahalanobis distance to the nearest group, int64 [M] in 1/2**20, of int32 [M, D]."""
        return self._distance2(standardize(features, self.offset, self.multiplier, self.shift))

    def choose(self, features: np.ndarray, lam: float) -> np.ndarray:
        """Returns the index of each picture's variant, int64 [M], of features int32 [M, D]; see `decide`.

        lam: accuracy that one unit of cost (that of 8 bits everywhere) must bring, 0..16384, rounded to 1/65536.
        """
        return decide(self.predict(features), self.costs, lam)

    def _distance2(self, z: np.ndarray) -> np.ndarray:
        """Returns int64 [M], in 1/2**20, of standardized features int64 [M, D]."""
        groups, d = self.group_offset.shape
        weight = self.group_weight.transpose(1, 0, 2).reshape(d, groups * d)
        nearest = np.empty(len(z), np.int64)
        for k in range(0, len(z), CHUNK):
            whitened = (z[k : k + CHUNK] @ weight - self.group_offset.reshape(-1)) >> GROUP_SHIFT
            nearest[k : k + CHUNK] = (whitened * whitened).reshape(-1, groups, d).sum(2).min(1)
        return nearest

    def _arrays(self) -> dict[str, np.ndarray]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _check_ranges(self) -> None:
        arrays = self._arrays()
        for name, (low, high) in _RANGES.items():
            smallest = arrays[name].min()
            largest = arrays[name].max()
            if smallest < low or largest > high:
                raise SelectorError(f"selector.{name}: expected {low}..{high}, got {smallest}..{largest}")
        for_some = self.fallback < 0
        if for_some.all() or (self.fallback[for_some] != NEVER).any():
            raise SelectorError(
                f"selector.fallback: expected 0..{ONE} for one variant at least and {NEVER} for those that have none, "
                f"got {self.fallback}"
            )

    def _check_sums(self) -> None:
        """Bounds every sum for any int32 features, in Python's unbounded integers."""
        hidden = _bound("hidden_weight", self.hidden_weight, self.hidden_bias, Z_MAX) >> int(self.hidden_shift)
        _bound("output_weight", self.output_weight, self.output_bias, hidden + 1)
        group_weight = self.group_weight.transpose(0, 2, 1)
        whitened = _bound("group_weight", group_weight, self.group_offset, Z_MAX) >> GROUP_SHIFT
        if (whitened + 1) ** 2 * len(NAMES) >= SAFE:
            raise SelectorError(
                f"selector.group_weight: distances overflow, their terms reach 2**{whitened.bit_length()}"
            )


def standardize(features: np.ndarray, offset: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Returns z int64 [M, D], in 1/1024 of a standard deviation, of features int32 [M, D] and integers [D].

    Raises ValueError for features of another shape or dtype.
    """
    d = len(NAMES)
    if not isinstance(features, np.ndarray) or features.dtype != np.int32 or features.shape[1:] != (d,):
        shown = type(features).__name__
        if isinstance(features, np.ndarray):
            shown = f"{features.dtype} {list(features.shape)}"
        raise ValueError(f"expected features int32 [M, {d}] of runtime.choice.quality, got {shown}")
    z = ((features.astype(np.int64) - offset) * multiplier) >> shift
    clamped: np.ndarray = np.minimum(np.maximum(z, -Z_MAX), Z_MAX)
    return clamped


def decide(accuracy: np.ndarray, costs: np.ndarray, lam: float) -> np.ndarray:
    """Returns argmax(accuracy - lam * cost) over the variants, int64 [M], the cheaper one when equal.

    accuracy: int64 [M, K], costs: int64 [K], both in 1/65536. Raises ValueError for a lambda outside 0..16384.
    """
    if not 0 <= lam <= MAX_LAMBDA:  # also for NaN
        raise ValueError(f"lambda {lam!r}: expected 0 (cost does not matter) to {MAX_LAMBDA} (accuracy does not)")
    by_cost = np.argsort(costs, kind="stable")  # argmax takes the first of equals: the cheapest
    value = (accuracy[:, by_cost] << 16) - round(lam * ONE) * costs[by_cost]
    chosen: np.ndarray = by_cost[value.argmax(1)]
    return chosen


# axes of each array by their letters in Selector, and the range of its values where it has one
_AXES = {
    "offset": "D",
    "multiplier": "D",
    "shift": "D",
    "hidden_weight": "HD",
    "hidden_bias": "H",
    "hidden_shift": "",
    "output_weight": "GH",
    "output_bias": "G",
    "output_shift": "",
    "group_accuracy": "GK",
    "group_weight": "GDD",
    "group_offset": "GD",
    "threshold": "K",
    "fallback": "K",
    "costs": "K",
}
_RANGES = {
    "offset": (-1 << 31, 1 << 31),
    "multiplier": (0, (1 << 30) - 1),
    "shift": (0, 40),
    "hidden_shift": (0, 40),
    "output_shift": (0, 40),
    "threshold": (0, SAFE),
    "group_accuracy": (0, ONE),
    "fallback": (NEVER, ONE),
    "costs": (0, MAX_COST),
}


def _parse_integers(name: str, value: Any) -> np.ndarray:
    """Returns an int64 array of an integer or of nested lists of integers."""
    leaves = [value]
    for _ in range(3):
        if not any(isinstance(leaf, list) for leaf in leaves):
            break
        if not all(isinstance(leaf, list) for leaf in leaves) or len({len(leaf) for leaf in leaves}) != 1:
            raise SelectorError(f"selector.{name}: expected lists of equal length")
        leaves = [inner for leaf in leaves for inner in leaf]
    if not leaves or any(type(leaf) is not int or abs(leaf) >= SAFE for leaf in leaves):
        raise SelectorError(f"selector.{name}: expected integers below 2**62, got {str(value)[:60]}")
    return np.array(value, np.int64)


def _check_shape(name: str, array: np.ndarray, axes: str, sizes: dict[str, int]) -> None:
    """Raises SelectorError unless the array is int64 with those axes; enters the size of each letter that is new."""
    if not isinstance(array, np.ndarray) or array.dtype != np.int64 or array.ndim != len(axes):
        shown = list(array.shape) if isinstance(array, np.ndarray) else type(array).__name__
        raise SelectorError(f"selector.{name}: expected integers with {len(axes)} axes, got {shown}")
    for letter, length in zip(axes, array.shape, strict=True):
        if length < 1 or sizes.setdefault(letter, length) != length:
            raise SelectorError(f"selector.{name}: expected {sizes.get(letter)} for {letter}, got {list(array.shape)}")


def _bound(name: str, weight: np.ndarray, offset: np.ndarray, largest: int) -> int:
    """Returns the largest |sum| of `weight` times anything in -largest..largest, and the offset.

    Raises SelectorError where that may reach SAFE.
    """
    bound = int((np.abs(weight.astype(object)).sum(-1) * largest + np.abs(offset.astype(object))).max())
    if bound >= SAFE:
        raise SelectorError(f"selector.{name}: a sum may reach 2**{bound.bit_length()} and overflow")
    return bound
