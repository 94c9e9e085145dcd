"""Degraded pictures: ten families of image quality, five severities each, the same picture for the same seed.

The constants are those of CIFAR-10-C (its published generator) where it has the family, and our own for low light,
which it lacks. They hold for a shorter side of 32 pixels. Larger pictures scale them with `s = side / 32`: what is
measured in pixels (blur, block size) grows with s; what is noise per pixel grows with sqrt(s), Poisson rates falling
with s, since a network sees noise averaged over areas. At side 224 that lands near ImageNet-C's own constants.
Smaller pictures keep those for 32.

albumentations does gaussian blur, defocus and JPEG. The rest is ours, because there it computes something else than the
constants say: its GaussNoise truncates to integers (a deviation of .04 becomes .038) and draws from OpenCV's global
generator, its ShotNoise works on linear light, its MotionBlur is a uniform two-sided line, and its Downscale mixes
neighbouring areas where pixelation takes whole pixels.
"""

import math
import os
import zlib
from functools import lru_cache

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
CONSTANTS = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # standard deviation, of 1
    "shot_noise": (500, 250, 100, 75, 50),  # Poisson events at white
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # sigma, pixels
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),  # radius, sigma of its edge, pixels
    "motion_blur": ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),  # radius, sigma along the way, pixels
    "jpeg": (80, 65, 58, 50, 40),  # quality
    "low_light": (0.50, 0.35, 0.25, 0.15, 0.08),  # gain of linear light
    "contrast": (0.75, 0.50, 0.40, 0.30, 0.15),  # share of the distance from the mean that is left
    "pixelate": (0.95, 0.90, 0.85, 0.75, 0.65),  # side of the small picture, of the side
}
GAMMA = 2.2
FULL_WELL = 500  # electrons at white and gain 1, for low light
READ_NOISE = 0.005  # standard deviation, of 1, in linear light


def degrade(picture: np.ndarray, family: str, severity: int, seed: int) -> np.ndarray:
    """A degraded copy of one picture.

    picture: uint8 [H, W, 3]; family: one of FAMILIES; severity: 1..5, for "clean" also 0 and without effect;
    seed: any integer >= 0. The same arguments give the same uint8 [H, W, 3]. Raises ValueError for anything else.
    """
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        came = f"{picture.dtype} {list(picture.shape)}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise ValueError(
            f"expected a uint8 picture [H, W, 3], got {came}; convert it with runtime.pictures.arrays.as_picture"
        )
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; the families are {', '.join(FAMILIES)}")
    if family == "clean":
        return picture.copy()
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity!r} of {family}: expected one of {SEVERITIES}")
    rng = np.random.default_rng((seed, zlib.crc32(family.encode()), severity))
    constant = CONSTANTS[family][severity - 1]
    scale = max(1.0, min(picture.shape[:2]) / SIDE)
    return _DEGRADE[family](picture, constant, scale, rng)


def _codes(real: np.ndarray) -> np.ndarray:
    """Real values 0..1, rounded to uint8."""
    return np.clip(np.rint(real * 255), 0, 255).astype(np.uint8)


def _gaussian_noise(x, sigma, scale, rng):
    noise = rng.standard_normal(x.shape, np.float32) * np.float32(sigma * math.sqrt(scale))
    return _codes(x * np.float32(1 / 255) + noise)


def _shot_noise(x, rate, scale, rng):
    rate = rate / scale
    return _codes(rng.poisson(x * (rate / 255)) / rate)


def _gaussian_blur(x, sigma, scale, rng):
    return _gaussian(sigma * scale)(image=x)["image"]


def _defocus_blur(x, constant, scale, rng):
    radius, edge = constant
    return blur.defocus(x, radius * scale, edge)


def _motion_blur(x, constant, scale, rng):
    radius, sigma = constant
    kernel, anchor = motion_kernel(round(radius * scale), sigma * scale, rng.uniform(-math.pi / 4, math.pi / 4))
    return cv2.filter2D(x, -1, kernel, anchor=anchor, borderType=cv2.BORDER_REPLICATE)


def motion_kernel(radius: int, sigma: float, angle: float) -> tuple[np.ndarray, tuple[int, int]]:
    """ImageMagick's motion blur, as CIFAR-10-C used it: a half Gaussian along a ray, on whole pixels.

    radius, sigma in pixels, angle in radians. Returns float32 [kH, kW], which sums to 1, and the anchor (x, y).
    """
    step = np.arange(min(2 * radius, math.ceil(4 * sigma)) + 1)  # beyond 4 sigma nothing is left to see
    dx = np.ceil(step * math.cos(angle) - 0.5).astype(int)
    dy = np.ceil(step * math.sin(angle) - 0.5).astype(int)
    kernel = np.zeros((dy.max() - dy.min() + 1, dx.max() - dx.min() + 1), np.float32)
    np.add.at(kernel, (dy - dy.min(), dx - dx.min()), np.exp(-(step**2) / (2 * sigma**2)))
    return kernel / kernel.sum(), (int(-dx.min()), int(-dy.min()))


def _jpeg(x, quality, scale, rng):
    # albumentations hands the picture to OpenCV, which takes it for BGR: turned round, luma and chroma come out right
    bgr = np.ascontiguousarray(x[:, :, ::-1])
    return np.ascontiguousarray(_compression(jpeg_quality(quality, scale))(image=bgr)["image"][:, :, ::-1])


def jpeg_quality(quality: int, scale: float) -> int:
    """The quality whose quantization steps are sqrt(scale) times as large (libjpeg's rule), in 1..100."""
    percent = (200 - 2 * quality if quality >= 50 else 5000 / quality) * math.sqrt(scale)
    return min(100, max(1, round((200 - percent) / 2 if percent <= 100 else 5000 / percent)))


def _low_light(x, gain, scale, rng):
    well = FULL_WELL / scale
    electrons = rng.poisson(_LINEAR[x] * (well * gain))
    read = rng.standard_normal(x.shape, np.float32) * np.float32(READ_NOISE * math.sqrt(scale))
    linear = np.clip(electrons.astype(np.float32) * np.float32(1 / well) + read, 0, 1)
    return _codes(linear ** np.float32(1 / GAMMA))


def _contrast(x, left, scale, rng):
    mean = x.mean((0, 1), dtype=np.float64).astype(np.float32)
    return np.clip(np.rint((x - mean) * np.float32(left) + mean), 0, 255).astype(np.uint8)


def _pixelate(x, share, scale, rng):
    h, w = x.shape[:2]
    share = 1 / (1 + (1 / share - 1) * scale)  # a block is 1 / share pixels wide; what exceeds one pixel grows
    small = Image.fromarray(x).resize((max(1, int(w * share)), max(1, int(h * share))), Image.Resampling.BOX)
    return np.asarray(small.resize((w, h), Image.Resampling.BOX))


_LINEAR = (np.arange(256) / 255) ** GAMMA
_DEGRADE = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "gaussian_blur": _gaussian_blur,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "jpeg": _jpeg,
    "low_light": _low_light,
    "contrast": _contrast,
    "pixelate": _pixelate,
}


@lru_cache(maxsize=64)
def _gaussian(sigma: float) -> A.GaussianBlur:
    return A.GaussianBlur(blur_limit=0, sigma_limit=(sigma, sigma), p=1)


@lru_cache(maxsize=64)
def _compression(quality: int) -> A.ImageCompression:
    return A.ImageCompression(compression_type="jpeg", quality_range=(quality, quality), p=1)
