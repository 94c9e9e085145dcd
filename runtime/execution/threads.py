"""Runs inferences with several threads: helpers wait in compiled code, without Python's lock, and share kernels."""

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np

from runtime.abi import CHUNKS, CONTROL, OPEN, SEMAPHORE, SPIN, STOP, THREADS, aligned_buffer

_CHUNKS_A_THREAD = 2  # of each kernel: more make up for a thread that was held up, and cost more claims
_SPIN_NS = 60_000  # nanoseconds for which a helper looks for the next picture before it sleeps
_WORTH = 0.9  # of the time alone: helpers pay when a picture takes less
_BAD = 3.0  # of the time alone: one picture that takes more sends helpers away at once
_TRIALS = 4  # pictures in a row that did not pay before helpers are left alone; the first finds them asleep
_SHORTEST_PAUSE, _LONGEST_PAUSE = 8, 512  # pictures for which they are left alone, the first time and at most
_DRIFT = 1 / 16  # share by which the usual time alone may grow with each picture


def make_control_block(threads: int) -> np.ndarray:
    """Returns the aligned int64 [CONTROL] that `threads` threads share, the calling one included."""
    control = aligned_buffer(CONTROL, np.int64)
    control[OPEN] = -1
    control[SPIN] = _SPIN_NS
    control[THREADS] = threads
    control[CHUNKS] = _CHUNKS_A_THREAD * threads
    ctypes.CDLL(None).sem_init(_semaphore(control), 0, 0)
    return control


class Helpers:
    """Threads beside the calling one; they end with `close`, with the last reference, or with the process.

    count: how many; control: the control block int64 [CONTROL]; serve: the compiled function in which each of them
    spends its life; keep: what has to stay alive as long as they do. A process made by fork has no helpers: there the
    caller does everything alone.
    """

    def __init__(self, count: int, control: np.ndarray, serve: Callable[[], object], keep: object) -> None:
        threads = [threading.Thread(target=serve, name="bitgrade-helper", daemon=True) for _ in range(count)]
        self.close = weakref.finalize(self, _stop, control, threads, keep)
        for thread in threads:
            thread.start()


class Pace:
    """Runs one variant's inferences with helpers where that pays, and alone where it does not.

    On busy processors helpers come late, and are held up with work that they have claimed. When some pictures in a row
    took hardly less than the caller alone needs, or one took far more, the caller works alone for a while, each time
    twice as long.
    """

    def __init__(self, alone: Callable[[], object], together: Callable[[], object]) -> None:
        self._alone = alone
        self._together = together
        self._usual = float("inf")  # nanoseconds that a picture takes alone
        self._pause = _SHORTEST_PAUSE
        self._left_alone = _SHORTEST_PAUSE  # pictures still to be run alone; the first show how long that takes
        self._trials = _TRIALS
        self._process = os.getpid()

    def __call__(self) -> None:
        """Runs one inference."""
        if os.getpid() != self._process:  # after a fork nobody finishes what helpers had claimed
            self._alone()
        elif self._left_alone:
            began = time.perf_counter_ns()
            self._alone()
            self._usual = min(time.perf_counter_ns() - began, self._usual * (1 + _DRIFT))
            self._left_alone -= 1
        else:
            began = time.perf_counter_ns()
            self._together()
            self._judge((time.perf_counter_ns() - began) / self._usual)

    def _judge(self, share: float) -> None:
        """Decides from the time of a picture with helpers, as a share of that alone, whether to go on with them."""
        if share < _WORTH:
            self._trials = _TRIALS
            self._pause = max(self._pause // 2, _SHORTEST_PAUSE)
        else:
            self._trials -= 1
        if share > _BAD or not self._trials:
            self._trials = _TRIALS
            self._left_alone = self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def _stop(control: np.ndarray, threads: list[threading.Thread], keep: object) -> None:  # noqa: ARG001 (held until here)
    control[STOP] = 1
    for _ in threads:
        ctypes.CDLL(None).sem_post(_semaphore(control))
    for thread in threads:
        if thread.ident is not None:  # it was started
            thread.join()


def _semaphore(control: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(control.ctypes.data + 8 * SEMAPHORE)
