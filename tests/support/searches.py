"""What tests of bit searches share: a small network, candidate widths, its table of BitOPs, and seeded chance."""

import torch

from train.bits.cost import CostTable, bitops
from train.network.architectures import architecture, open_layers

ARCH = architecture("resnet8", (8, 8, 3), 10)
WIDTHS = (2, 3, 4, 8)
LAYERS = len(open_layers(ARCH))


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bitops_table() -> CostTable:
    return CostTable.of(bitops, ARCH, WIDTHS)
