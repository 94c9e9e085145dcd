"""A bundle's libraries: code for every level of the target, and what runs it during the build."""

import tempfile
from pathlib import Path

from tvm_ffi import StructuralKey

from compile.lowering.lower import Lowered
from runtime.machine import cpu
from targets import Target, TargetError
from targets.family import Runner, load


class Libraries:
    """Libraries under folder/lib, one for each distinct code; `facts` tells how each was made.

    dump_to: a folder that keeps objects and assembly of each. source_only: leave out what needs the target's own
    compiler.
    """

    def __init__(self, target: Target, folder: Path, dump_to: Path | None = None, source_only: bool = False):
        self.target, self.folder, self.facts = target, folder, {}
        self._toolchain = load(target.family)
        self._dump_to, self._source_only, self._known = dump_to, source_only, {}
        (folder / "lib").mkdir()

    def add(self, name: str, lowered: list[Lowered]) -> str:
        """Compiles a variant, lowered for each of `target.compiled_for`, unless its code is there; the library."""
        key = tuple(StructuralKey(one.module) for one in lowered)
        if key not in self._known:
            library = self._known[key] = f"lib/{name}.so"
            modules, toolchain = [one.module for one in lowered], self._toolchain
            workdir = self._dump_to / name if self._dump_to else None
            self.facts[library] = toolchain.build(
                modules, self.target, self.folder / library, workdir, self._source_only
            )
        return self._known[key]

    def require_some_level(self) -> None:
        """Raises TargetError where nothing here can run any of the target's code, not even emulated."""
        if not any(self._runs(v) or self._stands_in(v) for v in self.target.compiled_for):
            needs = "; ".join(f"{v.name} needs {', '.join(v.requires)}" for v in self.target.compiled_for)
            raise TargetError(
                f"{self.target.name}: expected a machine that can check the compiled code, this is "
                f"{cpu.model()} ({cpu.machine()}), nothing here emulates another: {needs}; build there"
            )

    def runners(self, library: str, lowered: list[Lowered]) -> list[tuple[str, Runner | None]]:
        """For each level, how its code is run here, in words, and what runs it; None where nothing can."""
        return [self._runner(library, *pair) for pair in zip(self.target.compiled_for, lowered, strict=True)]

    def _runner(self, library: str, level: Target, lowered: Lowered) -> tuple[str, Runner | None]:
        if self._runs(level):
            function = "main" + self.target.suffix(level)
            return level.name, self._toolchain.runner(self.folder / library, level, function)
        if not self._stands_in(level):
            return level.name, None
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "check.so"
            self._toolchain.build([lowered.module], level.stand_in, copy)
            return level.stand_in.name, self._toolchain.runner(copy, level.stand_in)

    def _stands_in(self, level: Target) -> bool:
        return level.stand_in is not None and self._runs(level.stand_in)

    def _runs(self, level: Target) -> bool:
        native = level.machine == cpu.machine() and set(level.requires) <= cpu.features()
        return self._toolchain.emulated or native
