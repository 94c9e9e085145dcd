"""Reads pictures through Pillow, which is optional: the usual kinds of files and no others, whatever their metadata."""

import io
import warnings
from typing import Any

import numpy as np

from runtime.pictures.warning import PictureWarning
from runtime.pictures.wide import cut_to_bytes, warn_of_few_bits

# Pillow's readers that are asked. Others are left out: some start programs (PostScript), some fetch what files name.
FORMATS = ("PNG", "JPEG", "PPM", "BMP", "WEBP", "GIF", "TIFF")
_ORIENTATION = 0x0112  # of EXIF


def read_with_pillow(data: bytes) -> np.ndarray:
    """Returns uint8 [H, W, 3], [H, W, 4] where it is see-through, or [H, W] of 16-bit grey, whose upper 8 bits count.

    Photos are turned upright as the camera noted; a note that is damaged gives a PictureWarning. Raises ValueError for
    what Pillow cannot read, or where it is not installed; MemoryError.
    """
    try:
        # optional: numpy alone reads some kinds; named formats must have been imported, these two are not by default
        from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401
    except ImportError as error:
        raise ValueError("this kind of file needs Pillow, which is not installed") from error
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return _as_array(_upright(image, Image.Transpose))
    except UnidentifiedImageError as error:
        raise ValueError(
            f"expected a picture ({', '.join(FORMATS)}), got a file of no kind that Pillow knows"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # each of Pillow's readers raises kinds of its own at damaged files
        raise ValueError(f"Pillow cannot read it ({error})") from error


def _upright(image: Any, transpose: Any) -> Any:
    """Returns the image as EXIF says that the camera was held; as it is where EXIF says nothing that can be read."""
    turns = {
        2: transpose.FLIP_LEFT_RIGHT,
        3: transpose.ROTATE_180,
        4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE,
        6: transpose.ROTATE_270,
        7: transpose.TRANSVERSE,
        8: transpose.ROTATE_90,
    }
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception as error:  # Pillow parses metadata with no more care than pixels
        warnings.warn(f"its metadata are damaged ({error}); it is read as it lies", PictureWarning, stacklevel=2)
        return image
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _as_array(image: Any) -> np.ndarray:
    """Returns the pixels; see `read_with_pillow`. Raises ValueError for floats, and for more than 16 bits."""
    if image.mode == "F":
        raise ValueError(
            "expected whole numbers as pixels, got floats, whose range nobody can tell; save it with 8 or 16 bits"
        )
    if image.mode.startswith("I"):  # which Pillow would clip to 8 bits
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() >= 1 << 16:
            raise ValueError(f"expected grey of 16 bits at most, got values {grey.min()}..{grey.max()}")
        warn_of_few_bits(grey)
        return cut_to_bytes(grey)
    see_through = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA")
    mode = "RGBA" if see_through else "RGB"
    return np.asarray(image if image.mode == mode else image.convert(mode))  # converting copies even what fits
