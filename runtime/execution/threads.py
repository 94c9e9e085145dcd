"""Threads that help with an inference: they wait inside compiled code, without Python's lock, and share its kernels."""

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np

from runtime.abi import CHUNKS, CONTROL, OPEN, SEMAPHORE, SPIN, STOP, THREADS, aligned_buffer

_CHUNKS_A_THREAD = 2  # of each kernel: more make up for a thread that was held up, and cost more claims
_SPIN_NS = 60_000  # a helper looks out for the next picture that long before it sleeps
_WORTH, _BAD = 0.9, 3.0  # of the time alone: with helpers it should take less than the one, never more than the other
_TRIAL = 4  # pictures in a row that are not worth it before helpers are left alone; the first finds them asleep
_PAUSE = 8, 512  # pictures they are left alone for, the first time and at most
_DRIFT = 1 / 16  # by which a time alone may be exceeded before it counts as the usual one


def control_block(threads: int) -> np.ndarray:
    """int64 [CONTROL], aligned: what `threads` threads, one of them the caller, share."""
    control = aligned_buffer(CONTROL, np.int64)
    control[OPEN], control[SPIN] = -1, _SPIN_NS
    control[THREADS], control[CHUNKS] = threads, _CHUNKS_A_THREAD * threads
    ctypes.CDLL(None).sem_init(_semaphore(control), 0, 0)
    return control


class Helpers:
    """Threads beside the calling one; they end with `close`, with the last reference, or with the process.

    A process made by fork has no helpers; there the caller does everything alone.
    """

    def __init__(self, count: int, control: np.ndarray, serve: Callable[[], None], keep: object):
        """serve(): the compiled function in which each of `count` helpers spends its life. keep: what it needs."""
        threads = [threading.Thread(target=serve, name="bitgrade-helper", daemon=True) for _ in range(count)]
        self.close = weakref.finalize(self, _stop, control, threads, keep)
        for thread in threads:
            thread.start()


class Pace:
    """Runs one variant's inferences with helpers where that pays, and alone where it does not.

    On busy processors helpers come late, and are held up with work they have claimed. When some pictures took hardly
    less than the caller alone needs, or one took far more, the caller works alone for a while, each time twice as long.
    """

    def __init__(self, alone: Callable[[], None], together: Callable[[], None]):
        self._ways, self._usual = (alone, together), float("inf")
        self._left, self._pause = _PAUSE[0], _PAUSE[0]  # the first pictures show how long it takes alone
        self._trials, self._process = _TRIAL, os.getpid()

    def __call__(self) -> None:
        """One inference."""
        alone, together = self._ways
        if os.getpid() != self._process:  # after a fork nobody finishes what helpers had claimed
            alone()
            return
        began = time.perf_counter_ns()
        if self._left:
            alone()
            self._usual = min(time.perf_counter_ns() - began, self._usual * (1 + _DRIFT))
            self._left -= 1
            return
        together()
        took = (time.perf_counter_ns() - began) / self._usual
        if took < _WORTH:
            self._trials, self._pause = _TRIAL, max(self._pause // 2, _PAUSE[0])
        else:
            self._trials -= 1
        if took > _BAD or not self._trials:
            self._trials, self._left, self._pause = _TRIAL, self._pause, min(2 * self._pause, _PAUSE[1])


def _stop(control: np.ndarray, threads: list[threading.Thread], keep: object) -> None:
    control[STOP] = 1
    for _ in threads:
        ctypes.CDLL(None).sem_post(_semaphore(control))
    for thread in threads:
        if thread.ident is not None:  # it was started
            thread.join()


def _semaphore(control: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(control.ctypes.data + 8 * SEMAPHORE)
