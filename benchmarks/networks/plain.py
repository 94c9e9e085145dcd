"""The benchmark's residual networks in plain torch, without anything of bitgrade's, as a reference for speed."""

import torch.nn.functional as F
from torch import Tensor, nn


class PlainBlock(nn.Module):
    """A basic block of a residual network for small pictures; `projected`: a 1x1 convolution where it strides."""

    def __init__(self, inputs: int, outputs: int, stride: int, projected: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if projected and stride > 1 else None
        self.stride = stride
        self.padding = (outputs - inputs) // 2  # channels of zeros before and behind those that are skipped

    def forward(self, x: Tensor) -> Tensor:
        """Returns the block's output [N, O, H, W] of x [N, I, H, W]."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(y + x)


def plain_resnet(name: str, side: int, classes: int) -> nn.Module:
    """Returns ResNet-8 of MLPerf Tiny (projected shortcuts), or ResNet-20 of He et al. 2015 (padded ones).

    side: of the pictures, pixels.
    """
    blocks_per_stage, projected = {"resnet8": (1, True), "resnet20": (3, False)}[name]
    channels = 16
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    for stage in range(3):
        for k in range(blocks_per_stage):
            layers.append(PlainBlock(channels, 16 << stage, 2 if stage > 0 and k == 0 else 1, projected))
            channels = 16 << stage
    return nn.Sequential(*layers, nn.AvgPool2d(side // 4), nn.Flatten(), nn.Linear(channels, classes))
