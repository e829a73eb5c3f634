"""Time limits and interrupts."""
from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from syno_nni.nas.signals import interruptible, shielded
from syno_nni.nas.time_limit import TrialTimeout, time_limit


def test_it_stops_what_takes_too_long() -> None:
    with pytest.raises(TrialTimeout, match='0.05 s'), time_limit(0.05):
        while True:
            time.sleep(0.01)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_exception_that_python_swallows_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Swallows:
        def __del__(self) -> None:
            time.sleep(0.1)

    monkeypatch.setattr('sys.unraisablehook', lambda unraisable: None)
    monkeypatch.setattr('syno_nni.nas.time_limit._AGAIN_S', 0.1)
    with pytest.raises(TrialTimeout), time_limit(0.05):
        Swallows()
        time.sleep(5)


def test_it_leaves_the_rest_alone() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(30):
        pass
    with time_limit(None):
        pass
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_another_thread_is_not_limited() -> None:
    done = threading.Event()

    def work() -> None:
        with time_limit(0.01):
            time.sleep(0.05)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done.is_set()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM], ids=str)
def test_interrupts_wait_for_what_belongs_together(number: signal.Signals) -> None:
    before, done = signal.getsignal(number), []
    with pytest.raises(KeyboardInterrupt, match=number.name), interruptible():
        with shielded():
            with shielded():
                os.kill(os.getpid(), number)
                time.sleep(0.05)
                done.append('inner')
            done.append('outer')
        done.append('too far')
    assert done == ['inner', 'outer']
    assert signal.getsignal(number) is before
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            os.kill(os.getpid(), number)
            time.sleep(0.05)
        finally:
            os.kill(os.getpid(), number)
            time.sleep(0.05)
            done.append('stopped in peace')
    assert done[-1] == 'stopped in peace'
