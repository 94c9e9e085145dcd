"""A bundle's libraries: code for every level of the target, and what runs it during the build."""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from tvm_ffi import StructuralKey

from compile.bundle.level_code import LevelCode
from compile.lowering.lower import Lowered
from runtime.machine import cpu
from targets import Target, TargetError
from targets.family import load

_LOOK = "look"


class Libraries:
    """Libraries under folder/lib, one for each distinct code; `facts` says how each was made, as the manifest has it.

    dump_to: a folder that keeps objects and assembly of each. source_only: leave out what needs the target's own
    compiler.
    """

    def __init__(self, target: Target, folder: Path, dump_to: Path | None = None, source_only: bool = False):
        self.target = target
        self.folder = folder
        self.facts: dict[str, dict[str, Any]] = {}
        self._family = load(target.family)
        self._dump_to = dump_to
        self._source_only = source_only
        self._known: dict[Any, str] = {}
        self._made: dict[bytes, str] = {}  # digest -> library
        (folder / "lib").mkdir()

    def add(self, name: str, lowered: list[Lowered]) -> str:
        """Compiles a variant, lowered for each of `target.compiled_for`, unless its code is there.

        Returns the library, relative to the bundle.
        """
        # tvm_ffi gives this class its __init__ where it is loaded, which a type checker does not see
        key = tuple(StructuralKey(one.module) for one in lowered)  # type: ignore[call-arg]
        if key not in self._known:
            self._known[key] = self._build(
                name if name != _LOOK else f"{_LOOK}-variant", [one.module for one in lowered]
            )
        return self._known[key]

    def add_look(self, modules: list[Any]) -> str:
        """Compiles a look, a module for each of `target.compiled_for`; returns the library, relative to the bundle."""
        library = f"lib/{_LOOK}.so"
        workdir = self._dump_to / _LOOK if self._dump_to else None
        self.facts[library] = self._family.build_look(
            modules, self.target, self.folder / library, workdir, self._source_only
        )
        return library

    def _build(self, name: str, modules: list[Any]) -> str:
        """Compiles one code; returns its library, or the one that came out the same to the byte."""
        library = f"lib/{name}.so"
        workdir = self._dump_to / name if self._dump_to else None
        facts = self._family.build(modules, self.target, self.folder / library, workdir, self._source_only)
        places = [(self.folder / library).with_suffix(suffix) for suffix in (".so", ".cu")]
        files = [path for path in places if path.exists()]
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).digest()
        twin = self._made.setdefault(digest, library)
        if twin == library:
            self.facts[library] = facts
        else:
            for path in files:
                path.unlink()
        return twin

    def require_some_level(self) -> None:
        """Raises TargetError where nothing here can run any of the target's code, not even emulated."""
        if any(self._runs(level) or self._stand_in(level) for level in self.target.compiled_for):
            return
        needs = "; ".join(f"{v.name} needs {', '.join(v.requires)}" for v in self.target.compiled_for)
        raise TargetError(
            f"{self.target.name}: expected a machine that can check the compiled code, this is "
            f"{cpu.model()} ({cpu.machine()}), nothing here emulates another: {needs}; build there"
        )

    def level_codes(self, library: str, lowered: list[Lowered]) -> list[LevelCode]:
        """Returns the code of each level in a library, with what runs it here."""
        return [self._level_code(library, *pair) for pair in zip(self.target.compiled_for, lowered, strict=True)]

    def _level_code(self, library: str, level: Target, lowered: Lowered) -> LevelCode:
        if self._runs(level):
            function = "main" + self.target.suffix(level)
            return LevelCode(level.name, lowered, self._family.runner(self.folder / library, level, function))
        stand_in = self._stand_in(level)
        if stand_in is None:
            return LevelCode(level.name, lowered, None)
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "check.so"
            self._family.build([lowered.module], stand_in, copy)
            return LevelCode(stand_in.name, lowered, self._family.runner(copy, stand_in))

    def _stand_in(self, level: Target) -> Target | None:
        """The target whose encoding of the same instructions runs here, where the level's own does not."""
        return level.stand_in if level.stand_in is not None and self._runs(level.stand_in) else None

    def look_here(self, level: Target) -> bool:
        """Whether the look's code of a level can be called here, as it is or emulated."""
        return self._runs(level)

    def _runs(self, level: Target) -> bool:
        native = level.machine == cpu.machine() and set(level.requires) <= cpu.features()
        return self._family.emulated or native
