"""Runs a compiled aarch64 library on an emulated ARM processor (Unicorn), with every buffer between guard pages."""

import struct
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import unicorn
from unicorn import arm64_const as reg

from targets import TargetError
from targets.library import elf

# Unicorn has no A76 model; MAX is the one with the dot product. What a kernel may use beyond it is held by the
# compiler, which knows the real processor.
CPUS = {"cortex-a72": reg.UC_CPU_ARM64_A72, "cortex-a76": reg.UC_CPU_ARM64_MAX, "cortex-a78ae": reg.UC_CPU_ARM64_MAX}
_PAGE = 0x10000  # also the gap between regions, never mapped: an access beyond a buffer's page ends the run
_LIBRARY, _STUBS, _STACK, _BUFFERS = 0x10_0000_0000, 0x20_0000_0000, 0x30_0000_0000, 0x40_0000_0000
_STACK_BYTES = 1 << 20
_RETURN = b"\xc0\x03\x5f\xd6"  # ret
_ABS64, _GLOB_DAT, _JUMP_SLOT, _RELATIVE = 257, 1025, 1026, 1027
_DLTENSOR_PTR = 7  # TVMFFITypeIndex of a DLTensor*
_DTYPES = {"uint8": (1, 8), "int8": (0, 8), "int32": (0, 32), "int64": (0, 64)}  # DLDataType code and bits
_CANARY = 0xA5
_TIMEOUT_US = 600 * 1_000_000


class EmulationError(TargetError):
    """The library did what the real processor would not allow or reported an error; the message says what and where."""


class Runner:
    """One function of a library on one emulated processor; call it once per picture.

    blocks (address and bytes of a run of code without branches -> how often it ran), seconds: of the last call;
    blocks only with `count=True`, which is slower.
    """

    def __init__(self, library: Path, cpu: str, count: bool = False, function: str = "main"):
        if cpu not in CPUS:
            raise EmulationError(
                f"expected a processor among {', '.join(CPUS)}, got {cpu!r}; add it to CPUS in "
                "targets/arm/emulation/processor.py"
            )
        self.library, self.cpu = Path(library), cpu
        self.blocks: Counter[tuple[int, int]] = Counter()
        self.seconds = 0.0
        self._uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self._uc.ctl_set_cpu_model(CPUS[cpu])
        self._uc.reg_write(reg.UC_ARM64_REG_CPACR_EL1, 3 << 20)  # floating point and NEON on
        self._buffers: dict[str, tuple] = {}
        self._next = _BUFFERS
        self._raised = ""
        self._failure: Exception | None = None
        self._load(elf.read(self.library), f"__tvm_ffi_{function}")
        if count:
            self._uc.hook_add(unicorn.UC_HOOK_BLOCK, self._count)

    def __call__(
        self, x: np.ndarray, weights: np.ndarray, table: np.ndarray, workspace_bytes: int, classes: int
    ) -> np.ndarray:
        """int32 [classes] for x uint8 [H*W*3], weights int8 [n], table int32 [m].

        Weights and table are uploaded when the array differs from the last call's. Raises EmulationError.
        """
        # the workspace and the output begin as garbage, so that what a kernel forgets to write shows
        rng = np.random.default_rng(0)
        self._upload("picture", np.ascontiguousarray(x, np.uint8), False)
        self._keep("weights", weights, np.int8)
        self._keep("table", table, np.int32)
        self._upload("workspace", rng.integers(0, 256, max(workspace_bytes, 1), np.uint8), True)
        self._upload("logits", rng.integers(-(2**31), 2**31, classes, np.int32), True)
        self._call(("picture", "weights", "table", "workspace", "logits"))
        self._check_margins()
        return self._read("logits")

    def call(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Calls a function of any flat buffers [n]; returns them as they are then. Raises EmulationError."""
        names = [f"buffer {i}" for i in range(len(arrays))]
        for name, array in zip(names, arrays, strict=True):
            self._upload(name, array, True)
        self._call(names)
        self._check_margins()
        return [self._read(name) for name in names]

    def _read(self, name: str) -> np.ndarray:
        address, array, _ = self._buffers[name]
        return np.frombuffer(bytes(self._uc.mem_read(address, array.nbytes)), array.dtype).copy()

    @property
    def instructions(self) -> int:
        """Of the last call, without those of the stand-ins for memcpy and memset."""
        return sum(count * size // 4 for (_, size), count in self.blocks.items())

    def code(self) -> Counter[bytes]:
        """Machine code of the last call's blocks -> how often it ran."""
        counts: Counter[bytes] = Counter()
        for (address, size), count in self.blocks.items():
            counts[bytes(self._uc.mem_read(address, size))] += count
        return counts

    def _load(self, library: elf.Library, symbol: str) -> None:
        if library.machine != "aarch64":
            raise EmulationError(f"{self.library}: expected an aarch64 library, got one for {library.machine}")
        end = _up(max(s.address + s.size for s in library.segments))
        self._uc.mem_map(_LIBRARY, end)
        for segment in library.segments:
            self._uc.mem_write(_LIBRARY + segment.address, segment.data)
        stubs = self._stubs(library)
        for where, kind, name, value, addend in library.relocations:
            if kind not in (_ABS64, _GLOB_DAT, _JUMP_SLOT, _RELATIVE):
                raise EmulationError(
                    f"{self.library}: expected relocations RELATIVE, GLOB_DAT, JUMP_SLOT or ABS64, got type {kind}"
                )
            base = stubs.get(name, _LIBRARY + value)
            self._uc.mem_write(_LIBRARY + where, struct.pack("<Q", base + addend))
        for segment in library.segments:
            if not segment.flags & 2:
                begin = segment.address // _PAGE * _PAGE
                access = unicorn.UC_PROT_READ | (unicorn.UC_PROT_EXEC if segment.flags & 1 else 0)
                self._uc.mem_protect(_LIBRARY + begin, _up(segment.address + segment.size) - begin, access)
        if symbol not in library.defined:
            raise EmulationError(f"{self.library}: expected the function {symbol}, got {sorted(library.defined)}")
        self._main = _LIBRARY + library.defined[symbol]
        self._uc.mem_map(_STACK, _STACK_BYTES)

    def _stubs(self, library: elf.Library) -> dict[str, int]:
        """Address of a stand-in for each function the library takes from outside; main returns to the last one."""
        known = {
            "memcpy": self._memcpy,
            "memmove": self._memcpy,
            "memset": self._memset,
            "TVMFFIErrorSetRaisedFromCStrParts": self._error_parts,
            "TVMFFIErrorSetRaisedFromCStr": self._error,
        }
        names = list(library.undefined)
        self._uc.mem_map(_STUBS, _PAGE, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        self._uc.mem_write(_STUBS, _RETURN * (len(names) + 1))
        self._return_to = _STUBS + 4 * len(names)

        def enter(uc, address, _size, _data) -> None:
            index = (address - _STUBS) // 4
            if index < len(names):
                try:
                    if names[index] not in known:
                        raise EmulationError(f"{self.library}: called {names[index]}, which has no stand-in here")
                    known[names[index]](*(uc.reg_read(reg.UC_ARM64_REG_X0 + i) for i in range(3)))
                except (EmulationError, unicorn.UcError) as error:  # Unicorn cannot pass exceptions through
                    self._failure = error
                    uc.emu_stop()

        self._uc.hook_add(unicorn.UC_HOOK_CODE, enter, begin=_STUBS, end=_STUBS + _PAGE)
        return {name: _STUBS + 4 * i for i, name in enumerate(names)}

    def _memcpy(self, to: int, source: int, size: int) -> None:
        self._uc.mem_write(to, bytes(self._uc.mem_read(source, size)))

    def _memset(self, to: int, value: int, size: int) -> None:
        self._uc.mem_write(to, bytes([value & 255]) * size)

    def _error(self, kind: int, message: int, _) -> None:
        self._raised = f"{self._text(kind)}: {self._text(message)}"

    def _error_parts(self, kind: int, parts: int, count: int) -> None:
        pointers = struct.unpack(f"<{count}Q", self._uc.mem_read(parts, 8 * count))
        self._raised = f"{self._text(kind)}: {''.join(self._text(p) for p in pointers)}"

    def _text(self, address: int) -> str:
        text = bytearray()
        while (byte := self._uc.mem_read(address + len(text), 1)[0]) and len(text) < 1000:
            text.append(byte)
        return text.decode(errors="replace")

    def _keep(self, name: str, array: np.ndarray, dtype) -> None:
        held = self._buffers.get(name)
        if held is None or held[1] is not array:
            if array.dtype != dtype or array.ndim != 1:
                raise EmulationError(f"expected {name} {np.dtype(dtype)} [n], got {array.dtype} {list(array.shape)}")
            self._upload(name, array, False)

    def _upload(self, name: str, array: np.ndarray, writable: bool) -> None:
        """Puts an array, 64-byte aligned, as near to the end of its pages as that allows; the rest is canaries."""
        held = self._buffers.get(name)
        if held is None or held[1].nbytes != array.nbytes:
            size = _up(max(array.nbytes, 1))
            self._uc.mem_map(self._next, size, unicorn.UC_PROT_READ | (unicorn.UC_PROT_WRITE if writable else 0))
            address = self._next + size - -(-max(array.nbytes, 1) // 64) * 64
            self._uc.mem_write(self._next, bytes([_CANARY]) * size)
            region = (self._next, size)
            self._next += size + _PAGE
        else:
            address, _, region = held
        self._uc.mem_write(address, array.tobytes())
        self._buffers[name] = (address, array, region)

    def _check_margins(self) -> None:
        for name, (address, array, (base, size)) in self._buffers.items():
            whole = np.frombuffer(bytes(self._uc.mem_read(base, size)), np.uint8)
            for where, margin in (
                ("before", whole[: address - base]),
                ("after", whole[address - base + array.nbytes :]),
            ):
                if (margin != _CANARY).any():
                    raise EmulationError(f"{self.library}: wrote {where} the buffer {name} of {array.nbytes} bytes")

    def _call(self, order: Sequence[str]) -> None:
        uc = self._uc
        top, tensors, anys = _STACK + _STACK_BYTES - 4096, b"", b""
        for i, name in enumerate(order):
            address, array, _ = self._buffers[name]
            code, bits = _DTYPES[str(array.dtype)]
            shape = top + 1024 + 8 * i
            uc.mem_write(shape, struct.pack("<Q", array.size))
            # void* data; {int32 type, id} device (1: CPU); int32 ndim; {u8, u8, u16} dtype; int64* shape, strides;
            # uint64 byte_offset
            tensors += struct.pack("<QiiiBBHQQQ", address, 1, 0, 1, code, bits, 1, shape, 0, 0)
            anys += struct.pack("<iIQ", _DLTENSOR_PTR, 0, top + 48 * i)
        uc.mem_write(top, tensors)
        uc.mem_write(top + 2048, anys)
        for register, value in (
            ("X0", 0),
            ("X1", top + 2048),
            ("X2", len(order)),
            ("X3", top + 3072),
            ("SP", top - 64),
            ("X30", self._return_to),
        ):
            uc.reg_write(getattr(reg, f"UC_ARM64_REG_{register}"), value)
        self._failure, self._raised, began = None, "", time.perf_counter()
        self.blocks.clear()
        try:
            uc.emu_start(self._main, self._return_to, timeout=_TIMEOUT_US)
        except unicorn.UcError as error:
            raise EmulationError(self._explain(error)) from error
        self.seconds = time.perf_counter() - began
        if self._failure is not None:
            raise EmulationError(f"{self.library}: {self._failure}") from self._failure
        if uc.reg_read(reg.UC_ARM64_REG_PC) != self._return_to:
            raise EmulationError(f"{self.library}: main did not return within {_TIMEOUT_US // 1_000_000} s")
        if uc.reg_read(reg.UC_ARM64_REG_X0) & 0xFFFFFFFF:
            raise EmulationError(f"{self.library}: main reported {self._raised or 'an error without a message'}")

    def _explain(self, error: unicorn.UcError) -> str:
        pc = self._uc.reg_read(reg.UC_ARM64_REG_PC)
        where = f"at {pc - _LIBRARY:#x} of {self.library.name} on an emulated {self.cpu}"
        if error.errno in (unicorn.UC_ERR_EXCEPTION, unicorn.UC_ERR_INSN_INVALID):
            word = struct.unpack("<I", self._uc.mem_read(pc, 4))[0] if _LIBRARY <= pc < _STUBS else 0
            return f"instruction {word:#010x} {where}: one this processor does not have, or an exception it raised"
        sizes = ", ".join(f"{n} {a.nbytes} at {at:#x}" for n, (at, a, _) in self._buffers.items())
        return f"{error} {where}: an access outside every buffer (bytes: {sizes})"

    def _count(self, _uc, address, size, _data) -> None:
        self.blocks[address, size] += 1


def _up(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
