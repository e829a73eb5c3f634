"""NNI's manager stays on loopback, leaves nothing behind, and finds its port free."""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nni_node
import psutil
import pytest

from syno_nni.errors import EngineError
from syno_nni.nas.manager import check_port, end_process_tree, free_port, manager_environment, trial_interpreter

from ...testing.canary import lay_modules

NODE = Path(nni_node.__path__[0]) / 'node'
SERVER = """
const server = require('http').createServer((request, response) => response.end('here'));
server.listen(FORM, () => console.log(server.address().address, process.env.NODE_OPTIONS));
"""


def _listening_address(script: str) -> str:
    node = subprocess.Popen([NODE, '-e', script], stdout=subprocess.PIPE, text=True)
    try:
        return node.stdout.readline().strip()
    finally:
        node.kill()
        node.wait()


@pytest.mark.parametrize('form', ['PORT', "'PORT'", '{port: PORT}', "PORT, '0.0.0.0'"])
def test_servers_without_a_host_listen_on_loopback(form: str) -> None:
    script = SERVER.replace('FORM', form.replace('PORT', str(free_port())))
    assert not _listening_address(script).startswith('127.'), 'without the guard, node listens on all interfaces'
    with manager_environment():
        address = _listening_address(script)
    assert address == ('0.0.0.0 undefined' if '0.0.0.0' in form else '127.0.0.1 undefined')


def test_the_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('NODE_OPTIONS', '--no-deprecation')
    before = dict(os.environ)
    with manager_environment():
        assert os.environ['NODE_OPTIONS'].startswith('--no-deprecation --require')
        assert 'localhost' in os.environ['NO_PROXY']
    assert dict(os.environ) == before


def test_opening_the_manager_to_others_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with manager_environment('0.0.0.0'):
        pass
    assert 'without encryption' in caplog.text


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / 'manager.js').write_text("process.on('SIGTERM', () => process.exit(0)); setInterval(() => {}, 1000);")
    parent = subprocess.Popen([sys.executable, '-c', f"""
import subprocess, time
from syno_nni.nas.manager import manager_environment
with manager_environment():
    node = subprocess.Popen(['{NODE}', '{tmp_path / 'manager.js'}'], start_new_session=True)
print(node.pid, flush=True)
time.sleep(60)
"""], stdout=subprocess.PIPE, text=True)
    node = psutil.Process(int(parent.stdout.readline()))
    try:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        _wait_for(lambda: not node.is_running() or node.status() == psutil.STATUS_ZOMBIE)
    finally:
        if node.is_running():
            node.kill()


def test_a_port_in_use_is_an_error_that_helps() -> None:
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(EngineError, match=rf'port {port} cannot be used .*--port, such as \d+'):
            check_port(port)
    check_port(port)


def test_ending_a_process_tree() -> None:
    stubborn = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(1, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, '-c', f"""
import subprocess, sys
subprocess.run([sys.executable, '-c', {stubborn!r}])
"""], stdout=subprocess.PIPE, text=True)
    parent.stdout.readline()
    tree = [psutil.Process(parent.pid), *psutil.Process(parent.pid).children(recursive=True)]
    assert len(tree) == 2
    end_process_tree(parent.pid, patience_s=0.5)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in tree)
    end_process_tree(parent.pid)  # gone: no error


def _wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'waited in vain'
        time.sleep(0.05)


@pytest.mark.parametrize('words', [['-m', 'syno_nni.trial'], ['-m', 'nni', '--help'], ['-c', 'import json, numpy']])
def test_what_a_manager_starts_imports_nothing_that_lies_about(words: list[str], tmp_path: Path) -> None:
    lay_modules(tmp_path / 'here', tmp_path / 'ran')
    with manager_environment():
        done = subprocess.run([sys.executable, *words], cwd=tmp_path / 'here', capture_output=True, text=True)
    assert not (tmp_path / 'ran').exists(), done.stderr
    assert 'NNI_TRIAL_COMMAND_CHANNEL' in done.stderr or words[1] != 'syno_nni.trial', done.stderr
    assert '-P -m syno_nni.trial' in trial_interpreter()


def test_nnictl_imports_nothing_that_lies_about(tmp_path: Path) -> None:
    lay_modules(tmp_path / 'here', tmp_path / 'ran')
    done = subprocess.run([sys.executable, '-P', '-m', 'syno_nni.cli.main', 'nnictl', 'resume', 'nosuch'], text=True,
                          cwd=tmp_path / 'here', capture_output=True,
                          env={**os.environ, 'HOME': str(tmp_path), 'NNI_CONFIG_DIR': str(tmp_path / 'config')})
    assert not (tmp_path / 'ran').exists()
    assert done.returncode == 1 and 'there is no experiment' in done.stderr and 'Traceback' not in done.stderr
