"""Degrades pictures: nine families of lost quality, five severities each, the same picture for the same seed.

The constants are those of CIFAR-10-C (Hendrycks and Dietterich 2019; its published generator) where it has the family,
and our own for low light, which it lacks. They hold for a shorter side of 32 pixels. Larger pictures scale them with
`s = side / 32`: what is measured in pixels (blur, block size) grows with s; noise per pixel grows with sqrt(s), Poisson
rates falling with s, since a network sees noise averaged over areas. At side 224 that lands near ImageNet-C's own
constants. Smaller pictures keep those for 32.

albumentations does Gaussian blur, defocus and JPEG. The rest is ours, because albumentations computes something else
than the constants say: its GaussNoise truncates to integers (a deviation of .04 becomes .038) and draws from OpenCV's
global generator, its ShotNoise works on linear light, its MotionBlur is a uniform two-sided line, and its Downscale
mixes neighbouring areas where pixelation takes whole pixels.
"""

import math
import os
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask a server for news

import albumentations as A
import cv2
import numpy as np
from albumentations.augmentations.blur import functional as blur
from PIL import Image

from train.data.names import FAMILIES

VERSION = 1  # of everything below: cached pictures of another version are made anew
SIDE = 32  # shorter side, in pixels, for which the constants hold
SEVERITIES = (1, 2, 3, 4, 5)
CONSTANTS: dict[str, tuple[Any, ...]] = {  # family -> one constant for each severity
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # standard deviation; white is 1
    "shot_noise": (500, 250, 100, 75, 50),  # Poisson events at white
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # sigma, pixels
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),  # radius, sigma of its edge, pixels
    "motion_blur": ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),  # radius, sigma along the way, pixels
    "jpeg": (80, 65, 58, 50, 40),  # quality
    "low_light": (0.50, 0.35, 0.25, 0.15, 0.08),  # gain of linear light
    "contrast": (0.75, 0.50, 0.40, 0.30, 0.15),  # share of each pixel's distance from the mean that is left
    "pixelate": (0.95, 0.90, 0.85, 0.75, 0.65),  # side of the small picture, relative to the whole side
}
GAMMA = 2.2  # codes are linear light to the power of 1 / GAMMA
FULL_WELL = 500  # electrons at white and gain 1, for low light
READ_NOISE = 0.005  # standard deviation in linear light; white is 1
CUT_SIGMAS = 4  # where the tail of a motion blur is no longer visible


def degrade(picture: np.ndarray, family: str, severity: int, seed: int) -> np.ndarray:
    """Returns a degraded copy of one picture, uint8 [H, W, 3]; the same arguments always give the same copy.

    picture: uint8 [H, W, 3]; family: one of FAMILIES; severity: 1..5, for "clean" also 0 and without effect;
    seed: any integer >= 0. Raises ValueError for anything else.
    """
    _check_picture(picture)
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; the families are {', '.join(FAMILIES)}")
    if family == "clean":
        return picture.copy()
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity!r} of {family}: expected one of {SEVERITIES}")
    rng = np.random.default_rng((seed, zlib.crc32(family.encode()), severity))
    constant = CONSTANTS[family][severity - 1]
    scale = max(1.0, min(picture.shape[:2]) / SIDE)
    return _FUNCTIONS[family](picture, _Strength(constant, scale, rng))


def _check_picture(picture: Any) -> None:
    """Raises ValueError for anything but a uint8 array [H, W, 3]."""
    if not isinstance(picture, np.ndarray):
        kind = type(picture).__name__
    elif picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        kind = f"{picture.dtype} {list(picture.shape)}"
    else:
        return
    raise ValueError(
        f"expected a uint8 picture [H, W, 3], got {kind}; convert it with runtime.pictures.arrays.as_picture"
    )


@dataclass(frozen=True, eq=False)
class _Strength:
    """How strongly to degrade one picture, and the source of its chance.

    constant: the family's own, at a severity; scale: shorter side of the picture / SIDE, at least 1.
    """

    constant: Any
    scale: float
    rng: np.random.Generator


# Each function below takes a picture uint8 [H, W, 3] and returns its degraded copy of the same shape and type.


def _round_to_codes(real: np.ndarray) -> np.ndarray:
    """Rounds real values 0..1 to uint8; what lies outside is clipped."""
    return np.clip(np.rint(real * 255), 0, 255).astype(np.uint8)


def _add_gaussian_noise(x: np.ndarray, strength: _Strength) -> np.ndarray:
    sigma = strength.constant * math.sqrt(strength.scale)
    noise = strength.rng.standard_normal(x.shape, np.float32) * np.float32(sigma)
    return _round_to_codes(x * np.float32(1 / 255) + noise)


def _add_shot_noise(x: np.ndarray, strength: _Strength) -> np.ndarray:
    rate = strength.constant / strength.scale
    return _round_to_codes(strength.rng.poisson(x * (rate / 255)) / rate)


def _blur_gaussian(x: np.ndarray, strength: _Strength) -> np.ndarray:
    return _gaussian_blur(strength.constant * strength.scale)(image=x)["image"]


def _blur_by_defocus(x: np.ndarray, strength: _Strength) -> np.ndarray:
    radius, edge = strength.constant
    return blur.defocus(x, radius * strength.scale, edge)


def _blur_by_motion(x: np.ndarray, strength: _Strength) -> np.ndarray:
    radius, sigma = strength.constant
    angle = strength.rng.uniform(-math.pi / 4, math.pi / 4)
    kernel, anchor = motion_kernel(round(radius * strength.scale), sigma * strength.scale, angle)
    return cv2.filter2D(x, -1, kernel, anchor=anchor, borderType=cv2.BORDER_REPLICATE)


def motion_kernel(radius: int, sigma: float, angle: float) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns ImageMagick's motion blur, as CIFAR-10-C used it: a half Gaussian along a ray, on whole pixels.

    radius, sigma in pixels, angle in radians. The kernel is float32 [kH, kW] and sums to 1; its anchor is (x, y).
    """
    step = np.arange(min(2 * radius, math.ceil(CUT_SIGMAS * sigma)) + 1)
    dx = np.ceil(step * math.cos(angle) - 0.5).astype(int)
    dy = np.ceil(step * math.sin(angle) - 0.5).astype(int)
    kernel = np.zeros((dy.max() - dy.min() + 1, dx.max() - dx.min() + 1), np.float32)
    np.add.at(kernel, (dy - dy.min(), dx - dx.min()), np.exp(-(step**2) / (2 * sigma**2)))
    return kernel / kernel.sum(), (int(-dx.min()), int(-dy.min()))


def _compress_as_jpeg(x: np.ndarray, strength: _Strength) -> np.ndarray:
    # albumentations hands the picture to OpenCV, which takes it for BGR: turned round, luma and chroma come out right
    bgr = np.ascontiguousarray(x[:, :, ::-1])
    compression = _jpeg_compression(jpeg_quality(strength.constant, strength.scale))
    return np.ascontiguousarray(compression(image=bgr)["image"][:, :, ::-1])


def jpeg_quality(quality: int, scale: float) -> int:
    """Returns the JPEG quality 1..100 whose quantization steps are sqrt(scale) times as large, by libjpeg's rule."""
    percent = (200 - 2 * quality if quality >= 50 else 5000 / quality) * math.sqrt(scale)
    return min(100, max(1, round((200 - percent) / 2 if percent <= 100 else 5000 / percent)))


def _dim(x: np.ndarray, strength: _Strength) -> np.ndarray:
    """A dark scene: fewer photons in linear light, with shot noise, and the sensor's read noise on top."""
    well = FULL_WELL / strength.scale
    electrons = strength.rng.poisson(_LINEAR_LIGHT[x] * (well * strength.constant))
    read = strength.rng.standard_normal(x.shape, np.float32) * np.float32(READ_NOISE * math.sqrt(strength.scale))
    linear = np.clip(electrons.astype(np.float32) * np.float32(1 / well) + read, 0, 1)
    return _round_to_codes(linear ** np.float32(1 / GAMMA))


def _lower_contrast(x: np.ndarray, strength: _Strength) -> np.ndarray:
    mean = x.mean((0, 1), dtype=np.float64).astype(np.float32)
    return np.clip(np.rint((x - mean) * np.float32(strength.constant) + mean), 0, 255).astype(np.uint8)


def _pixelate(x: np.ndarray, strength: _Strength) -> np.ndarray:
    height, width = x.shape[:2]
    # A block is 1 / share pixels wide; what exceeds one pixel grows with the picture.
    share = 1 / (1 + (1 / strength.constant - 1) * strength.scale)
    size = max(1, int(width * share)), max(1, int(height * share))
    small = Image.fromarray(x).resize(size, Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX))


@lru_cache(maxsize=64)
def _gaussian_blur(sigma: float) -> A.GaussianBlur:
    return A.GaussianBlur(blur_limit=0, sigma_limit=(sigma, sigma), p=1)


@lru_cache(maxsize=64)
def _jpeg_compression(quality: int) -> A.ImageCompression:
    return A.ImageCompression(compression_type="jpeg", quality_range=(quality, quality), p=1)


_LINEAR_LIGHT = (np.arange(256) / 255) ** GAMMA  # by code; white is 1
_FUNCTIONS = {
    "gaussian_noise": _add_gaussian_noise,
    "shot_noise": _add_shot_noise,
    "gaussian_blur": _blur_gaussian,
    "defocus_blur": _blur_by_defocus,
    "motion_blur": _blur_by_motion,
    "jpeg": _compress_as_jpeg,
    "low_light": _dim,
    "contrast": _lower_contrast,
    "pixelate": _pixelate,
}
