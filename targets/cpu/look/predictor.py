"""The choice of a variant from a picture's features in integers: runtime/choice/selector.py says what it computes.

Vectors are of int64. Where weights and what they multiply fit int32, a product takes one instruction.
"""

from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as T

from runtime.choice.quality import D
from runtime.choice.selector import FAINTEST, GROUP_SHIFT, OCTAVE, Z_MAX
from targets.cpu.look.table import LANES, Row, SelectorTable, padded_size
from targets.cpu.look.vectors import Registers, Vectors, load, splat, spread, vector


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads a table's buffer."""

    table: Any

    def one(self, row: Row, k: Any) -> Any:
        """Returns an integer of a row, int64."""
        return self.some(row, k, 1)

    def some(self, row: Row, k: Any, lanes: int) -> Any:
        """Returns `lanes` integers of a row, int64."""
        if not row.is_wide:
            return T.cast(load(self.table, row.at + k, lanes), vector("int64", lanes))
        at = row.at + 2 * k
        if lanes > 1:
            return T.reinterpret(load(self.table, at, 2 * lanes), dtype=vector("int64", lanes))
        low = T.bitwise_and(T.cast(self.table[at], "int64"), T.int64((1 << 32) - 1))
        return T.bitwise_or(T.shift_left(T.cast(self.table[at + 1], "int64"), T.int64(32)), low)


def emit_choice(vectors: Vectors, selector: SelectorTable, table: Any, features: Registers) -> Any:
    """Adds code that chooses for features int64 in `features`; returns the variant's index, int64.

    table: a buffer of `selector.words`, whose first two words are the price: what cost is multiplied with, in 1/65536.
    """
    read = _Reader(table)
    groups, variants = selector.selector.group_accuracy.shape
    z = _standardized(selector, read, features)
    distance2 = _distance2(vectors, selector, read, z)
    likelihood = _likelihood(selector, read, _scores(vectors, selector, read, z), groups)
    accuracy = _accuracy(vectors, selector, read, likelihood, groups)
    total = T.bind(likelihood[groups])
    price = T.bind(read.one(Row(0, True), 0))
    best, chosen = Registers(1, "int64"), Registers(1, "int64")
    with T.serial(variants) as k:
        is_far = distance2 > read.one(selector.threshold, k)
        expected = T.Select(is_far, read.one(selector.fallback, k), T.truncdiv(accuracy[k], total))
        value = T.bind(T.shift_left(expected, T.int64(16)) - price * read.one(selector.costs, k))
        with T.If(T.Or(k == 0, value > best[0])), T.Then():
            best[0] = value
            chosen[0] = read.one(selector.order, k)
    return T.bind(chosen[0])


def _standardized(selector: SelectorTable, read: _Reader, features: Registers) -> Registers:
    """Returns z, int32."""
    z = Registers(D, "int32")
    with T.serial(D) as d:
        product = (features[d] - read.one(selector.offset, d)) * read.one(selector.multiplier, d)
        shifted = T.shift_right(product, read.one(selector.shift, d))
        z[d] = T.cast(T.min(T.max(shifted, T.int64(-Z_MAX)), T.int64(Z_MAX)), "int32")
    return z


def _scores(vectors: Vectors, selector: SelectorTable, read: _Reader, z: Registers) -> Registers:
    """Returns the score of every group, int64, and of what fills up the last vector."""
    lanes, (groups, units) = min(LANES, vectors.longs), selector.selector.output_weight.shape
    hidden = Registers(padded_size(units), "int64" if selector.hidden_is_wide else "int32")
    hidden_shift = splat(int(selector.selector.hidden_shift), "int64", lanes)
    with T.serial(padded_size(units) // lanes) as block:
        total = Registers(1, "int64", lanes)
        total[0] = read.some(selector.hidden_bias, block * lanes, lanes)
        with T.serial(D) as d:
            weight = read.some(selector.hidden, d * padded_size(units) + block * lanes, lanes)
            total.add(0, spread(T.cast(z[d], "int64"), lanes) * weight)
        active = T.max(splat(0, "int64", lanes), T.shift_right(total[0], hidden_shift))
        _put(hidden, block * lanes, active, lanes)
    scores = Registers(padded_size(groups), "int64")
    output_shift = splat(int(selector.selector.output_shift), "int64", lanes)
    with T.serial(padded_size(groups) // lanes) as block:
        total = Registers(1, "int64", lanes)
        total[0] = read.some(selector.output_bias, block * lanes, lanes)
        with T.serial(units) as h:
            weight = read.some(selector.output, h * padded_size(groups) + block * lanes, lanes)
            total.add(0, spread(T.cast(hidden[h], "int64"), lanes) * weight)
        _put(scores, block * lanes, T.shift_right(total[0], output_shift), lanes)
    return scores


def _put(registers: Registers, at: Any, values: Any, lanes: int) -> None:
    """Stores an int64 vector as single numbers of the registers' type."""
    T.buffer_store(
        registers.buffer,
        T.cast(values, vector(str(registers.buffer.dtype), lanes)),
        [T.ramp(at, 1, lanes) if lanes > 1 else at],
    )


def _distance2(vectors: Vectors, selector: SelectorTable, read: _Reader, z: Registers) -> Any:
    """Returns the squared distance to the nearest group, int64."""
    lanes, groups = min(LANES, vectors.longs), selector.selector.group_accuracy.shape[0]
    row = padded_size(groups)
    distances = Registers(row, "int64")
    with T.serial(row // lanes) as block:
        distance = Registers(1, "int64", lanes)
        distance.clear()
        with T.serial(D) as e:
            total = Registers(1, "int64", lanes)
            total[0] = splat(0, "int64", lanes) - read.some(selector.whitening_offset, e * row + block * lanes, lanes)
            with T.serial(D) as d:
                weight = read.some(selector.whitening, (d * D + e) * row + block * lanes, lanes)
                total.add(0, spread(T.cast(z[d], "int64"), lanes) * weight)
            whitened = T.shift_right(total[0], splat(GROUP_SHIFT, "int64", lanes))
            # it fits, or the selector would not have passed: the sum of 12 squares is below 2**62
            whitened = T.bind(T.cast(T.cast(whitened, vector("int32", lanes)), vector("int64", lanes)))
            distance.add(0, whitened * whitened)
        _put(distances, block * lanes, distance[0], lanes)
    nearest = Registers(1, "int64")
    nearest[0] = distances[0]
    with T.serial(groups) as g:
        nearest[0] = T.min(nearest[0], distances[g])
    return T.bind(nearest[0])


def _likelihood(selector: SelectorTable, read: _Reader, scores: Registers, groups: int) -> Registers:
    """Returns the likelihood of every group, int64, and their sum."""
    best, likelihood = Registers(1, "int64"), Registers(groups + 1, "int64")
    best[0] = scores[0]
    with T.serial(groups) as g:
        best[0] = T.max(best[0], scores[g])
    likelihood[groups] = T.int64(0)
    with T.serial(groups) as g:
        below = T.bind(T.min(best[0] - scores[g], T.int64(FAINTEST)))
        octaves = T.shift_right(below + T.int64(OCTAVE - 1), T.int64(8))
        part = T.cast(T.shift_left(octaves, T.int64(8)) - below, "int32")
        likelihood[g] = T.shift_right(read.one(selector.powers, part), octaves)
        likelihood.add(groups, likelihood[g])
    return likelihood


def _accuracy(
    vectors: Vectors, selector: SelectorTable, read: _Reader, likelihood: Registers, groups: int
) -> Registers:
    """Returns every variant's accuracy, int64, times the sum of likelihoods, and what fills up the last vector."""
    lanes = min(LANES, vectors.longs)
    row = padded_size(selector.selector.variants)
    accuracy = Registers(row, "int64")
    with T.serial(row // lanes) as block:
        total = Registers(1, "int64", lanes)
        total.clear()
        with T.serial(groups) as g:
            weight = read.some(selector.accuracy, g * row + block * lanes, lanes)
            narrow = T.cast(T.cast(likelihood[g], "int32"), "int64")  # at most 2**17
            total.add(0, spread(narrow, lanes) * weight)
        _put(accuracy, block * lanes, total[0], lanes)
    return accuracy
