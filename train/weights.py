"""Published checkpoints as weights of our networks, whose picture enters as (uint8 - zero_point) / 64; and our own."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from train.architectures import INPUT_SCALE
from train.networks import FULL, Network, key

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of x / 255
RAW = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))  # pictures as 0..255


def save_weights(net: Network, path: Path) -> None:
    """Writes a full-precision network as safetensors, under a temporary name first; `load_weights` takes it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file({k: t.detach().cpu().contiguous() for k, t in net.state_dict().items()}, temporary)
    os.replace(temporary, path)


def load_weights(net: Network, path: Path) -> None:
    """Fills the full-precision arm from a file of `save_weights`, or from a published checkpoint.

    The latter: a state dict, or one under "state_dict" (then ImageNet's mean); exact but where the padding lies, since
    a zero point is an integer. Raises ValueError naming what does not fit.
    """
    if path.suffix == ".safetensors":
        try:
            net.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{path} holds no {net.arch.name} that a run has left ({error}); give the --arch it was "
                             "trained as") from error
        return
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    normalization = IMAGENET if "state_dict" in loaded else RAW
    state = {k.replace("module.", "", 1): v for k, v in loaded.get("state_dict", loaded).items()}
    wanted = {f"{layer.name}.weight" for layer in net.arch.layers}
    missing = sorted(wanted - state.keys())
    extra = sorted(k for k, v in state.items() if k.endswith(".weight") and v.dim() > 1 and k not in wanted)
    if missing or extra:
        raise ValueError(f"{path} is no checkpoint of {net.arch.name}: missing {missing[:3]}, not expected "
                         f"{extra[:3]}; give the --arch it was trained as")
    for layer in net.arch.layers:
        _fill(net, layer, state, path)
    _fold_normalization(net, *normalization)
    flip_negative_gains(net)


def _fill(net: Network, layer, state: dict[str, Tensor], path: Path) -> None:
    conv, norm = net.convs[key(layer)], net.convs[key(layer)].arms[FULL].norm
    weight = state[f"{layer.name}.weight"]
    weight = weight.reshape(*weight.shape, *[1] * (4 - weight.dim()))
    if weight.shape != conv.weight.shape:
        raise ValueError(f"{path}: {layer.name} has weights {list(weight.shape)}, expected {list(conv.weight.shape)}; "
                         f"is it for other pictures or classes?")
    with torch.no_grad():
        conv.weight.copy_(weight)
        if not layer.norm:
            norm.bias.copy_(state[f"{layer.name}.bias"])
            return
    name = layer.name[:-len("conv1")] + layer.name[-len("conv1"):].replace("conv", "bn")
    kept = ("weight", "bias", "running_mean", "running_var")
    norm.load_state_dict({k: state[f"{name}.{k}"] for k in kept}, strict=False)


@torch.no_grad()
def _fold_normalization(net: Network, mean, deviation) -> None:
    """(x / 255 - mean) / deviation = slope * (x - zero_point) / 64 + rest, per channel of the picture."""
    mean, deviation = torch.tensor(mean, dtype=torch.float64), torch.tensor(deviation, dtype=torch.float64)
    net.zero_point.copy_((255 * mean).round().long())
    slope = 1 / (INPUT_SCALE * 255 * deviation)
    rest = (net.zero_point / 255 - mean) / deviation
    conv = net.convs[key(net.arch.stem)]
    norm, weight = conv.arms[FULL].norm, conv.weight.double()
    running_mean = norm.running_mean.double() - (weight * rest.view(1, -1, 1, 1)).sum((1, 2, 3))
    variance = norm.running_var.double()
    weight = weight * slope.view(1, -1, 1, 1)
    # The batch norm undoes any scale of the weights: keep their size, so that one learning rate fits all layers.
    size = 2.0 ** float(slope.log2().mean().round())
    conv.weight.copy_(weight / size)
    norm.running_mean.copy_(running_mean / size)
    norm.running_var.copy_((variance + norm.eps) / size**2 - norm.eps)


@torch.no_grad()
def flip_negative_gains(net: Network) -> None:
    """Negates the weights of each channel whose gamma is negative: the same function, with gamma positive."""
    for conv in net.convs.values():
        norm = conv.arms[FULL].norm
        if isinstance(norm, nn.BatchNorm2d):
            sign = torch.where(norm.weight < 0, -1.0, 1.0)
            conv.weight.mul_(sign.view(-1, 1, 1, 1))
            norm.running_mean.mul_(sign)
            norm.weight.abs_()
    net.keep_gains_positive()
