"""Measures a picture's quality as integer features, in one pass, by the same code in training and on the device."""

import numpy as np

SIDE = 8  # smallest height and width
FRACTION = 8  # bits of fraction of every logarithm, mean and share below
DARK = 16  # luma codes below this count as dark
BLOCK = 8  # JPEG works in blocks of 8x8 pixels
CHUNK = 1 << 17  # pixels measured at a time, so that temporaries stay in the cache
NAMES = (
    "noise",  # log2 of mean |second difference both ways|, Immerkaer's noise estimate up to a constant
    "detail",  # log2 of mean |Laplacian|
    "detail_half",  # log2 of mean |Laplacian| at half size: rises with detail, but hardly with noise
    "luma",  # mean
    "luma_p05",  # 5th percentile
    "luma_p95",  # 95th percentile
    "contrast",  # log2 of mean |luma - mean|
    "dark",  # share of luma codes below DARK
    "blocks",  # log2 of mean |difference| across the borders of JPEG blocks over that of other neighbours
    "flat",  # share of neighbours with equal luma
    "direction",  # log2 of mean |horizontal difference| over mean |vertical difference|
    "chroma",  # log2 of mean |Laplacian| of red - green
)
D = len(NAMES)
# floor(256 * log2(1 + i / 1024)) for i in 0..1023, by integers alone: the exponent of a 256th power
LOGARITHMS = np.array([((1024 + i) ** 256 >> 2560).bit_length() - 1 for i in range(1024)], np.int64)
_POWERS = 1 << np.arange(62, dtype=np.int64)
LUMA_WEIGHTS = (77, 150, 29)  # weights of red, green and blue, in 1/256
FLOOR = 16  # added to means inside logarithms, in 1/256 codes: means below a sixteenth of a code look alike


def features(pictures: np.ndarray) -> np.ndarray:
    """Returns the quality features int32 [N, D], in the order of NAMES, of pictures uint8 [N, H, W, 3] or [H, W, 3].

    Units are 1/256: of an octave for logarithms, of a code for luma, of 1 for shares; all lie within -2**12..2**16.
    All arithmetic is in integers, and a picture's features do not depend on the batch it comes in. Raises ValueError
    for anything else, and for H or W below SIDE.
    """
    batch = _require_batch(pictures)
    step = max(1, CHUNK // (batch.shape[1] * batch.shape[2]))
    measured = np.empty((len(batch), D), np.int32)
    for k in range(0, len(batch), step):
        measured[k : k + step] = _features(batch[k : k + step])
    return measured


def _require_batch(pictures: np.ndarray) -> np.ndarray:
    """Returns uint8 [N, H, W, 3], N being 1 for a single picture; raises ValueError for anything else."""
    if not isinstance(pictures, np.ndarray):
        raise _wrong_pictures(type(pictures).__name__)
    batch = pictures[None] if pictures.ndim == 3 else pictures
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3 or min(batch.shape[1:3]) < SIDE:
        raise _wrong_pictures(f"{pictures.dtype} {list(pictures.shape)}")
    return batch


def _wrong_pictures(shown: str) -> ValueError:
    return ValueError(
        f"expected uint8 pictures [N, H, W, 3] or [H, W, 3] of at least {SIDE}x{SIDE} pixels, "
        f"got {shown}; see runtime.pictures.arrays.as_picture and resize"
    )


def _features(batch: np.ndarray) -> np.ndarray:
    """Returns int64 [N, D] of uint8 [N, H, W, 3]. All maps are int16: their largest value is 8 * 4 * 255."""
    planes = batch.transpose(3, 0, 1, 2).astype(np.int16, order="C")
    y = _luma(planes)
    dx = y[:, :, 1:] - y[:, :, :-1]
    dy = y[:, 1:] - y[:, :-1]
    totals = _texture_totals(planes, y, dx, dy) + _slope_totals(dx, dy) + _luma_totals(y)
    totals.append((_sum(dx == 0) + _sum(dy == 0), dx[0].size + dy[0].size))
    sums, counts = zip(*totals, strict=True)
    means = (np.array(sums) << FRACTION) // np.array(counts)[:, None]
    logarithms = _log2(means[:9] + FLOOR)
    noise, detail, detail_half, chroma, border, inside, x_slope, y_slope, contrast = logarithms
    luma, dark, flat = means[9:]
    has_borders = max(y.shape[1:]) > BLOCK
    blocks = border - inside if has_borders else np.zeros_like(border)
    direction = x_slope - y_slope
    p05, p95 = _percentiles(y)
    named = (noise, detail, detail_half, luma, p05, p95, contrast, dark, blocks, flat, direction, chroma)
    by_picture: np.ndarray = np.array(named).T
    return by_picture


Total = tuple[np.ndarray, int]  # a sum over the pixels of each picture, int64 [N], and how many values it is of


def _texture_totals(planes: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> list[Total]:
    """Returns noise, detail, detail at half size and chroma, of planes [3, N, H, W] and luma y [N, H, W]."""
    h, w = y.shape[1:]
    inner = (h - 2) * (w - 2)
    dxx = dx[:, :, 1:] - dx[:, :, :-1]
    dxxy = dxx[:, 1:] - dxx[:, :-1]
    pairs = y[:, : h - 1 : 2] + y[:, 1::2]
    half = pairs[:, :, : w - 1 : 2] + pairs[:, :, 1::2]  # four times the mean
    return [
        (_sum_abs(dxxy[:, 1:] - dxxy[:, :-1]), inner),
        (_sum_abs(dxx[:, 1:-1] + _second(dy)), inner),
        (_sum_abs(_laplacian(half)), 4 * (h // 2 - 2) * (w // 2 - 2)),
        (_sum_abs(_laplacian(planes[0] - planes[1])), inner),
    ]


def _slope_totals(dx: np.ndarray, dy: np.ndarray) -> list[Total]:
    """Returns |differences| across borders of JPEG blocks, inside blocks, horizontal, and vertical.

    dx: [N, H, W - 1], dy: [N, H - 1, W].
    """
    h, w = dx.shape[1], dy.shape[2]
    adx = np.abs(dx)
    ady = np.abs(dy)
    across = _sum(adx)
    down = _sum(ady)
    border = _sum(adx[:, :, BLOCK - 1 :: BLOCK]) + _sum(ady[:, BLOCK - 1 :: BLOCK])
    on_border = h * ((w - 1) // BLOCK) + w * ((h - 1) // BLOCK)
    neighbours = h * (w - 1) + (h - 1) * w
    return [
        (border, max(1, on_border)),
        (across + down - border, neighbours - on_border),
        (across, h * (w - 1)),
        (down, (h - 1) * w),
    ]


def _luma_totals(y: np.ndarray) -> list[Total]:
    """Returns contrast, luma and dark pixels of luma [N, H, W]."""
    codes = y.reshape(len(y), -1)
    luma = _sum(codes)
    pixels = codes.shape[1]
    contrast = codes - (luma // pixels).astype(np.int16)[:, None]
    return [(_sum_abs(contrast), pixels), (luma, pixels), (_sum(codes < DARK), pixels)]


def _percentiles(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the 5th and 95th percentile of luma [N, H, W], int64 [N] in 1/256."""
    codes = y.reshape(len(y), -1)
    low = codes.shape[1] * 5 // 100
    high = codes.shape[1] * 95 // 100
    ranked = np.partition(codes, (low, high), axis=1)
    return ranked[:, low].astype(np.int64) << FRACTION, ranked[:, high].astype(np.int64) << FRACTION


def _luma(planes: np.ndarray) -> np.ndarray:
    """Returns int16 codes 0..255 [N, H, W] of planes [3, N, H, W]; the products need all 16 bits, unsigned."""
    red, green, blue = planes.view(np.uint16)
    luma: np.ndarray = (red * LUMA_WEIGHTS[0] + green * LUMA_WEIGHTS[1] + blue * LUMA_WEIGHTS[2] + 128) >> 8
    return luma.view(np.int16)


def _laplacian(y: np.ndarray) -> np.ndarray:
    """Returns the sum of both second differences [N, H - 2, W - 2] of maps [N, H, W]."""
    dx = y[:, 1:-1, 1:] - y[:, 1:-1, :-1]
    laplacian: np.ndarray = dx[:, :, 1:] - dx[:, :, :-1] + _second(y[:, 1:] - y[:, :-1])
    return laplacian


def _second(dy: np.ndarray) -> np.ndarray:
    """Returns the second vertical difference of a first one, without the first and the last column."""
    second: np.ndarray = dy[:, 1:, 1:-1] - dy[:, :-1, 1:-1]
    return second


def _sum(values: np.ndarray) -> np.ndarray:
    """Returns int64 [N] of [N, ...]."""
    sums: np.ndarray = values.reshape(len(values), -1).sum(1, dtype=np.int64)
    return sums


def _sum_abs(values: np.ndarray) -> np.ndarray:
    return _sum(np.abs(values))


def _log2(x: np.ndarray) -> np.ndarray:
    """Returns 256 * log2(x) of int64 x >= 1; at most 1 + 256 * log2(1 + 1/1024) too small."""
    exponent = np.searchsorted(_POWERS, x, "right") - 1
    mantissa = np.where(exponent >= 10, x >> np.maximum(exponent - 10, 0), x << np.maximum(10 - exponent, 0))
    logarithm: np.ndarray = (exponent << FRACTION) + LOGARITHMS[mantissa - 1024]
    return logarithm
