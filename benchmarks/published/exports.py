"""Exports a classifier of torchvision or timm with random weights, quantized by onnxruntime: one file a network.

    python -m benchmarks.published.exports torchvision --list
    python -m benchmarks.published.exports torchvision/resnet18 --out DIR --pictures PLACE

It needs torch, torchvision or timm, onnx and onnxruntime; nothing of bitgrade but what reads pictures.
"""

import argparse
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.published.photos import photos

SIDES = (64, 96, 128, 224)  # of the picture: the first that a network takes
MOST_PARAMETERS = 90e6  # larger networks take minutes each and have no other operators
CALIBRATION = 16  # pictures
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def names(library: str) -> list[str]:
    """Returns the classifiers of a library as "library/name"; raises ImportError where it is not installed."""
    if library == "timm":
        import timm

        return [f"timm/{name}" for name in timm.list_models()]
    import torchvision.models as zoo

    sizes = {name: zoo.get_model_weights(name).DEFAULT.meta["num_params"] for name in zoo.list_models(module=zoo)}
    return [f"torchvision/{name}" for name, size in sizes.items() if size <= MOST_PARAMETERS]


def export(name: str, out: Path, place: Path) -> Path:
    """Writes out/<library>_<network>.onnx and returns its path; one that is there is left.

    place: pictures for the calibration. Raises ValueError for a network that takes no picture of SIDES.
    """
    path = out / f"{name.replace('/', '_')}.onnx"
    if path.exists():
        return path
    import torch

    torch.manual_seed(0)
    model = _network(name).eval()
    side = _smallest_side(model)
    rgb = photos(place, CALIBRATION, (side, side, 3))
    floats = ((rgb / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        plain, quantized = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
        example = (torch.from_numpy(floats[:1]),)
        torch.onnx.export(
            model, example, str(plain), input_names=["x"], output_names=["y"], opset_version=17, dynamo=False
        )
        _quantize(plain, quantized, floats)
        out.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(quantized.read_bytes())
        partial.rename(path)
    return path


def _network(name: str) -> Any:
    """A network of ten classes with random weights."""
    library, _, model = name.partition("/")
    if library == "timm":
        import timm

        return timm.create_model(model, pretrained=False, num_classes=10)
    import torchvision.models as zoo

    auxiliary = {"aux_logits": False, "init_weights": True} if model in ("googlenet", "inception_v3") else {}
    return zoo.get_model(model, weights=None, num_classes=10, **auxiliary)


def _smallest_side(model: Any) -> int:
    import torch

    for side in SIDES:
        try:
            with torch.no_grad():
                model(torch.zeros(1, 3, side, side))
            return side
        except Exception:  # every network has its own way to refuse a size
            continue
    raise ValueError(f"expected a network of pictures of one of {SIDES} pixels a side, got another")


def _quantize(plain: Path, quantized: Path, floats: np.ndarray) -> None:
    """As most files in the wild are: QDQ, a scale for each output channel, uint8 activations; floats [N, C, H, W]."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        """Gives the calibration pictures one by one."""

        def __init__(self) -> None:
            self._rows: Iterator[np.ndarray] = iter(floats)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Returns the next picture as the network's input [1, C, H, W]."""
            row = next(self._rows, None)
            return None if row is None else {"x": row[None]}

    quantize_static(
        str(plain),
        str(quantized),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def main() -> None:
    """Prints names of networks as JSON, or the path of the file that was written."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="torchvision or timm with --list, else such as torchvision/resnet18")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pictures", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    print(json.dumps(names(args.name) if args.list else str(export(args.name, args.out, args.pictures).resolve())))


if __name__ == "__main__":
    main()
