"""What a picture's quality looks like: integer features in one pass, the same definition for training and device."""

import numpy as np

SIDE = 8  # smallest height and width
FRACTION = 8  # bits of fraction of every logarithm, mean and share below
DARK = 16  # luma codes below this count as dark
BLOCK = 8  # JPEG works in blocks of 8x8 pixels
CHUNK = 1 << 17  # pixels worked on at a time, so that temporaries stay in the cache
NAMES = (
    "noise",  # log2 of mean |second difference both ways|, Immerkaer's noise estimate up to a constant
    "detail",  # log2 of mean |Laplacian|
    "detail_half",  # log2 of mean |Laplacian| at half size: rises with detail, but hardly with noise
    "luma",  # mean
    "luma_p05",  # 5th percentile
    "luma_p95",  # 95th percentile
    "contrast",  # log2 of mean |luma - mean|
    "dark",  # share of luma codes below DARK
    "blocks",  # log2 of mean |difference| across the borders of JPEG blocks over that elsewhere
    "flat",  # share of neighbours with equal luma
    "direction",  # log2 of mean |horizontal difference| over mean |vertical difference|
    "chroma",  # log2 of mean |Laplacian| of red - green
)
D = len(NAMES)
# floor(256 * log2(1 + i / 1024)) by integers alone: the exponent of a 256th power.
_LOG = np.array([((1024 + i) ** 256 >> 2560).bit_length() - 1 for i in range(1024)], np.int64)
_POWERS = 1 << np.arange(62, dtype=np.int64)
_LUMA = (77, 150, 29)  # of 256
_FLOOR = 16  # added to means inside logarithms, in 1/256 codes: below a sixteenth of a code all is the same


def features(pictures: np.ndarray) -> np.ndarray:
    """Quality of uint8 pictures [N, H, W, 3], or of one [H, W, 3] -> int32 [N, D], in the order of NAMES.

    In units of 1/256: of an octave for logarithms, of a code for luma, of 1 for shares; all within -2**12..2**16.
    All integer arithmetic; a picture's features do not depend on the batch it comes in. H, W >= 8, else ValueError.
    """
    x = pictures[None] if isinstance(pictures, np.ndarray) and pictures.ndim == 3 else pictures
    if not (
        isinstance(x, np.ndarray)
        and x.dtype == np.uint8
        and x.ndim == 4
        and x.shape[3] == 3
        and min(x.shape[1:3]) >= SIDE
    ):
        came = f"{x.dtype} {list(pictures.shape)}" if isinstance(x, np.ndarray) else type(x).__name__
        raise ValueError(
            f"expected uint8 pictures [N, H, W, 3] or [H, W, 3] of at least {SIDE}x{SIDE} pixels, "
            f"got {came}; see runtime.pictures.arrays.as_picture and resize"
        )
    step = max(1, CHUNK // (x.shape[1] * x.shape[2]))
    out = np.empty((len(x), D), np.int32)
    for k in range(0, len(x), step):
        out[k : k + step] = _features(x[k : k + step])
    return out


def _features(x: np.ndarray) -> np.ndarray:
    """int64 [N, D]. All maps are int16: the largest value is 8 * 4 * 255."""
    n, h, w, _ = x.shape
    planes = x.transpose(3, 0, 1, 2).astype(np.int16, order="C")
    y = _luma(planes)
    dx, dy = y[:, :, 1:] - y[:, :, :-1], y[:, 1:] - y[:, :-1]
    dxx = dx[:, :, 1:] - dx[:, :, :-1]
    dxxy = dxx[:, 1:] - dxx[:, :-1]
    pairs = y[:, : h - 1 : 2] + y[:, 1::2]
    half = pairs[:, :, : w - 1 : 2] + pairs[:, :, 1::2]  # four times the mean
    flat = y.reshape(n, h * w)
    low, high = h * w * 5 // 100, h * w * 95 // 100
    ranked = np.partition(flat, (low, high), axis=1)
    luma = flat.sum(1, dtype=np.int64)
    contrast = flat - (luma // (h * w)).astype(np.int16)[:, None]
    adx, ady = np.abs(dx), np.abs(dy)
    all_x, all_y = _sum(adx), _sum(ady)
    border = _sum(adx[:, :, BLOCK - 1 :: BLOCK]) + _sum(ady[:, BLOCK - 1 :: BLOCK])
    on_border = h * ((w - 1) // BLOCK) + w * ((h - 1) // BLOCK)
    both = h * (w - 1) + (h - 1) * w
    sums, counts = zip(
        (_sum_abs(dxxy[:, 1:] - dxxy[:, :-1]), (h - 2) * (w - 2)),
        (_sum_abs(dxx[:, 1:-1] + _second(dy)), (h - 2) * (w - 2)),
        (_sum_abs(_laplacian(half)), 4 * (h // 2 - 2) * (w // 2 - 2)),
        (_sum_abs(contrast), h * w),
        (border, max(1, on_border)),
        (all_x + all_y - border, both - on_border),
        (all_x, h * (w - 1)),
        (all_y, (h - 1) * w),
        (_sum_abs(_laplacian(planes[0] - planes[1])), (h - 2) * (w - 2)),
        (luma, h * w),
        (_sum(flat < DARK), h * w),
        (_sum(dx == 0) + _sum(dy == 0), both),
        strict=True,
    )
    means = (np.array(sums) << FRACTION) // np.array(counts)[:, None]
    noise, detail, detail_half, contrast, border, inside, x_slope, y_slope, chroma = _log2(means[:9] + _FLOOR)
    luma, dark, equal = means[9:]
    blocks = border - inside if on_border else 0 * border
    p05, p95 = ranked[:, low].astype(np.int64) << FRACTION, ranked[:, high].astype(np.int64) << FRACTION
    named = (noise, detail, detail_half, luma, p05, p95, contrast, dark, blocks, equal, x_slope - y_slope, chroma)
    return np.array(named).T


def _luma(planes):
    """int16 codes 0..255; the products need all 16 bits of an unsigned number."""
    red, green, blue = planes.view(np.uint16)
    return ((red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2] + 128) >> 8).view(np.int16)


def _laplacian(y):
    dx = y[:, 1:-1, 1:] - y[:, 1:-1, :-1]
    return dx[:, :, 1:] - dx[:, :, :-1] + _second(y[:, 1:] - y[:, :-1])


def _second(dy):
    """Second vertical difference without the first and last column, of the first one."""
    return dy[:, 1:, 1:-1] - dy[:, :-1, 1:-1]


def _sum(x):
    """int64 [N]."""
    return x.reshape(len(x), -1).sum(1, dtype=np.int64)


def _sum_abs(x):
    return _sum(np.abs(x))


def _log2(x):
    """256 * log2(x) for int64 x >= 1; at most 1 + 256 * log2(1 + 1/1024) too small."""
    exponent = np.searchsorted(_POWERS, x, "right") - 1
    mantissa = np.where(exponent >= 10, x >> np.maximum(exponent - 10, 0), x << np.maximum(10 - exponent, 0))
    return (exponent << FRACTION) + _LOG[mantissa - 1024]
