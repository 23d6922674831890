"""Stopping politely, where the program goes on afterwards: a notebook, a script of one's own."""

from __future__ import annotations

import signal
import threading

import pytest

from personaspace import interrupt
from personaspace.errors import Interrupted


def test_signals_are_caught_for_a_while_only() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted), interrupt.caught():
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.asked()
        interrupt.check()
    assert signal.getsignal(signal.SIGTERM) is before and not interrupt.asked()
    with interrupt.caught():  # another run begins
        interrupt.check()


def test_a_signal_that_nobody_looked_for_is_not_lost() -> None:
    reached = []
    with pytest.raises(Interrupted), interrupt.caught():
        signal.raise_signal(signal.SIGINT)
        reached.append("end")
    assert reached == ["end"]


def test_an_error_stays_that_error() -> None:
    with pytest.raises(KeyError), interrupt.caught():
        signal.raise_signal(signal.SIGINT)
        raise KeyError("x")
    assert not interrupt.asked()


def test_in_another_thread_nothing_changes() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with interrupt.caught():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
