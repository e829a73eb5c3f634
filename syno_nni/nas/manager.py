"""Starting and stopping NNI's manager safely: on a free port, on loopback only, for its owner alone, and never left behind.

The rules that a running manager keeps are in ``manager_guard.js``.
"""
from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import psutil

from syno_nni.errors import EngineError, shown
from syno_nni.text import one_line

from .patches import TUNER_PATIENCE_S, check_version

_log = logging.getLogger(__name__)

LOOPBACK = '127.0.0.1'
OLDEST_NODE = (18, 15)
"""What the manager's own package asks for."""
_NODE_PATIENCE_S = 60


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


def check_node() -> None:
    """Raise :class:`EngineError` unless the node that comes with NNI runs here, and is one that its manager can run on."""
    import nni_node
    node = Path(next(iter(nni_node.__path__), '')) / ('node.exe' if sys.platform == 'win32' else 'node')
    advice = ('pip install --force-reinstall nni brings it again; `engine: sequential` (or --engine sequential) searches '
              'without it')
    try:
        done = subprocess.run([node, '--version'], capture_output=True, text=True, errors='replace', timeout=_NODE_PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise EngineError(f"NNI's manager needs {node}, which does not answer; {advice}") from None
    except OSError as error:
        raise EngineError(f"NNI's manager needs {node}, which cannot be run: {error.strerror}; {advice}") from None
    if done.returncode:
        why = one_line(done.stderr)[:200]
        raise EngineError(f"NNI's manager needs {node}, which ends with status {done.returncode}{f': {why}' if why else ''}; "
                          f'{advice}')
    version = re.match(r'v(\d+)\.(\d+)\.', done.stdout)
    if version is None or tuple(map(int, version.groups())) < OLDEST_NODE:
        raise EngineError(f"NNI's manager needs node {'.'.join(map(str, OLDEST_NODE))} or newer, and {node} is "
                          f'{shown(done.stdout.strip())}; {advice}')


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


@contextmanager
def manager_environment(host: str = LOOPBACK, *, detached: bool = False, names: Sequence[str] = ()) -> Iterator[str]:
    """The environment in which to start NNI's manager, and the token that its addresses need: it listens on ``host`` only,
    answers its owner only, finds the trials' interpreter, and, unless ``detached``, ends with this process.

    The token is the only secret between the manager and other users of the machine. It travels in the environment and in
    private files, never on a command line.

    Args:
        names: further names of this machine that a request may ask for.

    Raises:
        EngineError: this NNI is none that the guard was made for.
    """
    check_version()
    if host not in (LOOPBACK, 'localhost', '::1'):
        _log.warning('the NNI manager listens on %s without encryption: whoever reads its traffic can take the token from it '
                     'and run code as %s; an SSH tunnel to a manager on loopback is safer (docs/search.md)', host,
                     os.environ.get('USER', 'this user'))
    guard = resources.files(__package__).joinpath('manager_guard.js')
    path = str(guard).replace('\\', '\\\\').replace('"', '\\"')
    token = secrets.token_hex(16)
    changes = {
        'NODE_OPTIONS': f'{os.environ.get("NODE_OPTIONS", "")} --require "{path}"'.strip(),
        'SYNO_NNI_BIND': host,
        'SYNO_NNI_HOSTS': ','.join((*names, host)),
        'SYNO_NNI_TOKEN': token,
        'SYNO_NNI_PATIENCE': str(TUNER_PATIENCE_S),
        'SYNO_NNI_PARENT': '' if detached else str(os.getpid()),
        # Started without activating its environment, `python` of a trial command would be another one or none.
        'PATH': os.pathsep.join(filter(None, [str(Path(sys.executable).parent), os.environ.get('PATH')])),
        # NNI talks to its manager with a client that honours proxy settings, even for localhost.
        'NO_PROXY': ','.join(filter(None, [os.environ.get('NO_PROXY'), 'localhost', LOOPBACK])),
        'no_proxy': ','.join(filter(None, [os.environ.get('no_proxy'), 'localhost', LOOPBACK])),
        # Nor would `python -m` of trials and tuner take modules from the folder that they run in, which may be anybody's.
        'PYTHONSAFEPATH': '1',
        # Trials import torch; without this they would buffer what they print until they end.
        'PYTHONUNBUFFERED': '1',
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield token
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


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
    """What NNI's trial command runs in place of ``python``: our trial. What follows in the command is ignored."""
    import shlex
    return f'{shlex.quote(sys.executable)} -P -m syno_nni.trial'
