"""Tells what this processor can do, in the words of /proc/cpuinfo."""

import ctypes
import platform
from pathlib import Path

AT_HWCAP, AT_HWCAP2 = 16, 26  # keys of getauxval(3)
# Linux, arch/arm64/include/uapi/asm/hwcap.h: name -> bit. The kernel is asked, not /proc/cpuinfo, because an emulated
# process sees the /proc of its host.
HWCAP = {
    "fp": 0,
    "asimd": 1,
    "evtstrm": 2,
    "aes": 3,
    "pmull": 4,
    "sha1": 5,
    "sha2": 6,
    "crc32": 7,
    "atomics": 8,
    "fphp": 9,
    "asimdhp": 10,
    "cpuid": 11,
    "asimdrdm": 12,
    "jscvt": 13,
    "fcma": 14,
    "lrcpc": 15,
    "dcpop": 16,
    "sha3": 17,
    "sm3": 18,
    "sm4": 19,
    "asimddp": 20,
    "sha512": 21,
    "sve": 22,
    "asimdfhm": 23,
}
HWCAP2 = {"dcpodp": 0, "sve2": 1, "svei8mm": 9, "flagm2": 7, "frint": 8, "i8mm": 13, "bf16": 14}


def machine() -> str:
    """Returns the architecture, "x86_64" or "aarch64" among others."""
    return platform.machine()


def features() -> frozenset[str]:
    """Returns the instruction-set features of this processor; none where the kernel does not tell."""
    return arm_features(*_auxiliary()) if machine() == "aarch64" else x86_features(_cpuinfo())


def model() -> str:
    """Returns the processor's name for people, or the architecture where the kernel gives none."""
    for line in _cpuinfo().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return value.strip()
    return machine()


def x86_features(cpuinfo: str) -> frozenset[str]:
    """Returns the features that every processor in the text of /proc/cpuinfo has."""
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    flags = [frozenset(words.split()) for key, _, words in lines if key.strip() == "flags"]
    return frozenset.intersection(*flags) if flags else frozenset()


def arm_features(hwcap: int, hwcap2: int) -> frozenset[str]:
    """Returns the features in the two words in which an arm64 kernel describes its processor to a process."""
    words = ((hwcap, HWCAP), (hwcap2, HWCAP2))
    return frozenset(name for word, bits in words for name, bit in bits.items() if word >> bit & 1)


def _auxiliary() -> tuple[int, int]:
    """Returns the words AT_HWCAP and AT_HWCAP2 of this process."""
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype = ctypes.c_ulong
    getauxval.argtypes = [ctypes.c_ulong]
    return getauxval(AT_HWCAP), getauxval(AT_HWCAP2)


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(errors="replace") if path.exists() else ""
