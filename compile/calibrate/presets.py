"""Finds the preprocessing that a user names: "torchvision:NAME", "timm:NAME" or a JSON file.

torchvision's presets are a table here (torchvision.json, read out of its source, version 0.29): they change with its
weights only. timm has well over a thousand, which are asked of the installed package; it needs no download for that.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compile.calibrate.errors import CalibrationError
from compile.calibrate.preprocessing import Preprocessing, from_dict

TABLE = Path(__file__).with_name("torchvision.json")


def find_preprocessing(text: str) -> Preprocessing:
    """Returns what --preprocess names; raises CalibrationError where there is no such name or file."""
    source, _, name = text.partition(":")
    try:
        if source == "torchvision" and name:
            return from_dict(_torchvision(name))
        if source == "timm" and name:
            return from_dict(_timm(name))
        return from_dict(_json(Path(text)))
    except CalibrationError as error:
        raise CalibrationError(f"--preprocess {text}: {error}") from error


def for_size(preprocessing: Preprocessing, size: tuple[int, int]) -> tuple[Preprocessing, str]:
    """Returns the preprocessing at a network's own size (height, width), and a remark where it was made for another."""
    if preprocessing.size in (None, size):
        return replace(preprocessing, size=size), ""
    height, width = preprocessing.size or size
    remark = f"the preprocessing is that of {height}x{width} pixels, the network takes {size[0]}x{size[1]}"
    return replace(preprocessing, size=size), remark


def _torchvision(name: str) -> Mapping[str, Any]:
    """The preset of "resnet50", or of "resnet50/IMAGENET1K_V1"; the default weights where none are named."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    model, _, weights = name.partition("/")
    if model not in table:
        near = [known for known in table if known.startswith(model[:4])] or list(table)
        raise CalibrationError(f"expected one of torchvision's classifiers ({', '.join(near[:12])} ...), got {model!r}")
    presets = table[model]
    if weights and (weights == "default" or weights not in presets):
        names = [known for known in presets if known != "default"]
        raise CalibrationError(f"expected weights of {model}, one of {', '.join(names)}, got {weights!r}")
    preset: Mapping[str, Any] = presets[weights or presets["default"]]
    return preset


def _timm(name: str) -> Mapping[str, Any]:
    try:
        from timm.models import get_pretrained_cfg
    except ImportError as error:
        raise CalibrationError(
            "expected timm to be installed, which knows its networks, but it is not; install it, or give the "
            "config.json that lies beside the network's weights"
        ) from error
    try:
        known = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        raise CalibrationError(f"expected a network of timm, got {name!r} ({error})") from error
    config: Mapping[str, Any] = known.to_dict()
    return config


def _json(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CalibrationError(
            "expected torchvision:NAME, timm:NAME or a JSON file, but there is no such file"
        ) from error
    except (OSError, ValueError) as error:
        raise CalibrationError(f"expected a JSON file, cannot read it ({error})") from error
    if not isinstance(data, dict):
        raise CalibrationError(f"expected a JSON object, got {type(data).__name__}")
    return data
