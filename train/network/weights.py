"""Reads published checkpoints, and our own, as weights of networks whose input is (code - zero_point) / 64."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from runtime.files import write_bytes
from train.network.architectures import INPUT_SCALE, Layer
from train.network.layers import FULL, Bias
from train.network.network import Network

Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of x / 255, by channel

IMAGENET: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CODES: Normalization = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))  # pictures as they are, 0..255
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")  # of a batch norm
NAMED = 3  # differences that a refusal names


def save_weights(net: Network, path: Path) -> None:
    """Writes a full-precision network as safetensors, which `load_weights` reads."""
    # Not save_file, which lets nobody else read what it writes.
    write_bytes(path, save({k: t.detach().cpu().contiguous() for k, t in net.state_dict().items()}))


def load_weights(net: Network, path: Path) -> None:
    """Fills the full-precision variant from a file of `save_weights`, or from a published checkpoint.

    The latter is a state dict, or one under "state_dict" (trained with ImageNet's mean). It is exact except where the
    padding lies, since a zero point is an integer. Raises ValueError naming what does not fit.
    """
    checkpoint = _read_checkpoint(path)
    if path.suffix == ".safetensors":
        _check_tensors(net, path, checkpoint, {k: t.shape for k, t in net.state_dict().items()})
        net.load_state_dict(checkpoint)
        return
    nested = "state_dict" in checkpoint
    state = {k.replace("module.", "", 1): t for k, t in (checkpoint["state_dict"] if nested else checkpoint).items()}
    shapes = {name: shape for layer in net.arch.layers for name, shape in _published_shapes(net, layer).items()}
    _check_tensors(net, path, _comparable(state, shapes), shapes)
    for layer in net.arch.layers:
        _fill_layer(net, layer, state)
    _fold_normalization(net, IMAGENET if nested else CODES)
    flip_negative_gains(net)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns a dict of tensors by name, or one that holds such under "state_dict"; raises ValueError otherwise."""
    expected = f"{path}: expected a checkpoint of tensors by name (.safetensors, or .pt or .th of torch), got"
    try:
        if path.suffix == ".safetensors":
            checkpoint = load_file(path)
        else:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint may fail in any way while they are unpickled
        reason = (str(error).splitlines() or [""])[0][:100]
        raise ValueError(f"{expected} a file that is none ({type(error).__name__}: {reason})") from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{expected} {'an empty' if isinstance(state, dict) else 'a'} {type(state).__name__}")
    for name, tensor in state.items():
        if not (isinstance(name, str) and isinstance(tensor, Tensor)):
            raise ValueError(f"{expected} {type(tensor).__name__} as {str(name)[:100]!r}")
    return checkpoint


def _published_shapes(net: Network, layer: Layer) -> dict[str, torch.Size]:
    """Returns name -> shape of all that a published checkpoint holds of a layer, weights in four dimensions."""
    conv = net.conv(layer)
    norm = conv.variant(FULL).norm
    weight = {f"{layer.name}.weight": conv.weight.shape}
    if isinstance(norm, Bias):
        return {**weight, f"{layer.name}.bias": norm.bias.shape}
    return {**weight, **{f"{_norm_name(layer)}.{name}": norm.state_dict()[name].shape for name in NORM_TENSORS}}


def _norm_name(layer: Layer) -> str:
    """Returns a published batch norm's name: bn1 for conv1, beside whatever stands before it."""
    return layer.name[: -len("conv1")] + layer.name[-len("conv1") :].replace("conv", "bn")


def _four_dimensions(weight: Tensor) -> Tensor:
    """Returns weights [O, I] or [O, I, kH, kW] as [O, I, kH, kW]."""
    return weight.reshape(*weight.shape, *[1] * (4 - weight.dim()))


def _comparable(state: dict[str, Tensor], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Returns the tensors of a published checkpoint that have to fit: all weights, and what has a known name."""
    tensors = {}
    for name, tensor in state.items():
        is_weight = name.endswith(".weight") and tensor.dim() > 1
        if is_weight:
            tensors[name] = _four_dimensions(tensor)
        elif name in shapes:
            tensors[name] = tensor
    return tensors


def _check_tensors(net: Network, path: Path, state: dict[str, Tensor], shapes: dict[str, torch.Size]) -> None:
    """Raises ValueError where names or shapes differ."""
    differences = [f"{name} missing" for name in shapes if name not in state]
    differences += [f"{name} not expected" for name in state if name not in shapes]
    differences += [
        f"{name} of {list(state[name].shape)}, not {list(shape)}"
        for name, shape in shapes.items()
        if name in state and state[name].shape != shape
    ]
    if not differences:
        return
    classes = net.arch.classifier.outputs
    more = len(differences) - NAMED
    raise ValueError(
        f"{path} is no checkpoint of {net.arch.name} for {classes} classes; give the --arch it was "
        f"trained as (of --teacher: --teacher-arch) and data of its classes: "
        f"{', '.join(differences[:NAMED])}{f', and {more} more' if more > 0 else ''}"
    )


def _fill_layer(net: Network, layer: Layer, state: dict[str, Tensor]) -> None:
    """Copies a layer's tensors of a published checkpoint into the full-precision variant."""
    conv = net.conv(layer)
    norm = conv.variant(FULL).norm
    with torch.no_grad():
        conv.weight.copy_(_four_dimensions(state[f"{layer.name}.weight"]))
        if isinstance(norm, Bias):
            norm.bias.copy_(state[f"{layer.name}.bias"])
            return
    norm.load_state_dict({name: state[f"{_norm_name(layer)}.{name}"] for name in NORM_TENSORS}, strict=False)


@torch.no_grad()
def _fold_normalization(net: Network, normalization: Normalization) -> None:
    """Makes the first layer take our pictures in place of normalized ones, mean and deviation by channel.

    (x / 255 - mean) / deviation = slope * (x - zero_point) / 64 + rest: the slope goes into the weights, the rest into
    the batch norm's mean.
    """
    mean, deviation = (torch.tensor(values, dtype=torch.float64) for values in normalization)
    net.zero_point.copy_((255 * mean).round().long())
    slope = 1 / (INPUT_SCALE * 255 * deviation)
    rest = (net.zero_point / 255 - mean) / deviation
    conv = net.conv(net.arch.stem)
    norm = conv.variant(FULL).norm
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    weight = conv.weight.double()
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
    for layer in net.arch.layers:
        conv = net.conv(layer)
        norm = conv.variant(FULL).norm
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            sign = torch.where(norm.weight < 0, -1.0, 1.0)
            conv.weight.mul_(sign.view(-1, 1, 1, 1))
            norm.running_mean.mul_(sign)
            norm.weight.abs_()
    net.keep_gains_positive()
