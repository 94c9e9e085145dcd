"""How several threads share one inference: TIR of `share`, which all of them run, and of `serve`, where helpers wait.

Every kernel's units are dealt out in chunks, claimed one by one; when all chunks of a kernel are done, the next kernel
begins. Chunks have positions in one sequence that never starts again, so a thread that comes late, or was held up since
an earlier inference, finds everything claimed and leaves; and whoever is there does all the work, be it one thread.

What they share lies in a control block of int64 words, with one line of the cache for each word that threads write.
"""

from collections.abc import Callable

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from runtime.abi import (
    ARGUMENTS,
    CHUNKS,
    CLAIMED,
    CONTROL,
    DONE,
    FUNCTION,
    OPEN,
    SEMAPHORE,
    SLEEPERS,
    SPIN,
    STOP,
    THREADS,
)
from targets.kernel import Call
from targets.reference.nodes import Conv

ARITY = 9  # arguments of share

GRAIN = 200_000  # multiply-adds: no chunk has much less
_ELEMENT = 32  # multiply-adds that take as long as one element of the kernels that have none
_PATIENCE = 50_000  # ns of waiting before a thread offers its processor to others
_MONOTONIC = 1  # CLOCK_MONOTONIC

# TIR has no atomic operations, LLVM has
_ATOMICS = """
define i64 @bitgrade_load(ptr %p) {
  %v = load atomic i64, ptr %p seq_cst, align 8
  ret i64 %v
}
define i32 @bitgrade_store(ptr %p, i64 %v) {
  store atomic i64 %v, ptr %p seq_cst, align 8
  ret i32 0
}
define i64 @bitgrade_add(ptr %p, i64 %v) {
  %old = atomicrmw add ptr %p, i64 %v seq_cst
  ret i64 %old
}
define i64 @bitgrade_swap(ptr %p, i64 %v) {
  %old = atomicrmw xchg ptr %p, i64 %v seq_cst
  ret i64 %old
}
define i32 @bitgrade_replace(ptr %p, i64 %old, i64 %new) {
  %pair = cmpxchg ptr %p, i64 %old, i64 %new seq_cst seq_cst
  %ok = extractvalue { i64, i1 } %pair, 1
  %v = zext i1 %ok to i32
  ret i32 %v
}
"""


class _Control:
    """The control block within a function that is being built, and this thread's own few variables."""

    def __init__(self, words, variables: int):
        self._words, self._now = words, _local(2)
        self._own = _local(variables)

    def load(self, word: int):
        return T.bind(self._atomic("int64", "load", word))

    def store(self, word: int, value) -> None:
        T.evaluate(self._atomic("int32", "store", word, value))

    def add(self, word: int, value: int) -> None:
        T.evaluate(self._atomic("int64", "add", word, T.int64(value)))

    def swap(self, word: int, value: int):
        return T.bind(self._atomic("int64", "swap", word, T.int64(value)))

    def replaced(self, word: int, old, new):
        """A condition: the word was `old` and is `new` now."""
        return self._atomic("int32", "replace", word, old, new) != T.int32(0)

    def is_below(self, word: int, value):
        """A condition, asked anew wherever it is used."""
        return self._atomic("int64", "load", word) < value

    def address(self, word: int):
        return T.address_of(self._words[word])

    def setting(self, word: int):
        """A word that nobody writes meanwhile."""
        return self._words[word]

    def get(self, variable: int):
        return self._own[variable]

    def set(self, variable: int, value) -> None:
        T.buffer_store(self._own, value, [variable])

    def clock(self):
        """Nanoseconds of a clock that only goes forward."""
        T.evaluate(T.call_extern("int32", "clock_gettime", T.int32(_MONOTONIC), T.address_of(self._now[0])))
        return T.bind(self._now[0] * T.int64(1_000_000_000) + self._now[1])

    def _atomic(self, dtype: str, name: str, word: int, *values):
        return T.call_extern(dtype, f"bitgrade_{name}", self.address(word), *values)


def _local(count: int):
    return T.alloc_buffer((count,), "int64", scope="local", annotations={"disable_lower_builtin": True})


def parts(call: Call) -> int:
    """The most chunks that a kernel's units are worth being dealt out in."""
    node, write = call.step.node, call.step.write
    h, w, _ = write.tensor.shape
    work = h * w * node.weight.size if isinstance(node, Conv) else write.size * _ELEMENT
    return max(1, min(call.kernel.units, work // GRAIN))


def share(arguments: list[tuple[str, int, str]], calls: list[Call], invoke: Callable) -> tvm.tirx.PrimFunc:
    """share(*arguments, control, function, record, lead): takes part in one inference.

    arguments: name, size and dtype of main's buffers; invoke(call, buffers, first, end) does units of a kernel.
    function, record: what helpers need to call this very function with lead 0. lead 1: the caller, who opens an
    inference, wakes helpers, and returns when all is done; 0: a helper, who joins if that inference is still open.
    """
    position, started = range(2)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("share")
            buffers = [T.arg(name, T.Buffer((size,), dtype)) for name, size, dtype in arguments]
            words = T.arg("control", T.Buffer((CONTROL,), "int64"))
            function, record, lead = (T.arg(name, T.int64()) for name in ("function", "record", "lead"))
            with T.attr(T.int32(0), "pragma_import_llvm", _ATOMICS):
                control = _Control(words, 2)
                with T.If(lead != T.int64(0)):
                    with T.Then():
                        _open(control, function, record, position)
                    with T.Else():
                        _join(control, record, position)
                with T.If(control.get(position) >= T.int64(0)), T.Then():
                    for stage in _stages(calls):
                        _stage(control, stage, lambda call, *units: invoke(call, buffers, *units), position, started)
    return builder.get().with_attr("global_symbol", "share")


def _stages(calls: list[Call]) -> list[list[Call]]:
    """Calls one after another; those too small to be dealt out are done in one go with their likes before them."""
    stages: list[list[Call]] = []
    for call in calls:
        if stages and parts(call) == 1 == parts(stages[-1][0]):
            stages[-1].append(call)
        else:
            stages.append([call])
    return stages


def _open(control: _Control, function, record, position: int) -> None:
    """Nobody else is at work: whoever still comes for an earlier inference finds all of it claimed."""
    control.set(position, control.load(CLAIMED))
    control.store(OPEN, T.int64(-1))
    control.store(FUNCTION, function)
    control.store(ARGUMENTS, record)
    control.store(OPEN, control.get(position))
    sleepers = control.swap(SLEEPERS, 0)
    with T.serial(T.cast(sleepers, "int32")):
        T.evaluate(T.call_extern("int32", "sem_post", control.address(SEMAPHORE)))


def _join(control: _Control, record, position: int) -> None:
    """The open inference's first position if it is one of this function, else -1."""
    opened = control.load(OPEN)
    arguments = control.load(ARGUMENTS)
    again = control.load(OPEN)
    control.set(position, T.Select(T.And(opened == again, arguments == record), opened, T.int64(-1)))


def _stage(control: _Control, calls: list[Call], invoke: Callable, position: int, started: int) -> None:
    """Claims chunks until none is left, then waits for those that others have claimed."""
    most, units = parts(calls[0]), calls[0].kernel.units
    chunks = _chunks(control, most)
    first = T.bind(control.get(position))
    end = T.bind(first + chunks)
    with T.While(control.is_below(CLAIMED, end)):
        claimed = control.load(CLAIMED)
        with T.If(claimed < end), T.Then():
            with T.If(control.replaced(CLAIMED, claimed, claimed + T.int64(1))), T.Then():
                if most > 1:
                    share_of = lambda k: T.cast(T.floordiv(k * T.int64(units), chunks), "int32")  # noqa: E731
                    invoke(calls[0], share_of(claimed - first), share_of(claimed - first + T.int64(1)))
                else:
                    for call in calls:
                        invoke(call, T.int32(0), T.int32(call.kernel.units))
                control.add(DONE, 1)
    with T.If(control.is_below(DONE, end)), T.Then():
        control.set(started, control.clock())
        with T.While(control.is_below(DONE, end)):
            with T.If(control.clock() - control.get(started) > T.int64(_PATIENCE)), T.Then():
                T.evaluate(T.call_extern("int32", "sched_yield"))
    control.set(position, end)


def _chunks(control: _Control, most: int):
    """As many as there may be, equally many for each thread where that is possible."""
    if most == 1:
        return T.int64(1)
    threads, most = control.setting(THREADS), T.int64(most)
    even = T.bind(most - T.floormod(most, threads))
    return T.bind(T.min(T.Select(even > T.int64(0), even, most), control.setting(CHUNKS)))


def serve() -> tvm.tirx.PrimFunc:
    """serve(control): a helper's life. Joins every inference that is opened, until STOP is set."""
    served, idle = range(2)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("serve")
            words = T.arg("control", T.Buffer((CONTROL,), "int64"))
            with T.attr(T.int32(0), "pragma_import_llvm", _ATOMICS):
                control, result = _Control(words, 2), _local(2)
                control.set(served, T.int64(-1))
                control.set(idle, control.clock())
                with T.While(control.is_below(STOP, T.int64(1))):
                    opened = control.load(OPEN)
                    with T.If(T.And(opened >= T.int64(0), opened != control.get(served))):
                        with T.Then():
                            function, record = control.load(FUNCTION), control.load(ARGUMENTS)
                            with T.If(control.load(OPEN) == opened), T.Then():  # so these two are of one inference
                                for k in range(2):
                                    T.buffer_store(result, T.int64(0), [k])
                                T.evaluate(
                                    T.call_extern(
                                        "int32",
                                        "TVMFFIFunctionCall",
                                        function,
                                        record,
                                        T.int32(ARITY),
                                        T.address_of(result[0]),
                                    )
                                )
                                control.set(served, opened)
                                control.set(idle, control.clock())
                        with T.Else():
                            with T.If(control.clock() - control.get(idle) > control.setting(SPIN)), T.Then():
                                _sleep(control, opened)
                                control.set(idle, control.clock())
    return builder.get().with_attr("global_symbol", "serve")


def _sleep(control: _Control, opened) -> None:
    """Until an inference is opened. Counted once too often, when one was opened just now, it only wakes up early."""
    control.add(SLEEPERS, 1)
    with T.If(T.And(control.load(OPEN) == opened, control.load(STOP) == T.int64(0))), T.Then():
        interrupted = T.call_extern("int32", "sem_wait", control.address(SEMAPHORE)) != T.int32(0)
        with T.While(interrupted):
            T.evaluate(T.int32(0))
