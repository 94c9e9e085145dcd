"""Hardware descriptions: what a bundle is built for, and what it then asks of the machine that runs it.

Each family has a folder here whose `__init__.py` lists its hardware as frozen literals in `TARGETS`, the family's
default first. A new board is one more literal, for ARM also a row of CPUS in its emulation; what a new family needs
beside its folder is listed in docs/add-a-processor.md. A target may be made of levels, other targets of the family:
its libraries hold code for each, and the machine that loads one takes the best it can run.
"""

import difflib
import importlib
import re
from dataclasses import dataclass, field

# TVM tells LLVM that buffers of different names never share memory. Kernels that take turns in one workspace do, and
# once they are inlined into main LLVM drops or moves their stores; so its type-based alias analysis stays off.
NO_TBAA = ["-enable-tbaa:bool=false"]
FAMILIES = ("arm", "cuda", "x86")  # folders of hardware
# what boards are called -> the target that builds for them
ALIASES = {
    "raspberrypi": "arm",
    "pi4": "arm:cortex-a72",
    "pi5": "arm:cortex-a76",
    "jetson": "cuda:orin",
    "orin": "cuda:orin",
}


class TargetError(ValueError):
    """No such target, or nothing here can build for it; the message says what exists or what to install."""


@dataclass(frozen=True)
class Target:
    """One hardware description.

    name      what users write: "x86", "arm:cortex-a76", "cuda:sm_87"
    family    the folder under targets/ that holds its toolchain and kernels
    machine   `platform.machine()` of the machine that runs the bundle
    requires  features that machine must have: words of /proc/cpuinfo's flags or Features line; for CUDA one "sm_NN",
              the lowest compute capability that can run the library
    tvm       TVM's target description, as JSON
    cpu       the processor to emulate for checks where it is not this machine's ("" where none is emulated)
    archs     CUDA compute capabilities that get machine code of their own, ascending; PTX of the last one is added
    levels    the targets it is made of, best first; such a target has no `requires` and no `tvm` of its own
    stand_in  where this processor is not at hand, its kernels are compiled for that one and checked there: the same
              instructions in another encoding
    """

    name: str
    family: str
    machine: str
    requires: tuple[str, ...] = ()
    tvm: dict = field(default_factory=dict, hash=False)
    cpu: str = ""
    archs: tuple[int, ...] = ()
    levels: tuple["Target", ...] = ()
    stand_in: "Target | None" = None

    @property
    def compiled_for(self) -> tuple["Target", ...]:
        """Every description that its libraries hold code for: the levels, or this one."""
        return self.levels or (self,)

    def suffix(self, level: "Target") -> str:
        """Returns how names of functions in its libraries end that are code for `level`."""
        return "_" + re.sub(r"\W", "_", level.name.partition(":")[2]) if self.levels else ""


def targets() -> list[Target]:
    """Returns every target there is, by family, each family's default first."""
    return [t for f in FAMILIES for t in importlib.import_module(f"targets.{f}").TARGETS]


def find(text: str) -> Target:
    """Returns the target of that name or alias; the name of a family alone is its default.

    Raises TargetError for any other text.
    """
    known = targets()
    name = ALIASES.get(text, text)
    for target in known:
        if name in (target.name, target.family):
            return target
    # not by runtime.terminal, since descriptions need the standard library alone
    near = difflib.get_close_matches(text, [*ALIASES, *FAMILIES, *(t.name for t in known)], n=1)
    guess = f"; did you mean {near[0]}?" if near else ""
    raise TargetError(
        f"there is no target {text!r} (families: {', '.join(FAMILIES)}; processors: "
        f"{', '.join(t.name for t in known if t.name not in FAMILIES)}; boards: {', '.join(ALIASES)}){guess}"
    )
