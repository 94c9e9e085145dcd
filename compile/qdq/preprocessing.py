"""How a file's own preprocessing and that of its picture become one normalization of uint8 pictures."""

import numpy as np

from compile.forms.picture import Preprocessing
from compile.qdq.normalization import Normalization, NormalizationError

CODES = Normalization((0.0,), (1 / 255,))  # the values 0..255 themselves


def after_preprocessing(
    normalization: Normalization | None, preprocessing: Preprocessing | None
) -> Normalization | None:
    """Returns how the picture behind a file's own preprocessing follows from uint8 ones.

    normalization: of the float picture before it, None where there is none. Raises NormalizationError for a
    normalization of a file that takes uint8, and for numbers that it cannot hold.
    """
    if preprocessing is None or (normalization is None and not preprocessing.of_uint8):
        return normalization
    if normalization is not None and preprocessing.of_uint8:
        raise NormalizationError(
            "expected no normalization, since the file's picture is uint8; leave --mean and --std out"
        )
    before = normalization or CODES
    count = max(len(before.mean), len(preprocessing.factor), len(preprocessing.shift))
    mean, std, factor, shift = (
        np.broadcast_to(np.asarray(values, np.float64), (count,))
        for values in (before.mean, before.std, preprocessing.factor, preprocessing.shift)
    )
    after = std / factor
    return Normalization(tuple((mean - shift * after).tolist()), tuple(after.tolist()))
