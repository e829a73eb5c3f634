"""One measurement at a time on a machine: two at once would time each other."""
from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing to lock with, and the noise flag has to do
    fcntl = None  # type: ignore[assignment]

_held = threading.local()
_log = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""Seconds to wait for others. A long benchmark beside a search must not stop it for good."""


def lock_path() -> Path:
    """The lock file of this user's measurements on this machine."""
    user = os.getuid() if hasattr(os, 'getuid') else 'user'
    return Path(tempfile.gettempdir()) / f'syno-nni-{user}-measure.lock'


@contextmanager
def measurement_lock(patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Wait for other measurements of this user to end, and keep new ones waiting.

    After ``patience_s`` seconds it goes on all the same, with a warning: a disturbed measurement calls itself noisy.
    The same where nothing can be locked: a full or foreign folder for temporary files, a file system without locks.
    The system frees the lock at any kind of exit. A thread that holds it may take it again.
    """
    if fcntl is None or getattr(_held, 'by_this_thread', False):
        yield
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_open(lock_path()))
            _acquired(file)
        except OSError as error:  # another user was there first, there is no room, or no lock to be had
            _log.warning('cannot lock %s (%s): measuring without knowing of others', lock_path(), error.strerror or error)
            yield
            return
        deadline = time.monotonic() + patience_s
        while not _acquired(file):
            if time.monotonic() > deadline:
                _log.warning('another measurement has held %s for %g s: measuring beside it', lock_path(), patience_s)
                break
            time.sleep(0.05)
        _held.by_this_thread = True
        try:
            yield
        finally:
            _held.by_this_thread = False


def _open(path: Path) -> IO[bytes]:
    """For this user alone: whoever could open it could hold it. Follows no link and waits for no pipe that others left in a
    folder that all share."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    return os.fdopen(os.open(path, flags, 0o600), 'rb')


def _acquired(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
