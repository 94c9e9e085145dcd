"""Runs the emitted CUDA C++ on the CPU: the .cu file, host function and all, is compiled against the headers here."""

import atexit
import re
import shutil
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
from tvm_ffi import libinfo

from targets import TargetError

_HERE = Path(__file__).parent
_COMPILERS = ("g++", "c++", "clang++")
# CUDA's integers may not overflow either; a trap needs no library, the driver says where it happened
_CHECKS = ("-fsanitize=signed-integer-overflow,shift-exponent,bounds,alignment", "-fsanitize-undefined-trap-on-error")
_FLAGS = ("-std=c++17", "-O1", "-w", "-U_FORTIFY_SOURCE", *_CHECKS)  # not fortified: fibers jump between stacks
_ASM = re.compile(r"^.*\b(?:asm|__asm__|__asm)\b\s*(?:volatile|__volatile__)?\s*\(.*$", re.MULTILINE)
_STATEMENT = re.compile(r'asm volatile\("([^"]*)"((?:\s*:[^;]*)?)\);')
_OPERAND = re.compile(r'"[=+]?[rl]"\((\w+)\)')
_D = r"\{%0, %1, %2, %3\}"
# PTX -> what describes it in emulation/instructions.h
_INSTRUCTIONS = [
    (
        re.compile(
            rf"mma\.sync\.aligned\.m16n8k(32|64)\.row\.col\.s32\.([us])([48])\.([us])\3\.s32 {_D}, "
            rf"\{{%4, %5, %6, %7\}}, \{{%8, %9\}}, {_D};"
        ),
        lambda m: f"mma<{m[1]}, {m[3]}, {int(m[2] == 's')}, {int(m[4] == 's')}>",
    ),
    (re.compile(r"cp\.async\.cg\.shared\.global \[%0\], \[%1\], (16);"), lambda m: f"copy_async<{m[1]}>"),
    (re.compile(r"cp\.async\.ca\.shared\.global \[%0\], \[%1\], (4|8|16);"), lambda m: f"copy_async<{m[1]}>"),
    (re.compile(r"cp\.async\.commit_group;"), lambda _: "commit_group"),
    (re.compile(r"cp\.async\.wait_group (\d+);"), lambda m: f"wait_group<{m[1]}>"),
]


class EmulationError(TargetError):
    """The source cannot be run here, or did what a GPU would not allow; the message says what and where."""


class Runner:
    """One .cu file's `main` on the CPU; call it once per picture. Raises EmulationError for inline assembly.

    seed: draws the order of blocks and threads. arch: compute capability whose code is run, such as 87 (PTX itself is
    executed as its description in emulation/instructions.h says). seconds: of the last call.
    """

    def __init__(self, source: Path, seed: int = 0, arch: int = 80):
        self.source, self.arch, self.seconds = Path(source), arch, 0.0
        self._seed, self._process, self._held = seed, None, None
        self._folder = tempfile.TemporaryDirectory(prefix="bitgrade-cuda-")
        self._program = Path(self._folder.name) / "main"
        self._compile()

    def __call__(
        self, x: np.ndarray, weights: np.ndarray, table: np.ndarray, workspace_bytes: int, classes: int
    ) -> np.ndarray:
        """int32 [classes] for x uint8 [H*W*3], weights int8 [n], table int32 [m].

        A new process starts when weights, table or sizes differ from the last call's. Raises EmulationError.
        """
        for name, array, dtype in (("x", x, np.uint8), ("weights", weights, np.int8), ("table", table, np.int32)):
            if array.dtype != dtype or array.ndim != 1:
                raise EmulationError(f"expected {name} {np.dtype(dtype)} [n], got {array.dtype} {list(array.shape)}")
        sizes = (x.size, weights.size, table.size, workspace_bytes, classes)
        held = self._held
        if held is None or held[0] is not weights or held[1] is not table or held[2] != sizes:
            self._start(weights, table, sizes)
            self._held = (weights, table, sizes)
        began = time.perf_counter()
        self._send(x.tobytes())
        logits = self._process.stdout.read(4 * classes)
        self.seconds = time.perf_counter() - began
        if len(logits) != 4 * classes:
            self._fail()
        return np.frombuffer(logits, np.int32).copy()

    def close(self) -> None:
        """Ends the process; the next call starts one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = self._held = None

    def __del__(self):
        self.close()

    def _compile(self) -> None:
        text = _described(self.source.read_text())
        if assembly := _ASM.search(text):
            raise EmulationError(
                f"{self.source}: expected no inline assembly, got {assembly.group(0).strip()[:100]!r}; "
                "describe the instruction in targets/cuda/emulation/ first"
            )
        compiler, prelude = _prelude()
        source = self._program.with_suffix(".cpp")
        fibers = int("__syncthreads" in text or "emulated::" in text)
        # g++ wants alignas before storage classes
        source.write_text(re.sub(r"__shared__ (alignas\(\d+\))", r"\1 __shared__", text))
        ffi = Path(libinfo.find_libtvm_ffi())
        command = [
            compiler,
            *_FLAGS,
            "-rdynamic",
            f"-I{prelude}",
            *_includes(),
            f'-DEMULATED_SOURCE="{source}"',
            f"-DEMULATED_BARRIERS={fibers}",
            f"-DEMULATED_ARCH={10 * self.arch}",
            "-o",
            str(self._program),
            str(_HERE / "driver.cpp"),
            str(ffi),
            f"-Wl,-rpath,{ffi.parent}",
            "-ldl",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise EmulationError(
                f"{self.source}: uses what targets/cuda/emulation/ does not describe:\n{done.stderr[:2000]}"
            )

    def _start(self, weights: np.ndarray, table: np.ndarray, sizes: tuple[int, ...]) -> None:
        self.close()
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([self._program, str(self._seed)], stdin=pipe, stdout=pipe, stderr=pipe)
        self._send(np.array(sizes, np.int64).tobytes() + weights.tobytes() + table.tobytes())

    def _send(self, data: bytes) -> None:
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def _fail(self) -> None:
        self._process.stdin.close()
        message = self._process.stderr.read().decode(errors="replace").strip()
        code = self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()
        self._process = self._held = None
        raise EmulationError(f"{self.source}: {message or f'ended with exit code {code}'}")


@cache
def _prelude() -> tuple[str, Path]:
    """The C++ compiler, and a folder with the header that all sources share, compiled where the compiler can."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise EmulationError(f"expected a C++ compiler ({', '.join(_COMPILERS)}), found none; apt install g++")
    folder = Path(tempfile.mkdtemp(prefix="bitgrade-cuda-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    header = shutil.copy(_HERE / "prelude.h", folder)
    subprocess.run([compiler, *_FLAGS, *_includes(), "-x", "c++-header", header, "-o", f"{header}.gch"], check=True)
    return compiler, folder


def _includes() -> tuple[str, str]:
    return f"-I{_HERE}", f"-I{libinfo.find_include_path()}"


def _described(text: str) -> str:
    """The source with every instruction that has a description as a call of it; others stay as they are."""

    def call(statement: re.Match) -> str:
        for pattern, name in _INSTRUCTIONS:
            if match := pattern.fullmatch(statement[1]):
                return f"emulated::{name(match)}({', '.join(_OPERAND.findall(statement[2]))});"
        return statement[0]

    return _STATEMENT.sub(call, text)
