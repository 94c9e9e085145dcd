"""What a photo becomes before a network sees it: which part of it, at what size, with which mean and deviation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compile.calibrate.errors import CalibrationError
from compile.qdq.normalization import Normalization, NormalizationError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


@dataclass(frozen=True)
class Preprocessing:
    """How a network was trained to see photos.

    mean, std: of pictures in 0..1, a number for each channel or one for all. crop: the part of the short side that a
    centred crop keeps, 0..1 (224 of 256 pixels: 0.875); None: the whole photo, squeezed to the network's size. size:
    (height, width) where the source says it. interpolation: of the training; the device is bilinear, antialiased.
    Raises CalibrationError for numbers that cannot be.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float | None = None
    size: tuple[int, int] | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if len(self.mean) not in (1, 3) or len(self.std) not in (1, 3):
            raise CalibrationError(f"expected a mean and std for each of 3 channels, got {self.mean} and {self.std}")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise CalibrationError(f"expected a crop of a part of the short side in 0..1, got {self.crop}")
        if self.size is not None and min(self.size) < 1:
            raise CalibrationError(f"expected a size of 1 pixel or more, got {self.size}")
        if self.interpolation not in INTERPOLATIONS:
            raise CalibrationError(f"expected one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}")
        try:
            _ = self.normalization
        except NormalizationError as error:
            raise CalibrationError(str(error)) from error

    @property
    def normalization(self) -> Normalization:
        """The mean and deviation alone."""
        return Normalization(self.mean, self.std)

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values, which `from_dict` reads."""
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "crop": self.crop,
            "size": None if self.size is None else list(self.size),
            "interpolation": self.interpolation,
        }


def from_dict(data: Mapping[str, Any]) -> Preprocessing:
    """Returns the preprocessing of a JSON object of one of four kinds; raises CalibrationError for any other.

    Our own (mean, std, crop); timm's (a pretrained_cfg, or config.json with one); Hugging Face's
    preprocessor_config.json (image_mean, image_std); torchvision's presets (resize_size, crop_size).
    """
    if isinstance(data.get("pretrained_cfg"), Mapping):
        data = data["pretrained_cfg"]
    try:
        for mark, read in KINDS.items():
            if mark in data:
                return read(data)
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        if isinstance(error, CalibrationError):
            raise
        message = f"expected fields as {mark!r} has them beside it, got {type(error).__name__}: {error}"
        raise CalibrationError(message) from error
    raise CalibrationError(
        f"expected one of {', '.join(KINDS)} among its fields, got {', '.join(list(data)[:8]) or 'none'}; write a JSON "
        'file such as {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop": 0.875}'
    )


def _read_own(data: Mapping[str, Any]) -> Preprocessing:
    size = data.get("size")
    return Preprocessing(
        mean=_numbers(data["mean"]),
        std=_numbers(data["std"]),
        crop=None if data["crop"] is None else float(data["crop"]),
        size=None if size is None else (int(size[0]), int(size[1])),
        interpolation=data.get("interpolation", "bilinear"),
    )


def _read_timm(data: Mapping[str, Any]) -> Preprocessing:
    _, height, width = data["input_size"]
    whole = data.get("crop_mode", "center") == "squash"
    interpolation = data.get("interpolation", "bicubic")
    return Preprocessing(
        mean=_numbers(data["mean"]),
        std=_numbers(data["std"]),
        crop=None if whole else float(data.get("crop_pct") or 0.875),
        size=(int(height), int(width)),
        interpolation="bilinear" if interpolation == "random" else interpolation,
    )


def _read_torchvision(data: Mapping[str, Any]) -> Preprocessing:
    crop = int(data["crop_size"])
    return Preprocessing(
        mean=_numbers(data.get("mean", (0.485, 0.456, 0.406))),
        std=_numbers(data.get("std", (0.229, 0.224, 0.225))),
        crop=min(1.0, crop / int(data["resize_size"])),
        size=(crop, crop),
        interpolation=data.get("interpolation", "bilinear"),
    )


def _read_hugging_face(data: Mapping[str, Any]) -> Preprocessing:
    factor = float(data.get("rescale_factor", 1 / 255)) if data.get("do_rescale", True) else 1.0
    offset = 1.0 if data.get("rescale_offset", False) else 0.0  # x = u8 * factor - offset
    normalized = data.get("do_normalize", True)
    mean = _numbers(data["image_mean"]) if normalized else (0.0,)
    std = _numbers(data["image_std"]) if normalized else (1.0,)
    crop, size = _hugging_face_frame(data)
    codes = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers of its filters
    return Preprocessing(
        mean=tuple((m + offset) / (255 * factor) for m in mean),
        std=tuple(s / (255 * factor) for s in std),
        crop=crop,
        size=size,
        interpolation=codes[int(data.get("resample", 2))],
    )


def _hugging_face_frame(data: Mapping[str, Any]) -> tuple[float | None, tuple[int, int] | None]:
    """(crop, size): of a resize of the short side and a centred crop, or of a resize to a size."""
    size = data.get("size") if data.get("do_resize", True) else None
    short = size if isinstance(size, int) else (size or {}).get("shortest_edge")
    if data.get("do_center_crop", False):
        crop = data["crop_size"]
        height, width = (crop, crop) if isinstance(crop, int) else (int(crop["height"]), int(crop["width"]))
        edge = short or (min(size["height"], size["width"]) if size else max(height, width))
        return (min(1.0, min(height, width) / int(edge)), (height, width))
    if short:  # ConvNeXt's: the short side is size / crop_pct below 384 pixels, of which a crop of `size` is kept
        return (float(data.get("crop_pct") or 1.0) if int(short) < 384 else None, (int(short), int(short)))
    return (None, (int(size["height"]), int(size["width"])) if size else None)


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in ([values] if isinstance(values, int | float) else values))


KINDS = {
    "crop": _read_own,
    "input_size": _read_timm,
    "image_mean": _read_hugging_face,
    "do_rescale": _read_hugging_face,
    "resize_size": _read_torchvision,
}
