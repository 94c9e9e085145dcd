"""Reads the parts of a 64-bit little-endian ELF shared library that checking and emulating it need; no dependencies."""

import struct
from dataclasses import dataclass
from pathlib import Path

MACHINES = {62: "x86_64", 183: "aarch64"}
_PT_LOAD, _SHT_RELA, _SHT_DYNAMIC, _SHT_DYNSYM, _SHT_RELR = 1, 4, 6, 11, 19
_DT_NEEDED = 1


class ElfError(ValueError):
    """Not a library this reader knows; the message says what was expected and what came."""


@dataclass(frozen=True)
class Segment:
    """One loaded stretch: `data` at `address`, zeros up to `size`; `flags` 1 execute, 2 write, 4 read."""

    address: int
    data: bytes
    size: int
    flags: int


@dataclass(frozen=True)
class Library:
    """What a shared library says of itself.

    machine: a value of MACHINES; defined: addresses by symbol; undefined: symbols; relocations: (offset, type, symbol
    or "", value of the symbol, addend); needed: names of libraries.
    """

    machine: str
    segments: tuple[Segment, ...]
    defined: dict[str, int]
    undefined: tuple[str, ...]
    relocations: tuple[tuple[int, int, str, int, int], ...]
    needed: tuple[str, ...]


def read(path: Path) -> Library:
    """Returns the library. Raises ElfError for any but a 64-bit little-endian shared library of a known machine."""
    data = Path(path).read_bytes()
    if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", data, 16)[0] != 3:
        raise ElfError(f"{path}: expected a 64-bit little-endian ELF shared library, got {data[:18].hex()}")
    machine = struct.unpack_from("<H", data, 18)[0]
    if machine not in MACHINES:
        raise ElfError(f"{path}: expected a machine among {sorted(MACHINES.values())}, got ELF machine {machine}")
    phoff, shoff = struct.unpack_from("<QQ", data, 32)
    phnum, _, shnum = struct.unpack_from("<HHH", data, 56)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, shoff + 64 * i) for i in range(shnum)]
    symbols = _symbols(data, sections)
    return Library(
        MACHINES[machine],
        _segments(data, phoff, phnum),
        {name: value for name, section, value in symbols if section and name},
        tuple(name for name, section, _ in symbols if not section and name),
        _relocations(path, data, sections, symbols),
        _needed(data, sections),
    )


def _segments(data: bytes, phoff: int, count: int) -> tuple[Segment, ...]:
    segments = []
    for i in range(count):
        kind, flags, offset, address, _, filesz, memsz, _ = struct.unpack_from("<IIQQQQQQ", data, phoff + 56 * i)
        if kind == _PT_LOAD:
            segments.append(Segment(address, data[offset : offset + filesz], memsz, flags))
    return tuple(segments)


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()


def _symbols(data: bytes, sections: list) -> list[tuple[str, int, int]]:
    """(name, section or 0 where undefined, value) of each dynamic symbol, in the table's order."""
    symbols = []
    for _, kind, _, _, offset, size, link, _, _, _ in sections:
        if kind == _SHT_DYNSYM:
            strings = sections[link][4]
            for at in range(offset, offset + size, 24):
                name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", data, at)
                symbols.append((_text(data, strings + name), section, value))
    return symbols


def _relocations(path: Path, data: bytes, sections: list, symbols: list) -> tuple:
    relocations = []
    for _, kind, flags, _, offset, size, _, _, _, _ in sections:
        if kind == _SHT_RELR:
            raise ElfError(f"{path}: expected RELA relocations only, got packed ones (RELR); link without them")
        if kind == _SHT_RELA and flags & 2:  # SHF_ALLOC: those the loader applies
            for at in range(offset, offset + size, 24):
                where, info, addend = struct.unpack_from("<QQq", data, at)
                name, _, value = symbols[info >> 32] if info >> 32 else ("", 0, 0)
                relocations.append((where, info & 0xFFFFFFFF, name, value, addend))
    return tuple(relocations)


def _needed(data: bytes, sections: list) -> tuple[str, ...]:
    names = []
    for _, kind, _, _, offset, size, link, _, _, _ in sections:
        if kind == _SHT_DYNAMIC:
            for at in range(offset, offset + size, 16):
                tag, value = struct.unpack_from("<QQ", data, at)
                if tag == _DT_NEEDED:
                    names.append(_text(data, sections[link][4] + value))
    return tuple(names)
