"""Compiles prepared networks where they lie, with this machine's nvcc; needs no TVM.

For a driver older than the CUDA that compiled them, another processor than theirs, or cases of --source-only.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

NVCC = "/usr/local/cuda/bin/nvcc"


def compile_networks(networks: Sequence[Path]) -> None:
    """Compiles every .cu file of these cases and bundles, and of the peaks beside them.

    Raises ValueError where there is no nvcc or it fails.
    """
    nvcc = find_nvcc()
    peaks = sorted({peak for network in networks for peak in network.parent.glob("peak-*")})
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda folder: _compile(folder, nvcc), [*peaks, *networks]))


def find_nvcc() -> str:
    """Returns the path of nvcc; raises ValueError where there is none."""
    path = os.environ.get("NVCC") or shutil.which("nvcc") or (NVCC if Path(NVCC).exists() else None)
    if path is None:
        raise ValueError(f"expected nvcc in $NVCC, PATH or {NVCC}, found none; install the CUDA toolkit")
    return path


def _compile(folder: Path, nvcc: str) -> None:
    if (folder / "manifest.json").exists():
        _run([str(folder.absolute() / "lib" / "rebuild.sh")], NVCC=nvcc, PYTHON=sys.executable)
    else:
        partial = folder / ".main.so.partial"
        _, *flags = json.loads((folder / "case.json").read_text())["command"].split()
        ffi = _tvm_ffi()
        paths = [f"-I{ffi / 'include'}", "-o", str(partial), str(folder / "main.cu"), f"-L{ffi / 'lib'}", "-ltvm_ffi"]
        _run([nvcc, *flags, *paths])
        partial.replace(folder / "main.so")
    print(f"compiled {folder}", flush=True)


def _tvm_ffi() -> Path:
    """The folder of the installed package, which has headers and a library to link with."""
    spec = find_spec("tvm_ffi")
    if spec is None or spec.origin is None:
        raise ValueError("expected the package apache-tvm-ffi to link with, got none; pip install apache-tvm-ffi")
    return Path(spec.origin).parent


def _run(command: list[str], **environment: str) -> None:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
        check=False,
    )
    if done.returncode:
        raise ValueError(
            f"expected `{' '.join(command)}` to succeed, got exit code {done.returncode}: {done.stdout[-1000:]}"
        )
