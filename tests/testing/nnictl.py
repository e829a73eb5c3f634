"""NNI's command line as a user starts it: a home of its own, and no activated environment."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from syno_nni.nas.manager import end_process_tree
from syno_nni.nas.patches import token_in

SCRIPTS = Path(sys.executable).parent
COMMANDS = {'nnictl': [str(SCRIPTS / 'nnictl')], 'syno-nni nnictl': [str(SCRIPTS / 'syno-nni'), 'nnictl']}


@contextmanager
def own_home(home: Path) -> Iterator[dict[str, str]]:
    """An environment whose NNI files go to ``home``; the processes that are left in it are ended."""
    home.mkdir(parents=True, exist_ok=True)
    left_out = ('VIRTUAL_ENV', 'PYTHONPATH', 'NODE_OPTIONS')
    environment = {**{k: v for k, v in os.environ.items() if k not in left_out}, 'HOME': str(home), 'TMPDIR': str(home),
                   'NNI_CONFIG_DIR': str(home / 'config'), 'PATH': '/usr/bin:/bin', 'OMP_NUM_THREADS': '1'}
    try:
        yield environment
    finally:
        for process in psutil.process_iter(['environ']):
            if (process.info['environ'] or {}).get('NNI_CONFIG_DIR') == environment['NNI_CONFIG_DIR']:
                end_process_tree(process.pid)


def run(environment: dict[str, str], command: str, *words: str, status: int = 0) -> str:
    """The output of a command that ends with ``status``."""
    done = subprocess.run([*COMMANDS[command], *words], env=environment, cwd=environment['HOME'], capture_output=True,
                          text=True, timeout=200)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def get(port: int, path: str, token: str = '') -> Any:
    """What the manager answers, with its token or without."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    prefix = f'/{token}' if token else ''
    with opener.open(f'http://127.0.0.1:{port}{prefix}/api/v1/nni/{path}', timeout=20) as response:
        return json.load(response)


def experiment(home: Path) -> tuple[str, Path, str]:
    """Id, directory and token of the newest experiment."""
    root = max((p for p in (home / 'nni-experiments').iterdir() if p.is_dir() and not p.is_symlink()),
               key=lambda p: p.stat().st_mtime)
    return root.name, root, token_in(root)


def logs(root: Path) -> str:
    """The ends of an experiment's logs."""
    return '\n'.join(f'{path}: {path.read_text()[-3000:]}' for path in root.rglob('*')
                     if path.name in ('trial.stderr', 'dispatcher.log', 'nnictl_stderr.log', 'nnimanager.log'))


def wait_until(condition: Any, root: Path | None = None, seconds: float = 240.0) -> Any:
    """Poll until ``condition`` holds, and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, 'waited in vain' + (f'\n{logs(root)}' if root else '')
        time.sleep(0.5)
    return value


def listens(port: int) -> bool:
    """Whether anything listens on a port."""
    return any(c.laddr.port == port and c.status == 'LISTEN' for c in psutil.net_connections('tcp'))
