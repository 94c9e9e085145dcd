"""Which variant a picture gets: a tiny fixed-point predictor of accuracy, the same decision on every machine.

    z         = clamp(((features - offset) * multiplier) >> shift)          # standardized, in 1/1024
    distance2 = min over groups g of |((z @ group_weight[g] - group_offset[g]) >> 10)|**2
    hidden    = max(0, (hidden_weight @ z + hidden_bias) >> hidden_shift)
    score     = (output_weight @ hidden + output_bias) >> output_shift       # one per group, in 1/256 octave of odds
    accuracy  = sum over g of 2**(score[g] / 256) * group_accuracy[g] / sum over g of 2**(score[g] / 256)
    variant   = argmax(accuracy - lambda * cost)                             # ties: the cheaper one

So a picture's accuracies are those of the groups it may be of, each as likely as the predictor finds it. Every variant
has a `threshold` of its own: beyond it a picture looks too little like what was seen in training, and `fallback` stands
in for a prediction that nobody has tested there. That is its mean accuracy for a variant that is for all pictures; a
variant for some kinds only cannot be chosen then. That sums never overflow is proved when a selector is made.
"""

import math
from dataclasses import dataclass, fields

import numpy as np

from runtime.choice.quality import NAMES

FORMAT = 3
ONE = 1 << 16  # 1.0 of accuracies, costs and lambdas
Z_ONE, Z_MAX = 1 << 10, 1 << 13  # one standard deviation, and eight
GROUP_SHIFT = 10
MAX_LAMBDA = 1 << 14
MAX_COST = 256 * ONE
NEVER = -(1 << 40)  # fallback of a variant that is for some pictures only: below anything less lambda * cost
SAFE = 1 << 62  # no sum may reach it; int64 ends at 1 << 63
OCTAVE = 256  # of scores
FAINTEST = 24 * OCTAVE  # below the best score: 2**-24 of its likelihood is none
CHUNK = 4096  # pictures worked on at a time


def _root(octaves: int) -> int:
    """floor(2**16 * 2**(octaves / 256)), by integers alone: eight square roots in a row are the 256th root."""
    x = 1 << (16 * OCTAVE + octaves)
    for _ in range(8):
        x = math.isqrt(x)
    return x


_POWERS = np.array([_root(i) for i in range(OCTAVE)], np.int64)


class SelectorError(ValueError):
    """A selector that cannot be used; the message names the field, what was expected and what came."""


@dataclass(frozen=True, eq=False)
class Selector:
    """D features, H hidden units, K variants, G groups; all arrays int64. Raises SelectorError unless it is sound."""

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
    group_offset: np.ndarray  # [G, D]: the group's mean, after its weight
    threshold: np.ndarray  # [K] of distance2, in 1/2**20
    fallback: np.ndarray  # [K] mean accuracy of each variant that is for all pictures, in 1/65536; of others NEVER
    costs: np.ndarray  # [K] relative to W8A8, in 1/65536

    def __post_init__(self):
        sizes = {"D": len(NAMES)}
        for field in fields(self):
            _check_shape(field.name, getattr(self, field.name), _SHAPES[field.name], sizes)
        _check_ranges(self)
        _check_sums(self)

    @property
    def variants(self) -> int:
        return len(self.costs)

    @classmethod
    def from_dict(cls, d: dict) -> "Selector":
        """From the JSON of a run or a manifest. Raises SelectorError for anything that is not a sound selector."""
        if not isinstance(d, dict):
            raise SelectorError(f"selector: expected an object, got {type(d).__name__}")
        if d.get("format") != FORMAT:
            raise SelectorError(f"selector: expected format {FORMAT}, got {d.get('format')!r}; export the run anew")
        if d.get("features") != list(NAMES):
            raise SelectorError(
                f"selector: expected the features {list(NAMES)}, got {d.get('features')!r}; "
                "it was made for another version of bitgrade: export the run anew"
            )
        wanted = {field.name for field in fields(cls)}
        missing, extra = sorted(wanted - set(d)), sorted(map(str, set(d) - wanted - {"format", "features"}))
        if missing or extra:
            raise SelectorError(f"selector: missing fields {missing}, unknown fields {extra}; export the run anew")
        return cls(**{name: _integers(name, d[name]) for name in wanted})

    def to_dict(self) -> dict:
        """JSON: lists of integers."""
        arrays = {field.name: getattr(self, field.name).tolist() for field in fields(self)}
        return {"format": FORMAT, "features": list(NAMES), **arrays}

    def predict(self, features: np.ndarray) -> np.ndarray:
        """int32 [M, D] -> predicted accuracy int64 [M, K], in 1/65536; `fallback` beyond a variant's threshold."""
        z = standardize(features, self.offset, self.multiplier, self.shift)
        hidden = np.maximum(0, (z @ self.hidden_weight.T + self.hidden_bias) >> self.hidden_shift)
        score = (hidden @ self.output_weight.T + self.output_bias) >> self.output_shift
        below = np.minimum(score.max(1, keepdims=True) - score, FAINTEST)
        likely = _POWERS[-below % OCTAVE] >> -(-below // OCTAVE)
        accuracy = likely @ self.group_accuracy // likely.sum(1, keepdims=True)
        return np.where(self._distance2(z)[:, None] > self.threshold, self.fallback, accuracy)

    def far(self, features: np.ndarray) -> np.ndarray:
        """bool [M]: whether a picture looks like nothing seen in training, beyond every variant's threshold."""
        return self.distance2(features) > self.threshold.max()

    def distance2(self, features: np.ndarray) -> np.ndarray:
        """int64 [M], in 1/2**20: squared Mahalanobis distance to the nearest group."""
        return self._distance2(standardize(features, self.offset, self.multiplier, self.shift))

    def choose(self, features: np.ndarray, lam: float) -> np.ndarray:
        """The variant of each picture, int64 [M]: argmax(accuracy - lam * cost), the cheaper one when equal.

        lam: accuracy that one unit of cost (that of W8A8) must bring, 0..16384, rounded to 1/65536.
        """
        return decide(self.predict(features), self.costs, lam)

    def _distance2(self, z) -> np.ndarray:
        groups, d = self.group_offset.shape
        flat = self.group_weight.transpose(1, 0, 2).reshape(d, groups * d)
        out = np.empty(len(z), np.int64)
        for k in range(0, len(z), CHUNK):
            u = (z[k : k + CHUNK] @ flat - self.group_offset.reshape(-1)) >> GROUP_SHIFT
            out[k : k + CHUNK] = (u * u).reshape(-1, groups, d).sum(2).min(1)
        return out


def selector_among(variants: int, data: dict, lam: float) -> Selector:
    """The selector of that JSON object. Raises ValueError unless it chooses among so many variants, at that lambda."""
    selector = Selector.from_dict(data)
    if selector.variants != variants:
        raise SelectorError(f"selector: expected one among {variants} variants, got one among {selector.variants}")
    selector.choose(np.zeros((1, len(NAMES)), np.int32), lam)
    return selector


def standardize(features: np.ndarray, offset: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """int32 [M, D] -> z int64 [M, D], in 1/1024 of a standard deviation."""
    f, d = features, len(NAMES)
    if not isinstance(f, np.ndarray) or f.dtype != np.int32 or f.ndim != 2 or f.shape[1] != d:
        came = f"{f.dtype} {list(f.shape)}" if isinstance(f, np.ndarray) else type(f).__name__
        raise ValueError(f"expected features int32 [M, {d}] of runtime.choice.quality, got {came}")
    return np.minimum(np.maximum(((f.astype(np.int64) - offset) * multiplier) >> shift, -Z_MAX), Z_MAX)


def decide(accuracy: np.ndarray, costs: np.ndarray, lam: float) -> np.ndarray:
    """int64 [M]: argmax(accuracy - lam * cost) of accuracies int64 [M, K] and costs int64 [K], both in 1/65536."""
    if not 0 <= lam <= MAX_LAMBDA:  # also for NaN
        raise ValueError(f"lambda {lam!r}: expected 0 (cost does not matter) to {MAX_LAMBDA} (accuracy does not)")
    by_cost = np.argsort(costs, kind="stable")  # argmax takes the first of equals: the cheapest
    value = (accuracy[:, by_cost] << 16) - round(lam * ONE) * costs[by_cost]
    return by_cost[value.argmax(1)]


def entry_for(table: list[dict], budget: float) -> dict:
    """The most accurate entry of a table of budgets, one or more, whose mean cost is at most `budget`."""
    entries = [entry for entry in table if entry["budget"] <= budget * (1 + 1e-9)]
    if not entries:
        least = rounded_up(min(entry["budget"] for entry in table))
        raise ValueError(f"budget {budget!r}: expected at least {least}, the mean cost of the cheapest choice")
    return max(entries, key=lambda entry: (entry["accuracy"], -entry["budget"]))


def rounded_up(cost: float) -> str:
    """A budget to type that a choice of this mean cost is within: at least as large, of four decimals."""
    return f"{math.ceil(cost * 10000) / 10000:.10g}"


_SHAPES = {
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


def _integers(name: str, value) -> np.ndarray:
    """int64 array of an integer or of nested lists of integers."""
    leaves = [value]
    for _ in range(3):
        if not any(isinstance(v, list) for v in leaves):
            break
        if not all(isinstance(v, list) for v in leaves) or len({len(v) for v in leaves}) != 1:
            raise SelectorError(f"selector.{name}: expected lists of equal length")
        leaves = [v for part in leaves for v in part]
    if not leaves or any(type(v) is not int or abs(v) >= SAFE for v in leaves):
        raise SelectorError(f"selector.{name}: expected integers below 2**62, got {str(value)[:60]}")
    return np.array(value, np.int64)


def _check_shape(name: str, array, letters: str, sizes: dict[str, int]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != np.int64 or array.ndim != len(letters):
        came = list(array.shape) if isinstance(array, np.ndarray) else type(array).__name__
        raise SelectorError(f"selector.{name}: expected integers with {len(letters)} axes, got {came}")
    for letter, length in zip(letters, array.shape, strict=True):
        if length < 1 or sizes.setdefault(letter, length) != length:
            raise SelectorError(f"selector.{name}: expected {sizes.get(letter)} for {letter}, got {list(array.shape)}")


def _check_ranges(s: Selector) -> None:
    ranges = {
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
    for name, (low, high) in ranges.items():
        array = getattr(s, name)
        if array.min() < low or array.max() > high:
            raise SelectorError(f"selector.{name}: expected {low}..{high}, got {array.min()}..{array.max()}")
    if (s.fallback < 0).all() or ((s.fallback < 0) & (s.fallback != NEVER)).any():
        raise SelectorError(f"selector.fallback: expected 0..{ONE} or {NEVER}, and one that is not, got {s.fallback}")


def _check_sums(s: Selector) -> None:
    """Bounds of every sum, in Python's unbounded integers, for any features of 32 bits."""
    hidden = _bound("hidden_weight", s.hidden_weight, s.hidden_bias, Z_MAX) >> int(s.hidden_shift)
    _bound("output_weight", s.output_weight, s.output_bias, hidden + 1)
    whitened = _bound("group_weight", s.group_weight.transpose(0, 2, 1), s.group_offset, Z_MAX) >> GROUP_SHIFT
    if (whitened + 1) ** 2 * len(NAMES) >= SAFE:
        raise SelectorError(f"selector.group_weight: distances overflow, their terms reach 2**{whitened.bit_length()}")


def _bound(name: str, weight: np.ndarray, offset: np.ndarray, largest: int) -> int:
    """The largest |sum| of `weight` times anything in -largest..largest, and the offset; below SAFE, or an error."""
    bound = int((np.abs(weight.astype(object)).sum(-1) * largest + np.abs(offset.astype(object))).max())
    if bound >= SAFE:
        raise SelectorError(f"selector.{name}: a sum may reach 2**{bound.bit_length()} and overflow")
    return bound
