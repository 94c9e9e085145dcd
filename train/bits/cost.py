"""What bit configurations cost, as a share of the same network with 8 bits everywhere: a table and its expectation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.choice.budgets import rounded_up
from targets import find
from train.network.architectures import END_BITS, Architecture, Layer, open_layers

TABLE_BITS = 6 * 32  # of one output channel: bias, left, multiplier, half, shift, residual multiplier, int32 each
TOLERANCE = 1e-9  # relative, between costs that are equal but for rounding

BitConfig = dict[str, tuple[int, int]]  # layer name -> (w_bits, a_bits)
LayerCost = Callable[[Layer, int, int], float]  # (layer, w_bits, a_bits) -> cost in a unit of its own


class CostError(ValueError):
    """A cost cannot be had, or a budget cannot be met; the message says what can."""


def bitops(layer: Layer, w_bits: int, a_bits: int) -> float:
    """Returns the BitOPs of a layer: multiply-adds per picture, each times the widths of its two operands."""
    return layer.macs * w_bits * a_bits


def size(layer: Layer, w_bits: int, a_bits: int) -> float:  # noqa: ARG001  (a LayerCost)
    """Returns the stored bits of a layer: weights at their width, sign included, and every output channel's table."""
    return layer.outputs * (layer.inputs * layer.kernel**2 * w_bits + TABLE_BITS)


def latency(target: str) -> LayerCost:
    """Returns the time of a layer on a target, from the target's measured table.

    Left out is what does not depend on one layer's bits alone: pooling, and copies of the stream in other widths.
    Raises CostError where there is no such table, as does the cost for a layer that the table lacks.
    """
    try:
        from targets.costs.shapes import Shape
        from targets.costs.table import CostsError, load  # here, since only this cost needs a table

        table = load(find(target).compiled_for[-1].name)  # of a family, what its every processor can run
    except (ImportError, ValueError) as error:
        raise CostError(f"--cost latency --target {target}: {error}; or give --cost bitops") from error

    def time(layer: Layer, w_bits: int, a_bits: int) -> float:
        height, width = layer.size
        is_classifier = layer.source == "pool"
        shape = Shape(
            "linear" if is_classifier else "conv",
            (layer.kernel, layer.kernel),
            (layer.stride, layer.stride),
            (height * layer.stride, width * layer.stride, layer.inputs),
            (height, width, layer.outputs),
            skip=layer.source == "conv",
            borders=(0 if is_classifier else 1,),
        )
        try:
            return table.layer(shape, f"w{w_bits}a{a_bits}")[0]
        except CostsError as error:
            raise CostError(f"--cost latency --target {target}: {error}") from error

    return time


def layer_cost(cost: str, target: str) -> LayerCost:
    """Returns the cost of that name, "bitops", "size" or "latency"; target: only looked at for latency.

    Raises CostError where a latency has no table.
    """
    if cost == "latency":
        return latency(target)
    return {"bitops": bitops, "size": size}[cost]


def relative(cost: LayerCost, arch: Architecture, config: BitConfig) -> float:
    """Returns the cost of a whole configuration, relative to 8 bits everywhere."""
    own = sum(cost(layer, *config[layer.name]) for layer in arch.layers)
    return own / sum(cost(layer, 8, 8) for layer in arch.layers)


@dataclass(frozen=True, eq=False)
class CostTable:
    """Costs of L open layers at every pair of W widths, each as a share of the whole network's at 8 bits.

    widths: ascending; table: float64 [L, W, W], by layer, width of weights, width of activations; rest: what the layers
    cost that stay at 8 bits. Configurations are indices int64 [L, 2] into the widths, of weights and of activations.
    """

    arch: Architecture
    widths: tuple[int, ...]
    table: Tensor
    rest: float

    @classmethod
    def of(cls, cost: LayerCost, arch: Architecture, widths: tuple[int, ...]) -> "CostTable":
        """Returns the table of a cost for an architecture's open layers."""
        whole = sum(cost(layer, 8, 8) for layer in arch.layers)
        rows = [[[cost(layer, w, a) / whole for a in widths] for w in widths] for layer in open_layers(arch)]
        ends = sum(cost(layer, *END_BITS) for layer in arch.ends) / whole
        return cls(arch, widths, torch.tensor(rows, dtype=torch.float64), ends)

    def expected(self, p: Tensor) -> Tensor:
        """Returns the mean cost [...] of configurations drawn from p [..., L, 2, W], each layer's widths apart.

        It is differentiable.
        """
        table = self.table.to(p)
        return self.rest + torch.einsum("...lw,...la,lwa->...", p[..., 0, :], p[..., 1, :], table)

    def of_indices(self, indices: Tensor) -> Tensor:
        """Returns the cost, float64 [...], of configurations int64 [..., L, 2]."""
        layers = torch.arange(len(self.table))
        return self.rest + self.table[layers, indices[..., 0], indices[..., 1]].sum(-1)

    def least(self, a_bits: int | None = None) -> float:
        """Returns the cost of the cheapest configuration; a_bits: of all inner activations, if given."""
        return float(self.of_indices(self.cheapest(a_bits)))

    def cheapest(self, a_bits: int | None = None) -> Tensor:
        """Returns the configuration of least cost, int64 [L, 2]; a_bits: of all inner activations, if given."""
        allowed = list(range(len(self.widths))) if a_bits is None else [self.widths.index(a_bits)]
        pair = self.table[:, :, allowed].flatten(1).argmin(1)
        return torch.stack([pair // len(allowed), torch.tensor(allowed)[pair % len(allowed)]], 1)

    def first_within(self, budget: float, tried: Tensor, a_bits: int | None = None) -> Tensor:
        """Returns the first of configurations int64 [N, L, 2] that keeps the budget, int64 [L, 2].

        Where none does, which can be in a table where fewer bits cost more, it is the cheapest of all; a_bits: as in
        `cheapest`.
        """
        within = self.of_indices(tried) <= budget * (1 + TOLERANCE)
        return tried[int(within.nonzero()[0])] if within.any() else self.cheapest(a_bits)

    def check(self, budget: float, a_bits: int | None = None) -> None:
        """Raises CostError for a budget that no configuration keeps; a_bits: as in `least`."""
        least = self.least(a_bits)
        if budget < least * (1 - TOLERANCE):
            widths = ", ".join(map(str, self.widths))
            activations = "" if a_bits is None else f" with {a_bits}-bit activations"
            raise CostError(
                f"--budget {budget:g}: the least that widths {widths} can reach{activations} is "
                f"{rounded_up(least)} of the cost of 8 bits; raise the budget or give smaller --widths"
            )

    def widened(self, indices: Tensor) -> Tensor:
        """Returns the widest configuration, int64 [L, 2], that the target runs as fast as the one given, int64 [L, 2].

        In each layer that is the widest pair of widths that costs no more.
        """
        out = indices.clone()
        for layer, (w, a) in enumerate(indices.tolist()):
            table = self.table[layer]
            free = (table <= table[w, a] * (1 + TOLERANCE)) & _at_least(w, a, table.shape)
            pairs = free.nonzero()
            out[layer] = pairs[pairs.sum(1).argmax()]
        return out

    def indices(self, config: BitConfig) -> Tensor:
        """Returns the indices int64 [L, 2] of a configuration, the inverse of `config`."""
        pairs = [config[layer.name] for layer in open_layers(self.arch)]
        return torch.tensor([[self.widths.index(bits) for bits in pair] for pair in pairs])

    def config(self, indices: Tensor) -> BitConfig:
        """Returns the configuration of indices int64 [L, 2], with 8 bits in the first layer and the classifier."""
        names = (layer.name for layer in open_layers(self.arch))
        inner = {name: (self.widths[w], self.widths[a]) for name, (w, a) in zip(names, indices.tolist(), strict=True)}
        return {layer.name: inner.get(layer.name, END_BITS) for layer in self.arch.layers}


def _at_least(w: int, a: int, shape: Sequence[int]) -> Tensor:
    """Where indices of two widths are at least these, bool [W, W]."""
    rows, columns = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    return (rows >= w) & (columns >= a)


def check_given(budget: float, costs: list[tuple[str, float]]) -> None:
    """Raises CostError where none of several variants (name, cost) keeps the budget; one alone leaves no choice."""
    name, least = min(costs, key=lambda pair: pair[1])
    if len(costs) > 1 and budget < least * (1 - TOLERANCE):
        raise CostError(
            f"--budget {budget:g}: the cheapest variant given, {name}, costs {rounded_up(least)} of the "
            "cost of 8 bits; raise the budget or give a cheaper variant"
        )
