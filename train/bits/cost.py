"""What bit configurations cost, as a share of the same network with 8 bits everywhere: a table, its expectation."""

from collections.abc import Callable
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
    """A cost that cannot be had or a budget that cannot be met; the message says what can."""


def bitops(layer: Layer, w_bits: int, a_bits: int) -> float:
    """Multiply-adds of a picture, each times the widths of its operands."""
    return layer.macs * w_bits * a_bits


def size(layer: Layer, w_bits: int, a_bits: int) -> float:
    """Stored bits: the weights at their width, sign included, and the table of every output channel."""
    return layer.outputs * (layer.inputs * layer.kernel**2 * w_bits + TABLE_BITS)


def latency(target: str) -> LayerCost:
    """Time of a layer on a target, from its measured table. Raises CostError where there is none.

    Left out is what does not depend on one layer's bits alone: pooling, and copies of the stream in other widths.
    """
    try:
        from targets.costs.shapes import Shape
        from targets.costs.table import CostsError, load  # here, since only this cost needs a table

        table = load(find(target).compiled_for[-1].name)  # of a family, what its every processor can run
    except (ImportError, ValueError) as error:
        raise CostError(f"--cost latency --target {target}: {error}; or give --cost bitops") from error

    def time(layer: Layer, w_bits: int, a_bits: int) -> float:
        kind, source = "linear" if layer.source == "pool" else "conv", [s * layer.stride for s in layer.size]
        shape = Shape(
            kind,
            (layer.kernel, layer.kernel),
            layer.stride,
            (*source, layer.inputs),
            (*layer.size, layer.outputs),
            skip=layer.source == "conv",
            borders=(int(kind == "conv"),),
        )
        try:
            return table.layer(shape, f"w{w_bits}a{a_bits}")[0]
        except CostsError as error:
            raise CostError(f"--cost latency --target {target}: {error}") from error

    return time


def layer_cost(cost: str, target: str) -> LayerCost:
    """cost: "bitops", "size" or "latency"; target: only looked at for latency."""
    return {"bitops": bitops, "size": size}[cost] if cost != "latency" else latency(target)


def relative(cost: LayerCost, arch: Architecture, config: BitConfig) -> float:
    """Cost of a whole configuration, of that of 8 bits everywhere."""
    return sum(cost(la, *config[la.name]) for la in arch.layers) / sum(cost(la, 8, 8) for la in arch.layers)


@dataclass(frozen=True, eq=False)
class CostTable:
    """Costs of the open layers at every pair of widths; all shares of the network at 8 bits.

    widths: ascending; table: float64 [L, W, W], by layer, width of weights, width of activations; rest: what the layers
    cost that stay at 8 bits.
    """

    arch: Architecture
    widths: tuple[int, ...]
    table: Tensor
    rest: float

    @classmethod
    def of(cls, cost: LayerCost, arch: Architecture, widths: tuple[int, ...]) -> "CostTable":
        whole = sum(cost(layer, 8, 8) for layer in arch.layers)
        rows = [[[cost(layer, w, a) / whole for a in widths] for w in widths] for layer in open_layers(arch)]
        ends = sum(cost(layer, *END_BITS) for layer in (arch.stem, arch.classifier)) / whole
        return cls(arch, widths, torch.tensor(rows, dtype=torch.float64), ends)

    def expected(self, p: Tensor) -> Tensor:
        """Mean cost [...] of configurations drawn from p [..., L, 2, W], each layer's widths apart; differentiable."""
        table = self.table.to(p)
        return self.rest + torch.einsum("...lw,...la,lwa->...", p[..., 0, :], p[..., 1, :], table)

    def of_indices(self, indices: Tensor) -> Tensor:
        """Cost float64 [...] of indices into the widths, int64 [..., L, 2]."""
        layers = torch.arange(len(self.table))
        return self.rest + self.table[layers, indices[..., 0], indices[..., 1]].sum(-1)

    def least(self, a_bits: int | None = None) -> float:
        """Cost of the cheapest configuration; a_bits: of all inner activations, if given."""
        return float(self.of_indices(self.cheapest(a_bits)))

    def cheapest(self, a_bits: int | None = None) -> Tensor:
        """Indices int64 [L, 2] of the configuration of least cost; a_bits: of all inner activations, if given."""
        allowed = range(len(self.widths)) if a_bits is None else [self.widths.index(a_bits)]
        pair = self.table[:, :, list(allowed)].flatten(1).argmin(1)
        return torch.stack([pair // len(allowed), torch.tensor(allowed)[pair % len(allowed)]], 1)

    def first_within(self, budget: float, tried: Tensor, a_bits: int | None = None) -> Tensor:
        """The first of configurations int64 [N, L, 2] that keeps the budget; where none does, which can be in a table
        where fewer bits cost more, the cheapest of all; a_bits: as in `cheapest`.
        """
        within = self.of_indices(tried) <= budget * (1 + TOLERANCE)
        return tried[int(within.nonzero()[0])] if within.any() else self.cheapest(a_bits)

    def check(self, budget: float, a_bits: int | None = None) -> None:
        """Raises CostError for a budget that no configuration keeps; a_bits: as in `least`."""
        least, told = self.least(a_bits), "" if a_bits is None else f" with {a_bits}-bit activations"
        if budget < least * (1 - TOLERANCE):
            widths = ", ".join(map(str, self.widths))
            raise CostError(
                f"--budget {budget:g}: the least that widths {widths} can reach{told} is "
                f"{rounded_up(least)} of the cost of 8 bits; raise the budget or give smaller --widths"
            )

    def widened(self, indices: Tensor) -> Tensor:
        """Indices int64 [L, 2] of the widest pairs that cost no more than those given: what the target runs as fast."""
        out = indices.clone()
        for layer, (w, a) in enumerate(indices.tolist()):
            table = self.table[layer]
            free = (table <= table[w, a] * (1 + TOLERANCE)) & _at_least(w, a, table.shape)
            pairs = free.nonzero()
            out[layer] = pairs[pairs.sum(1).argmax()]
        return out

    def indices(self, config: BitConfig) -> Tensor:
        """Inverse of `config`."""
        pairs = [config[layer.name] for layer in open_layers(self.arch)]
        return torch.tensor([[self.widths.index(b) for b in pair] for pair in pairs])

    def config(self, indices: Tensor) -> BitConfig:
        """The configuration of indices int64 [L, 2], with 8 bits in the first layer and the classifier."""
        pairs = [tuple(self.widths[i] for i in pair) for pair in indices.tolist()]
        inner = dict(zip((layer.name for layer in open_layers(self.arch)), pairs, strict=True))
        return {layer.name: inner.get(layer.name, END_BITS) for layer in self.arch.layers}


def check_given(budget: float, costs: list[tuple[str, float]]) -> None:
    """Raises CostError where none of several variants (name, cost) keeps the budget; one alone leaves no choice."""
    name, least = min(costs, key=lambda pair: pair[1])
    if len(costs) > 1 and budget < least * (1 - TOLERANCE):
        raise CostError(
            f"--budget {budget:g}: the cheapest variant given, {name}, costs {rounded_up(least)} of the "
            "cost of 8 bits; raise the budget or give a cheaper variant"
        )


def _at_least(w: int, a: int, shape) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    return (rows >= w) & (columns >= a)
