"""One inference at a time: other threads wait, the same thread is told, and closing never hangs."""

import os
import signal
import threading

import numpy as np
import pytest

from runtime import Engine
from runtime.execution.turns import Turns


def test_work_within_work_of_the_same_thread_is_refused_and_the_turn_ends():
    turns = Turns()
    for _ in range(2):  # the refusal leaves nothing behind
        with pytest.raises(RuntimeError, match="in the same thread, as from a signal handler; only `close`"):
            turns.take(lambda: turns.take(lambda: 1))
    assert turns.take(lambda: 2) == 2


def test_interrupting_is_at_once_in_the_same_thread_and_waits_for_others():
    turns, order = Turns(), []

    def work():
        turns.interrupt(lambda: order.append("closed"))
        order.append("done")

    turns.take(work)
    assert order == ["closed", "done"]
    entered, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=turns.take, args=(lambda: (entered.set(), leave.wait(), order.append("other")),))
    thread.start()
    entered.wait()
    closing = threading.Thread(target=turns.interrupt, args=(lambda: order.append("after"),))
    closing.start()
    leave.set()
    thread.join()
    closing.join()
    assert order == ["closed", "done", "other", "after"]


@pytest.fixture
def amid(small_bundle):
    """Runs a function in a signal handler at the point where an engine has its picture and calls its code."""
    engine = Engine(small_bundle)
    before = signal.getsignal(signal.SIGTERM)

    def run(handler):
        signal.signal(signal.SIGTERM, lambda *_: handler(engine))
        code = engine._loaded._runs["w8a8"]
        engine._loaded._runs["w8a8"] = lambda: (os.kill(os.getpid(), signal.SIGTERM), code())
        return engine.logits(np.zeros((16, 16, 3), np.uint8), "w8a8")

    yield engine, run
    signal.signal(signal.SIGTERM, before)
    engine.close()


def test_a_handler_closes_an_engine_amid_an_inference(amid):
    engine, run = amid
    expected = engine.logits(np.zeros((16, 16, 3), np.uint8), "w8a8")
    np.testing.assert_array_equal(run(lambda engine: engine.close()), expected)
    with pytest.raises(ValueError, match="this one was closed"):
        engine.infer(np.zeros((16, 16, 3), np.uint8))


def test_a_handler_that_infers_is_told_so(amid):
    engine, run = amid
    errors = []

    def handler(engine):
        try:
            engine.infer(np.zeros((16, 16, 3), np.uint8))
        except RuntimeError as error:
            errors.append(str(error))

    run(handler)
    assert len(errors) == 1 and "expected the inference under way to end first" in errors[0]
    engine._loaded._runs = dict(engine._loaded._calls)
    engine.infer(np.zeros((16, 16, 3), np.uint8))


def test_a_handler_that_raises_leaves_the_engine_free(amid):
    engine, run = amid

    def handler(engine):
        raise KeyError("out of here")

    with pytest.raises(KeyError):
        run(handler)
    engine._loaded._runs = dict(engine._loaded._calls)
    engine.infer(np.zeros((16, 16, 3), np.uint8))
