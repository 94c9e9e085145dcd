"""Calls functions of a library that was just built for this machine, over copies of arrays."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tvm_ffi

from runtime.abi import aligned_copy

Caller = Callable[[str, Sequence[np.ndarray]], list[np.ndarray]]


def open_caller(library: Path) -> Caller:
    """Returns what calls a function by name with flat arrays, and returns the arrays as they are after the call."""
    with tempfile.TemporaryDirectory() as folder:  # a new path: dlopen would hand back an older library of this one
        module = tvm_ffi.load_module(str(shutil.copy(library, Path(folder) / library.name)))

    def call(function: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        copies = [aligned_copy(array) for array in arrays]
        module[function](*map(tvm_ffi.from_dlpack, copies))
        return copies

    return call
