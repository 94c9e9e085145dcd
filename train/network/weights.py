"""Published checkpoints as weights of our networks, whose picture enters as (uint8 - zero_point) / 64; and our own."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from runtime.files import write_bytes
from train.network.architectures import INPUT_SCALE
from train.network.network import FULL, Network, key

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of x / 255
NORM = ("weight", "bias", "running_mean", "running_var")  # of a batch norm
RAW = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))  # pictures as 0..255


def save_weights(net: Network, path: Path) -> None:
    """Writes a full-precision network as safetensors; `load_weights` takes it."""
    # Not save_file, which lets nobody else read what it writes.
    write_bytes(path, save({k: t.detach().cpu().contiguous() for k, t in net.state_dict().items()}))


def load_weights(net: Network, path: Path) -> None:
    """Fills the full-precision variant from a file of `save_weights`, or from a published checkpoint.

    The latter: a state dict, or one under "state_dict" (then ImageNet's mean); exact but where the padding lies, since
    a zero point is an integer. Raises ValueError naming what does not fit.
    """
    loaded = _read(path)
    if path.suffix == ".safetensors":
        _check(net, path, loaded, {k: t.shape for k, t in net.state_dict().items()})
        net.load_state_dict(loaded)
        return
    normalization = IMAGENET if "state_dict" in loaded else RAW
    state = {k.replace("module.", "", 1): v for k, v in loaded.get("state_dict", loaded).items()}
    wanted = {name: shape for layer in net.arch.layers for name, shape in _published(net, layer).items()}
    _check(
        net,
        path,
        {
            k: _four(t) if k.endswith(".weight") and t.dim() > 1 else t
            for k, t in state.items()
            if k in wanted or (k.endswith(".weight") and t.dim() > 1)
        },
        wanted,
    )
    for layer in net.arch.layers:
        _fill(net, layer, state)
    _fold_normalization(net, *normalization)
    flip_negative_gains(net)


def _read(path: Path) -> dict:
    """A dict of tensors by name, or one that holds such under "state_dict"."""
    told = f"{path}: expected a checkpoint of tensors by name (.safetensors, or .pt or .th of torch), got"
    try:
        loaded = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # bytes that are no checkpoint may fail in any way while they are unpickled
        reason = (str(error).splitlines() or [""])[0][:100]
        raise ValueError(f"{told} a file that is none ({type(error).__name__}: {reason})") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{told} {'an empty' if isinstance(state, dict) else 'a'} {type(state).__name__}")
    other = [k for k, t in state.items() if not (isinstance(k, str) and isinstance(t, Tensor))]
    if other:
        raise ValueError(f"{told} {type(state[other[0]]).__name__} as {str(other[0])[:100]!r}")
    return loaded


def _published(net: Network, layer) -> dict[str, torch.Size]:
    """Name -> shape of all that a published checkpoint holds of a layer, weights in four dimensions."""
    conv, norm = net.convs[key(layer)], net.convs[key(layer)].variants[FULL].norm
    weight = {f"{layer.name}.weight": conv.weight.shape}
    if not layer.norm:
        return {**weight, f"{layer.name}.bias": norm.bias.shape}
    return {**weight, **{f"{_norm_name(layer)}.{k}": getattr(norm, k).shape for k in NORM}}


def _norm_name(layer) -> str:
    return layer.name[: -len("conv1")] + layer.name[-len("conv1") :].replace("conv", "bn")


def _four(weight: Tensor) -> Tensor:
    return weight.reshape(*weight.shape, *[1] * (4 - weight.dim()))


def _check(net: Network, path: Path, state: dict[str, Tensor], wanted: dict[str, torch.Size]) -> None:
    """Raises ValueError where names or shapes differ."""
    differing = [f"{k} missing" for k in wanted if k not in state]
    differing += [f"{k} not expected" for k in state if k not in wanted]
    differing += [
        f"{k} of {list(state[k].shape)}, not {list(wanted[k])}"
        for k in wanted
        if k in state and state[k].shape != wanted[k]
    ]
    if differing:
        classes, more = net.arch.classifier.outputs, len(differing) - 3
        raise ValueError(
            f"{path} is no checkpoint of {net.arch.name} for {classes} classes; give the --arch it was "
            f"trained as (of --teacher: --teacher-arch) and data of its classes: "
            f"{', '.join(differing[:3])}{f', and {more} more' if more > 0 else ''}"
        )


def _fill(net: Network, layer, state: dict[str, Tensor]) -> None:
    conv, norm = net.convs[key(layer)], net.convs[key(layer)].variants[FULL].norm
    with torch.no_grad():
        conv.weight.copy_(_four(state[f"{layer.name}.weight"]))
        if not layer.norm:
            norm.bias.copy_(state[f"{layer.name}.bias"])
            return
    norm.load_state_dict({k: state[f"{_norm_name(layer)}.{k}"] for k in NORM}, strict=False)


@torch.no_grad()
def _fold_normalization(net: Network, mean, deviation) -> None:
    """(x / 255 - mean) / deviation = slope * (x - zero_point) / 64 + rest, per channel of the picture."""
    mean, deviation = torch.tensor(mean, dtype=torch.float64), torch.tensor(deviation, dtype=torch.float64)
    net.zero_point.copy_((255 * mean).round().long())
    slope = 1 / (INPUT_SCALE * 255 * deviation)
    rest = (net.zero_point / 255 - mean) / deviation
    conv = net.convs[key(net.arch.stem)]
    norm, weight = conv.variants[FULL].norm, conv.weight.double()
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
        norm = conv.variants[FULL].norm
        if isinstance(norm, nn.BatchNorm2d):
            sign = torch.where(norm.weight < 0, -1.0, 1.0)
            conv.weight.mul_(sign.view(-1, 1, 1, 1))
            norm.running_mean.mul_(sign)
            norm.weight.abs_()
    net.keep_gains_positive()
