"""Weights of a published network: MLPerf Tiny's ResNet-8 computes the same function here as in plain torch."""

import pytest
import torch
import torch.nn.functional as F

from train.network.architectures import architecture
from train.network.network import Network
from train.network.weights import load_weights


class PlainResNet8(torch.nn.Module):
    """MLPerf Tiny's network as published: raw codes in, TensorFlow padding."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.ModuleList([torch.nn.Conv2d(3, 16, 3, bias=False), torch.nn.BatchNorm2d(16, eps=1e-3)])
        self.stages, self.linear = torch.nn.ModuleList(), torch.nn.Linear(64, 10)
        for i, o, s in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
            self.stages.append(
                torch.nn.ModuleList(
                    [
                        torch.nn.Conv2d(i, o, 3, s, bias=False),
                        torch.nn.BatchNorm2d(o, eps=1e-3),
                        torch.nn.Conv2d(o, o, 3, bias=False),
                        torch.nn.BatchNorm2d(o, eps=1e-3),
                    ]
                    + ([torch.nn.Conv2d(i, o, 1, s)] if s > 1 else [])
                )
            )

    @staticmethod
    def same(x, conv):
        k, s, h = conv.kernel_size[0], conv.stride[0], x.shape[-1]
        p = max((-(-h // s) - 1) * s + k - h, 0)
        return conv(F.pad(x, (p // 2, p - p // 2, p // 2, p - p // 2)))

    def forward(self, x):
        x = F.relu(self.stem[1](self.same(x, self.stem[0])))
        for conv1, bn1, conv2, bn2, *shortcut in self.stages:
            y = bn2(self.same(F.relu(bn1(self.same(x, conv1))), conv2))
            x = F.relu(y + (shortcut[0](x) if shortcut else x))
        return self.linear(x.mean((2, 3)))

    def published(self) -> dict:
        names = {"stem.0": "conv1", "stem.1": "bn1", "linear": "linear"}
        for k in range(3):
            inner = ("conv1", "bn1", "conv2", "bn2", "shortcut")
            names |= {f"stages.{k}.{i}": f"block{k + 1}.{n}" for i, n in enumerate(inner)}
        return {f"{names[n.rsplit('.', 1)[0]]}.{n.rsplit('.', 1)[1]}": t for n, t in self.state_dict().items()}


def test_given_weights_compute_the_published_function(tmp_path):
    torch.manual_seed(0)
    plain, images = PlainResNet8(), torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8)
    raw = images.permute(0, 3, 1, 2).float()
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.normal_(0, 1)  # of both signs
            module.bias.data.normal_(0, 0.3)
    for _ in range(30):
        plain(raw)  # running statistics
    torch.save(plain.eval().published(), tmp_path / "tiny.pt")
    net = Network(architecture("resnet8", (32, 32, 3), 10), {})
    load_weights(net, tmp_path / "tiny.pt")
    with torch.no_grad():
        expected = plain(raw)
        logits = net.eval()(images)
    # float32 in another order of operations: a relative error of some 1e-6 a layer
    assert torch.allclose(logits, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
    assert all(m.weight.min() > 0 for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    with pytest.raises(ValueError, match="is no checkpoint of resnet20.*give the --arch"):
        load_weights(Network(architecture("resnet20", (32, 32, 3), 10), {}), tmp_path / "tiny.pt")
