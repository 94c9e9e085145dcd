"""Lets one inference of an engine through at a time, also beside signal handlers and after forks."""

import os
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class _Turn:
    """One process's lock, and the thread whose work is under way."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.thread: int | None = None


class Turns:
    """Serializes work of several threads; a signal handler amid that work may end it, but not start more."""

    def __init__(self) -> None:
        self._by_process: dict[int, _Turn] = {}

    def take(self, work: Callable[[], Result]) -> Result:
        """Returns what `work` returns, once no other thread is at work.

        Raises RuntimeError within work of the same thread, where waiting would never end.
        """
        turn = self._turn()
        if turn.thread == threading.get_ident():
            raise RuntimeError(
                "expected the inference under way to end first, got another one in the same thread, as from a signal "
                "handler; only `close` may be called there"
            )
        with turn.lock:
            try:
                turn.thread = threading.get_ident()
                return work()
            finally:
                turn.thread = None

    def interrupt(self, work: Callable[[], None]) -> None:
        """Does `work` once no other thread is at work; at once within work of the same thread."""
        with self._turn().lock:
            work()

    def _turn(self) -> _Turn:
        """This process's turn: after a fork, the parent's lock may be held forever by a thread that the child lacks."""
        return self._by_process.setdefault(os.getpid(), _Turn())
