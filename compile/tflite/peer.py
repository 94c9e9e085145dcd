"""The file's own runtime, LiteRT, which the verification ladder compares with where it is installed.

Its kernels by default are XNNPACK's, which round once as the integers do; its reference kernels round twice.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from compile.qdq.normalization import Normalization
from compile.tflite.file import read_file
from compile.tflite.importer import logits_of
from compile.tflite.picture import open_picture

LITERT = "LiteRT"
INSTALL = "pip install ai-edge-litert"


class PeerError(ValueError):
    """LiteRT cannot be asked; the message says why, and what to do."""


def run_litert(
    path: str | Path, pictures: np.ndarray, normalization: Normalization | None = None, kernels: str = "BUILTIN"
) -> np.ndarray:
    """Returns int64 [N, classes]: the logits of LiteRT, code - zero_point, as a graph gives them.

    pictures: uint8 [N, H, W, C]; kernels: the name of LiteRT's OpResolverType. Raises PeerError where LiteRT is not
    installed or does not take the file, and TfliteError for a file that the importer refuses.
    """
    file = read_file(path)
    tensor, _ = logits_of(file)
    interpreter = open_interpreter(Path(path).read_bytes(), kernels)
    rows = []
    for picture in open_picture(file, normalization).file_input(pictures):
        interpreter.set_tensor(file.input, picture[None])
        interpreter.invoke()
        codes = interpreter.get_tensor(tensor).reshape(-1).astype(np.int64)
        rows.append(codes - int(file.tensors[tensor].zero_point[0]))
    logits = np.stack(rows)
    if logits.shape[1] == 1:  # the importer makes two classes of one value
        return np.concatenate([np.zeros_like(logits), logits], 1)
    return logits


def open_interpreter(content: bytes, kernels: str = "BUILTIN") -> Any:
    """Returns LiteRT's interpreter of a file's content, whose tensors can all be read after a call; raises PeerError.

    kernels: the name of an OpResolverType; BUILTIN_REF are the reference kernels.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise PeerError(f"it is not installed; {INSTALL}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the memory that all tensors take
            interpreter = Interpreter(
                model_content=content,
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=OpResolverType[kernels],
                num_threads=1,
            )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise PeerError(f"it does not take the file ({' '.join(str(error).split())[:200]})") from error
    return interpreter
