"""Signals that ask a search to stop end it by a KeyboardInterrupt, but never between two steps that belong together."""
from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_IF_DEFAULT = tuple(getattr(signal, name) for name in ('SIGHUP', 'SIGUSR1', 'SIGUSR2') if hasattr(signal, name))
"""Batch systems announce the end of a job's time by one of these, a terminal that is closed by SIGHUP. Handled only where
they would end the process: nohup has it ignore SIGHUP, and a program around may have handlers of its own."""

_blocks = 0
_depth = 0
_pending: int | None = None
_interrupted = False


@contextmanager
def interruptible() -> Iterator[None]:
    """In the block SIGTERM and other requests to stop do what SIGINT does. NNI's engines treat a KeyboardInterrupt as the
    user's wish, and any other exception as a failure of the trial. Further signals are ignored: what follows is only
    being stopped, which is bounded in time. Blocks may be nested; outside the main thread nothing changes."""
    global _interrupted, _blocks
    if not _in_main_thread():
        yield
        return
    if not _blocks:
        _interrupted = False
    _blocks += 1
    numbers = [signal.SIGINT, signal.SIGTERM, *(n for n in _IF_DEFAULT
                                                if signal.getsignal(n) in (signal.SIG_DFL, _interrupt))]
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        _blocks -= 1
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def shielded() -> Iterator[None]:
    """Within :func:`interruptible`, hold interrupts back until the end of the block."""
    global _depth, _pending
    if not _in_main_thread():
        yield
        return
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0 and _pending is not None:
            number, _pending = _pending, None
            raise KeyboardInterrupt(signal.Signals(number).name)


def stop_if_asked() -> None:
    """Raise KeyboardInterrupt where one was asked for in this block and got lost: Python drops an exception that a signal
    raises within a destructor or a callback of a weak reference. Called between steps that take long."""
    if _interrupted and _blocks and not _depth and _in_main_thread():
        raise KeyboardInterrupt('asked to stop')


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _pending, _interrupted
    if _interrupted:
        return
    _interrupted = True
    if _depth:
        _pending = number
    else:
        raise KeyboardInterrupt(signal.Signals(number).name)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
