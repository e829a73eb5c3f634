"""SIGINT, SIGTERM and SIGHUP end a search by a KeyboardInterrupt, but never between two steps that belong together."""
from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_blocks = 0
_depth = 0
_pending: int | None = None
_interrupted = False


@contextmanager
def interruptible() -> Iterator[None]:
    """In the block SIGTERM does what SIGINT does, and so does SIGHUP, of a terminal that closes, unless it is ignored
    (``nohup``). NNI's engines treat a KeyboardInterrupt as the user's wish, and any other exception as a failure of the
    trial. Further signals are ignored: what follows is only being stopped, which is bounded in time. Blocks may be nested;
    outside the main thread nothing changes."""
    global _interrupted, _blocks
    if not _in_main_thread():
        yield
        return
    if not _blocks:
        _interrupted = False
    _blocks += 1
    ending = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, 'SIGHUP') and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        ending.append(signal.SIGHUP)
    before = {number: signal.signal(number, _interrupt) for number in ending}
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
