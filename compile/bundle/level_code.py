"""The compiled code of one level and what runs it, which the verification ladder compares with the reference."""

from dataclasses import dataclass

from compile.lowering.lower import Lowered
from targets.family import Runner


@dataclass(frozen=True, eq=False)
class LevelCode:
    """The code of one level.

    name: how it is run here, in words; runner: what runs it, None where nothing here can.
    """

    name: str
    lowered: Lowered
    runner: Runner | None
