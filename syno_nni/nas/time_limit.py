"""A time limit for code in this process."""
from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from syno_nni.errors import EngineError

_AGAIN_S = 5.0
# An exception is lost where Python swallows all of them, such as in a destructor; then the next alarm must do.


class TrialTimeout(EngineError):
    """An evaluation took longer than it may."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise :class:`TrialTimeout` in the block once ``seconds`` are over; None means no limit.

    The exception comes between two steps of Python, so one library call that hangs is not interrupted. Outside the
    main thread, and where there are no alarm signals, nothing is limited: NNI's manager then ends the trial.
    """
    possible = hasattr(signal, 'setitimer') and threading.current_thread() is threading.main_thread()
    if seconds is None or not possible:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TrialTimeout(f'stopped after the {seconds:g} s that a trial may take; maxTrialDuration raises the limit')

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
