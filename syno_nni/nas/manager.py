"""Starting and stopping NNI's manager safely: on a free port, on loopback only, and never left behind."""
from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources

import psutil

from syno_nni.errors import EngineError

_log = logging.getLogger(__name__)

LOOPBACK = '127.0.0.1'
START_PATIENCE_S = 40


def check_port(port: int) -> None:
    """Raise :class:`EngineError` unless this process can listen on ``port``."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do it: connections of an earlier server that are still closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise EngineError(f'port {port} cannot be used ({error.strerror}): stop what listens there, or choose '
                              f'another one with --port, such as {free_port()}') from None


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


@contextmanager
def manager_environment(host: str = LOOPBACK, *, detached: bool = False) -> Iterator[None]:
    """The environment in which to start NNI's manager: it listens on ``host`` only and, unless ``detached``, ends with
    this process.

    Any other host than loopback opens the machine: NNI's manager has no authentication, and its protocol runs code.
    """
    if host != LOOPBACK:
        _log.warning('the NNI manager listens on %s without authentication: whoever reaches it can run code as %s',
                     host, os.environ.get('USER', 'this user'))
    guard = resources.files(__package__).joinpath('manager_guard.js')
    path = str(guard).replace('\\', '\\\\').replace('"', '\\"')
    changes = {
        'NODE_OPTIONS': f'{os.environ.get("NODE_OPTIONS", "")} --require "{path}"'.strip(),
        'SYNO_NNI_BIND': host,
        'SYNO_NNI_PARENT': '' if detached else str(os.getpid()),
        # NNI talks to its manager with a client that honours proxy settings, even for localhost.
        'NO_PROXY': ','.join(filter(None, [os.environ.get('NO_PROXY'), 'localhost', LOOPBACK])),
        'no_proxy': ','.join(filter(None, [os.environ.get('no_proxy'), 'localhost', LOOPBACK])),
        # Trials import torch; without this they would buffer what they print until they end.
        'PYTHONUNBUFFERED': '1',
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def wait_for_manager() -> None:
    """Make NNI wait longer for its manager to start, in this process: it gives up after three seconds, and node takes
    longer than that on a busy machine."""
    from nni.experiment import launcher
    launcher._check_rest_server.__defaults__ = (START_PATIENCE_S, None)


def end_process_tree(pid: int, patience_s: float = 5.0) -> None:
    """Terminate a process and its descendants; kill those that are still there after ``patience_s`` seconds."""
    try:
        root = psutil.Process(pid)
        processes = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        _signal(process, 'terminate')
    _, alive = psutil.wait_procs(processes, patience_s)
    for process in alive:
        _signal(process, 'kill')
    psutil.wait_procs(alive, patience_s)


def _signal(process: psutil.Process, how: str) -> None:
    try:
        getattr(process, how)()
    except psutil.NoSuchProcess:
        pass


def trial_interpreter() -> str:
    """What NNI's trial command runs in place of ``python``: our launcher."""
    import shlex
    return f'{shlex.quote(sys.executable)} -m syno_nni.nas.launch'
