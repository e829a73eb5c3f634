"""One measurement at a time on a machine: two at once would time each other."""
from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing to lock with, and the noise flag has to do
    fcntl = None  # type: ignore[assignment]


def lock_path() -> Path:
    """The lock file of this user's measurements on this machine."""
    user = os.getuid() if hasattr(os, 'getuid') else 'user'
    return Path(tempfile.gettempdir()) / f'syno-nni-{user}-measure.lock'


@contextmanager
def measurement_lock() -> Iterator[None]:
    """Wait for other measurements of this user to end, and keep new ones waiting; the system frees it at any exit."""
    if fcntl is None:
        yield
        return
    with lock_path().open('a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
