"""A network prepared for a GPU: its folder and what lies there. Needs numpy, and nvcc where it is compiled anew."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import numpy as np

NVCC = "/usr/local/cuda/bin/nvcc"


@dataclass(frozen=True)
class Case:
    """One folder: a network in one configuration, compiled for one batch."""

    folder: Path
    facts: dict

    @staticmethod
    def read(folder: Path) -> "Case":
        return Case(folder, json.loads((folder / "case.json").read_text()))

    @property
    def batch(self) -> int:
        return self.facts["batch"]

    def array(self, name: str) -> np.ndarray:
        """weights int8, table int32, pictures uint8 [N, H, W, C] or logits int32 [N, classes]; read as it is used."""
        return np.load(self.folder.parent / self.facts["arrays"][name], mmap_mode="r", allow_pickle=False)

    def require(self, capability: tuple[int, int]) -> None:
        """Raises ValueError for a GPU, by its compute capability, that is older than all code in here."""
        found = 10 * capability[0] + capability[1]
        (least,) = (int(name.removeprefix("sm_")) for name in self.facts["requires"])
        if found < least:
            raise ValueError(
                f"expected a GPU of compute capability {least / 10} or later, got {found / 10}; prepare "
                f"networks for it with `python -m benchmarks.cuda.cases ... --archs {found}`"
            )


def folders(root: Path, only: str = "*") -> list[Path]:
    """Cases and bundles under a folder whose names match; raises ValueError where there is none."""
    kept = (p for p in sorted(root.glob("*")) if fnmatch(p.name, only) and not p.name.startswith("peak-"))
    found = [p for p in kept if (p / "case.json").exists() or (p / "manifest.json").exists()]
    if not found:
        raise ValueError(
            f"{root}: expected prepared networks named {only}, found none; make some with "
            "`python -m benchmarks.cuda.cases`, or with --build where TVM and nvcc are"
        )
    return found


def cases(found: Iterable[Path]) -> list[Case]:
    """Those that are no bundles."""
    return [Case.read(p) for p in found if (p / "case.json").exists()]


def compile_all(found: list[Path]) -> None:
    """Compiles every .cu file of these cases and bundles, and of the peaks beside them, with this machine's nvcc.

    For a driver older than the CUDA that compiled them, another processor than theirs, or cases of --source-only.
    Raises ValueError where there is no nvcc or it fails.
    """
    nvcc = find_nvcc()
    peaks = sorted({peak for p in found for peak in p.parent.glob("peak-*")})
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda folder: _compile(folder, nvcc), [*peaks, *found]))


def find_nvcc() -> str:
    """Path of nvcc; raises ValueError where there is none."""
    found = os.environ.get("NVCC") or shutil.which("nvcc") or (NVCC if Path(NVCC).exists() else None)
    if found is None:
        raise ValueError(f"expected nvcc in $NVCC, PATH or {NVCC}, found none; install the CUDA toolkit")
    return found


def _compile(folder: Path, nvcc: str) -> None:
    if (folder / "manifest.json").exists():
        _run([str(folder.absolute() / "lib" / "rebuild.sh")], NVCC=nvcc, PYTHON=sys.executable)
    else:
        ffi, partial = Path(find_spec("tvm_ffi").origin).parent, folder / ".main.so.partial"
        _, *flags = Case.read(folder).facts["command"].split()
        _run(
            [
                nvcc,
                *flags,
                f"-I{ffi / 'include'}",
                "-o",
                str(partial),
                str(folder / "main.cu"),
                f"-L{ffi / 'lib'}",
                "-ltvm_ffi",
            ]
        )
        partial.replace(folder / "main.so")
    print(f"compiled {folder}", flush=True)


def _run(command: list[str], **environment: str) -> None:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
    )
    if done.returncode:
        raise ValueError(
            f"expected `{' '.join(command)}` to succeed, got exit code {done.returncode}: {done.stdout[-1000:]}"
        )
