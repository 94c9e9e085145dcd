"""Peers on a processor without AVX-512: runs a benchmark with copies of their libraries that cannot see it.

    python -m benchmarks.latency --avx2

Much of the field has AVX2 alone, a developer's machine rarely does, and neither peer has a switch. Before they use
AVX-512 both ask twice: cpuid, whether the processor has it, and xgetbv of register 0, whether the operating system
saves its state. In a copy of each library the second answer is replaced by that of an old system, 7 (x87, SSE and AVX):
three bytes, `0f 01 d0` (xgetbv) by `6a 07 58` (push 7; pop rax), where `xor ecx, ecx` or `mov ecx, 0` just before says
register 0. The installed packages stay as they are.

Seen with onnxruntime 1.31 and OpenVINO 2026.4 on an AMD Zen 4: in a profile of onnxruntime's u8s8 no sample is left in
instructions with 512-bit or mask registers (43 % were, vpdpbusds foremost; now vpmaddubsw is), its answers become the
saturating ones, u8u8's stay; OpenVINO's compiled model names avx2 kernels where it named avx512 ones. AVX-VNNI needs no
state of its own and cannot be hidden like this, so a processor with it is refused.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from runtime.machine import cpu

PATCHED_PACKAGES = ("onnxruntime", "openvino")
QUESTION = b"\x0f\x01\xd0"  # xgetbv
ANSWER = b"\x6a\x07\x58"  # push 7; pop rax
REGISTER_0 = (b"\x31\xc9", b"\x33\xc9", b"\xb9\0\0\0\0")  # xor ecx, ecx in both encodings; mov ecx, 0
NEAR = 16  # bytes before the question in which its register is set
ROOT = Path(__file__).parents[2]


def patch(library: bytes) -> tuple[bytes, int]:
    """Returns the library with its questions answered, and how many were."""
    code = bytearray(library)
    count = 0
    at = library.find(QUESTION)
    while at >= 0:
        before = library[max(0, at - NEAR) : at]
        if any(zero in before for zero in REGISTER_0):
            code[at : at + len(QUESTION)] = ANSWER
            count += 1
        at = library.find(QUESTION, at + 1)
    return bytes(code), count


def copy_patched(package: Path, folder: Path) -> int:
    """Copies a package with patched libraries and links to its other files; returns how many questions are answered.

    Raises ValueError where there are none.
    """
    count = 0

    def copy_file(source: str, destination: str) -> str:
        nonlocal count
        if ".so" not in Path(source).name:
            os.symlink(source, destination)
            return destination
        code, answered = patch(Path(source).read_bytes())
        count += answered
        Path(destination).write_bytes(code)
        return destination

    shutil.copytree(package, folder, copy_function=copy_file)
    if not count:
        raise ValueError(
            f"{package}: expected a library that asks for the system's register state (xgetbv), got none that does; "
            "this version of the package cannot be held to AVX2"
        )
    return count


def run_held_to_avx2(module: str, arguments: list[str]) -> int:
    """Runs `python -m module arguments` beside such copies of the installed peers; returns its exit status.

    Raises ValueError where the processor has AVX-VNNI, or a package cannot be held to AVX2.
    """
    if "avx_vnni" in cpu.features():
        raise ValueError(
            f"{cpu.model()}: expected a processor without AVX-VNNI, which cannot be hidden from the "
            "peers; measure without --avx2"
        )
    with tempfile.TemporaryDirectory() as folder:
        for name in PATCHED_PACKAGES:
            spec = find_spec(name)
            if spec is not None and spec.origin is not None:
                count = copy_patched(Path(spec.origin).parent, Path(folder) / name)
                print(f"{name}: held to AVX2 ({count} questions answered)", flush=True)
        path = os.pathsep.join([folder, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode
