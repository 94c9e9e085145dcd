"""CUDA libraries: TVM writes one .cu file of kernels and the host function that launches them, nvcc compiles it."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tvm
import tvm_ffi.libinfo

from targets import Target, TargetError, elf, llvm
from targets.cuda import emulate

_PLACES = (Path("/usr/local/cuda/bin/nvcc"), Path("/opt/cuda/bin/nvcc"))
_FLAGS = ("-O3", "-std=c++17", "-shared", "-Xcompiler", "-fPIC", "--expt-relaxed-constexpr", "--threads", "0",
          "-Xptxas", "-v", "-cudart", "static")  # never --use_fast_math
_TVM_INCLUDES = "-I$(python3 -m tvm_ffi.config --includedir)"

REBUILD = """#!/bin/sh
# Compiles {source} on the machine that runs it (needs nvcc and apache-tvm-ffi); {comment}
set -e
cd "$(dirname "$0")"
FFI=$({python} -c "import tvm_ffi, pathlib; print(pathlib.Path(tvm_ffi.__file__).parent)")
${{NVCC:-nvcc}} {flags} -I"$FFI/include" -o {library} {source} -L"$FFI/lib" -ltvm_ffi
"""


def source(module: tvm.IRModule, target: Target) -> str:
    """The .cu text: every kernel and the exported `main`."""
    return tvm.backend.cuda.export_cuda_host(tvm.compile(module, target=tvm.target.Target(target.tvm)).mod)
