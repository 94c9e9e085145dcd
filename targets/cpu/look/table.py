"""The integers of a selector as compiled code reads them: one int32 table, whose first two words are the price."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.abi import PRICE_WORDS
from runtime.choice.selector import POWERS, Z_MAX, Selector
from targets.cpu.look.quality import logarithm_words

LANES = 8  # rows are filled up to whole vectors of int64, the widest there are
_INT32 = 1 << 31


@dataclass(frozen=True)
class Row:
    """Integers in the table from word `at` on: one word each, or two, the lower first, where some leave int32."""

    at: int
    is_wide: bool

    @property
    def words(self) -> int:
        """Words of an integer."""
        return 2 if self.is_wide else 1


@dataclass(frozen=True, eq=False)
class SelectorTable:
    """A selector's integers in the order of their use; rows with an axis of groups, units or variants last are padded.

    words: int32 [n], with a price of zero. Variants are in the order of their costs, so that the first of equals is
    the cheapest; order: their indices. hidden: [D, H]; output: [H, G]; whitening: [D, D, G]; accuracy: [G, K]. Further
    groups that fill up a vector are copies of the last one for distances. Hidden values fit int32 where
    `hidden_is_wide` is false.
    """

    words: npt.NDArray[np.int32]
    selector: Selector
    logarithms: Row
    powers: Row
    offset: Row
    multiplier: Row
    shift: Row
    hidden: Row
    hidden_bias: Row
    output: Row
    output_bias: Row
    whitening: Row
    whitening_offset: Row
    accuracy: Row
    threshold: Row
    fallback: Row
    costs: Row
    order: Row
    hidden_is_wide: bool


class _Words:
    """A table that grows by rows, each at the beginning of a line of the cache."""

    def __init__(self) -> None:
        self.pieces: list[npt.NDArray[np.int32]] = [np.zeros(PRICE_WORDS, np.int32)]

    def add(self, values: npt.NDArray[Any], is_wide: bool | None = None) -> Row:
        """Adds integers [...]; is_wide: two words each, None: where some do not fit one."""
        flat = np.ascontiguousarray(values, np.int64).reshape(-1)
        wide = bool((flat != flat.astype(np.int32)).any()) if is_wide is None else is_wide
        row = Row(sum(piece.size for piece in self.pieces), wide)
        words = flat.astype("<i8").view("<i4") if wide else flat
        self.pieces.append(np.pad(words, (0, -words.size % 16)).astype(np.int32))
        return row


def make_table(selector: Selector) -> SelectorTable:
    """Returns the table of a selector."""
    by_cost = np.argsort(selector.costs, kind="stable")
    words = _Words()
    hidden_bound = _largest(selector.hidden_weight, selector.hidden_bias) >> int(selector.hidden_shift)
    rows = {
        "logarithms": words.add(logarithm_words()),
        "powers": words.add(POWERS),
        "offset": words.add(selector.offset, True),
        "multiplier": words.add(selector.multiplier),
        "shift": words.add(selector.shift),
        "hidden": words.add(_padded(selector.hidden_weight.T)),
        "hidden_bias": words.add(_padded(selector.hidden_bias), True),
        "output": words.add(_padded(selector.output_weight.T)),
        "output_bias": words.add(_padded(selector.output_bias), True),
        "whitening": words.add(_padded(selector.group_weight.transpose(1, 2, 0), "edge")),
        "whitening_offset": words.add(_padded(selector.group_offset.T, "edge"), True),
        "accuracy": words.add(_padded(selector.group_accuracy[:, by_cost])),
        "threshold": words.add(selector.threshold[by_cost], True),
        "fallback": words.add(selector.fallback[by_cost], True),
        "costs": words.add(selector.costs[by_cost]),
        "order": words.add(by_cost),
    }
    return SelectorTable(
        words=np.concatenate(words.pieces), selector=selector, **rows, hidden_is_wide=hidden_bound + 1 >= _INT32
    )


def padded_size(count: int) -> int:
    """Returns how many integers a row of so many has with those that fill it up."""
    return -(-count // LANES) * LANES


def _padded(values: npt.NDArray[np.int64], mode: Any = "constant") -> npt.NDArray[np.int64]:
    """Returns the array with its last axis filled up."""
    short = padded_size(values.shape[-1]) - values.shape[-1]
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, short)], mode)


def _largest(weight: npt.NDArray[np.int64], bias: npt.NDArray[np.int64]) -> int:
    """Returns a bound of |sum| of weight [..., D] times standardized features, and the bias [...]."""
    sums: Sequence[int] = (np.abs(weight).sum(-1).astype(object) * Z_MAX + np.abs(bias)).reshape(-1).tolist()
    return max(sums)
