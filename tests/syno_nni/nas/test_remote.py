"""Trials over SSH, on this machine: a server of the test's own, with its own port, keys and home."""
from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syno_nni.errors import ConfigError
from syno_nni.nas.manager import end_process_tree, free_port
from syno_nni.search.run import run_search

from ...testing import toy
from ...testing.searching import make_config

SSHD = shutil.which('sshd', path='/usr/sbin:/usr/local/sbin:/usr/bin')


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A machine for ``machineList``."""
    for name in ('host', 'user'):
        subprocess.run(['ssh-keygen', '-q', '-t', 'rsa', '-b', '2048', '-m', 'PEM', '-N', '', '-f', tmp_path / name],
                       check=True)
    port, home = free_port(), tmp_path / 'home'
    home.mkdir()
    (tmp_path / 'sshd_config').write_text(f"""
Port {port}
ListenAddress 127.0.0.1
HostKey {tmp_path / 'host'}
AuthorizedKeysFile {tmp_path / 'user.pub'}
PubkeyAcceptedAlgorithms +ssh-rsa
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
PidFile none
Subsystem sftp internal-sftp
SetEnv HOME={home} PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_NUM_THREADS=1 TMPDIR={tmp_path}
""")
    if os.getuid() == 0:
        Path('/run/sshd').mkdir(mode=0o755, exist_ok=True)  # as the service does; sshd wants it of root
    log = (tmp_path / 'sshd.log').open('w')
    server = subprocess.Popen([SSHD, '-D', '-e', '-f', tmp_path / 'sshd_config'], stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 10
        while not _listens(port):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f'sshd does not start here: {(tmp_path / "sshd.log").read_text()[-300:]}')
            time.sleep(0.05)
        yield {'host': '127.0.0.1', 'port': port, 'user': getpass.getuser(), 'sshKeyFile': str(tmp_path / 'user'),
               'pythonPath': str(Path(sys.executable).parent)}
    finally:
        end_process_tree(server.pid)
        log.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(('127.0.0.1', port)) == 0


@pytest.mark.nni
@pytest.mark.slow
@pytest.mark.skipif(SSHD is None or shutil.which('ssh-keygen') is None, reason='needs openssh-server')
def test_a_search_over_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: dict[str, Any]) -> None:
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: toy.ToySpace())
    port = free_port()
    config = make_config(engine='remote', port=port, maxTrialNumber=1, trialConcurrency=2, machineList=[machine])
    state = run_search(config, tmp_path / 'run', tell=lambda line: None)
    assert [c.status for c in state.candidates.values()] == ['succeeded'] * 2
    kept, operator = state.candidates.values()
    assert operator.metrics['params'] < kept.metrics['params'], 'each trial got its own parameters'
    assert len(operator.curve) == 1, 'intermediate results arrive'
    assert list((tmp_path / 'home' / 'nni-experiments').iterdir()), 'it ran over there'
    assert not _listens(port)


def test_what_is_missing_is_said_before_anything_is_changed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='engine: remote needs machineList'):
        make_config(engine='remote')
    with pytest.raises(ConfigError, match=r"unknown key 'machineList.0.sshKey'; did you mean 'sshKeyFile'"):
        make_config(engine='remote', machineList=[{'host': 'a', 'user': 'b', 'sshKey': 'c'}])
    config = make_config(engine='remote', port=free_port(), machineList=[{'host': 'a', 'user': 'b', 'sshKeyFile': 'nowhere'}])
    with pytest.raises(ConfigError, match='no SSH key nowhere for b@a'):
        run_search(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
