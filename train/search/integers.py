"""Gives the student the integer weights that bit planes have learned, in place of the full-precision weights."""

from typing import Any

import torch
from torch import Tensor

from train.network.architectures import open_layers
from train.network.network import Network
from train.network.relaxed import RELAXED, RelaxedNetwork, RelaxedPerVariant
from train.network.statistics import reestimate_statistics

SETTLING_PICTURES = 2048  # whose statistics the variants' batch norms start with


def open_variants(net: RelaxedNetwork) -> list[RelaxedPerVariant]:
    """Returns what every open layer keeps for its widths, in the order of the layers' positions."""
    return [net.open_variant(layer) for layer in open_layers(net.arch)]


@torch.no_grad()
def give_integers(
    net: RelaxedNetwork, indices: Tensor, student: Network, pictures: Tensor, kinds: dict[str, int] | None = None
) -> None:
    """Gives all variants of a student the integers of one configuration, indices int64 [L, 2], and all steps.

    The variant of this configuration then computes what `net` computes with exact bits; in a wider one the very same
    weights have a finer step, in a narrower one they are rounded. Running statistics become those of pictures uint8
    [N, H, W, 3]. kinds: variant -> quality kind whose batch norm it takes, 0 where it is not named.
    """
    kind_of = kinds or {}
    for layer in net.arch.layers:
        conv, target = net.conv(layer), student.conv(layer)
        searched: Any = conv.variants[RELAXED]
        position = net.positions.get(layer.name)
        is_open = position is not None
        target.weight.copy_(searched.w.hard(int(indices[position, 0])) if is_open else conv.weight)
        for variant, config in student.bits.items():
            w_bits, a_bits = config[layer.name]
            per_variant = target.variant(variant)
            w_step = searched.w.log_step(net.widths.index(w_bits)) if is_open else searched.w.log_step
            per_variant.w.log_step.copy_(w_step)
            if per_variant.a is not None:
                a = searched.a.quantizers[net.widths.index(a_bits)] if is_open else searched.a
                per_variant.a.log_step.copy_(a.log_step)
            norm = searched.norms[kind_of.get(variant, 0)]
            per_variant.norm.load_state_dict(norm.state_dict(), strict=False)
    for variant in student.bits:
        student.streams[variant].load_state_dict(net.streams[RELAXED].state_dict())
        reestimate_statistics(student, variant, pictures)
