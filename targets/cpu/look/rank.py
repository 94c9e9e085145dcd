"""The largest of a variant's logits, and how far it is above the next: runtime/choice/escalation.py says what for."""

from typing import Any

from tvm.tirx.script import builder as T

from runtime.choice.escalation import MOST
from targets.cpu.look.vectors import Registers


def emit_rank(logits: Any, classes: int, answer: Any) -> None:
    """Adds code that sets answer int64 [2]: the index of the first largest logit int32 [classes], and the margin."""
    index, best, second = Registers(1, "int32"), Registers(1, "int64"), Registers(1, "int64")
    index[0] = T.int32(0)
    best[0] = T.cast(logits[0], "int64")
    second[0] = best[0] - T.int64(MOST - 1)  # of a single class
    with T.serial(classes - 1) as i:
        value = T.bind(T.cast(logits[i + 1], "int64"))
        larger = T.bind(value > best[0])
        second[0] = T.Select(larger, best[0], T.max(second[0], value))
        index[0] = T.Select(larger, i + 1, index[0])
        best[0] = T.max(best[0], value)
    T.buffer_store(answer, T.cast(index[0], "int64"), [0])
    T.buffer_store(answer, best[0] - second[0], [1])
