"""NNI's manager beside web pages, rebound names, forms and other users: it answers its owner only."""
from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nni_node
import psutil
import pytest

from syno_nni.nas.manager import end_process_tree, free_port, manager_environment
from syno_nni.nas.patches import token_in
from syno_nni.run.journal import read_journal

from ...testing import attacks
from ...testing.browser import CHROMIUM, open_browser, rest_needs_chromium

NODE = Path(nni_node.__path__[0])
PROGRAM = Path(__file__).parents[2] / 'testing' / 'searching.py'


@dataclass
class Manager:
    port: int
    token: str
    root: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.root / 'log' / 'nnimanager.log').read_text()


@contextmanager
def _manager(directory: Path) -> Iterator[Manager]:
    """NNI's manager as it is before it gets an experiment."""
    port = free_port()
    with manager_environment() as token:
        process = subprocess.Popen(
            [NODE / 'node', NODE / 'main.js', '--port', str(port), '--experiment-id', 'x', '--action', 'create',
             '--log-level', 'info', '--experiments-directory', directory, '--python-interpreter', sys.executable,
             '--mode', 'local'], cwd=NODE, stdout=subprocess.DEVNULL, start_new_session=True)
    manager = Manager(port, token, directory / 'x', process)
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(('127.0.0.1', port)) == 0:
                    break
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        while 'INITIALIZED' not in _get(port, f'/{token}/api/v1/nni/check-status'):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield manager
    finally:
        end_process_tree(process.pid)


def _get(port: int, path: str) -> str:
    return attacks.send(port, 'GET', path, [('Host', f'localhost:{port}')])[1]


@pytest.fixture(scope='module')
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    with _manager(tmp_path_factory.mktemp('nni')) as it:
        yield it


def test_the_owner_is_answered(manager: Manager) -> None:
    here, path = f'localhost:{manager.port}', f'/{manager.token}/api/v1/nni/check-status'
    own = [[('Host', here), header] for header in (
        ('Origin', f'http://{here}'), ('Sec-Fetch-Site', 'same-origin'), ('Sec-Fetch-Site', 'none'),
        ('Referer', f'http://{here}/{manager.token}/oview'))]
    for headers in (*own, *([('Host', host)] for host in (here, '127.0.0.1:9999', 'LOCALHOST', '[::1]:80', '127.5.6.7'))):
        assert attacks.send(manager.port, 'GET', path, headers)[0] == 200, headers
    for path in ('', '/', '/oview', '?x'):
        assert attacks.send(manager.port, 'GET', f'/{manager.token}{path}', [('Host', here)])[0] in (200, 301), path
    assert attacks.websocket_opens(manager.port, f'/{manager.token}/tuner/probe', None, None)


def test_nobody_else_is(manager: Manager, tmp_path: Path) -> None:
    count = 0
    for sent, status, text in attacks.refused_requests(manager.port, manager.token, 'abcde', tmp_path / 'canary'):
        assert status in (0, 400, 403, 405, 413, 415), (sent, status, text)
        assert manager.token not in text, sent
        count += 1
    assert count > 500
    for origin, host in ((None, None), ('http://evil.example', None), ('null', None), (None, 'evil.example')):
        for prefix in ('', '/' + '0' * 32):
            assert not attacks.websocket_opens(manager.port, f'{prefix}/tuner/x', origin, host)
        if origin or host:
            assert not attacks.websocket_opens(manager.port, f'/{manager.token}/tuner/x', origin, host)
    huge = [('Host', f'localhost:{manager.port}'), ('Content-Type', 'application/json'), ('Content-Length', str(10 ** 12))]
    with socket.create_connection(('127.0.0.1', manager.port), timeout=20) as raw:
        raw.sendall(f'POST /{manager.token}/api/v1/nni/trial-jobs HTTP/1.1\r\n'.encode()
                    + b''.join(f'{k}: {v}\r\n'.encode() for k, v in huge) + b'\r\n')
        assert raw.recv(100).startswith(b'HTTP/1.1 413')
    assert manager.process.poll() is None
    assert 'WARNING (guard) refused' in manager.log and manager.log.count('(guard)') <= 400, 'logged, but not without end'


def test_requests_that_no_library_sends(manager: Manager, tmp_path: Path) -> None:
    count = 0
    for request in attacks.raw_requests(manager.port, manager.token, tmp_path / 'canary'):
        statuses = attacks.answers(manager.port, request)
        assert all(status >= 400 or status == 100 for status in statuses), (request[:300], statuses)
        count += 1
    assert count > 120 and manager.process.poll() is None and not (tmp_path / 'canary').exists()
    owner = f'GET /{manager.token}/api/v1/nni/check-status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'
    assert attacks.answers(manager.port, owner.encode()) == [200]


def test_a_body_without_an_end_is_not_kept(manager: Manager) -> None:
    """Sent in pieces, it has no length that could be refused at once."""
    before, taken = psutil.Process(manager.process.pid).memory_info().rss, []
    for token in ('0' * 32, manager.token):
        head = (f'POST /{token}/api/v1/nni/trial-jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n'
                'Transfer-Encoding: chunked\r\n\r\n')
        taken.append(0)
        with socket.create_connection(('127.0.0.1', manager.port), timeout=30) as raw:
            try:
                raw.sendall(head.encode())
                while taken[-1] < 200:  # MiB
                    raw.sendall(b'100000\r\n' + b'x' * (1 << 20) + b'\r\n')
                    taken[-1] += 1
            except OSError:
                pass
    assert taken[0] < 32, 'nobody who lacks the token gets to send it'
    assert psutil.Process(manager.process.pid).memory_info().rss < before + (200 << 20)
    assert manager.process.poll() is None


def test_other_users_do_not_see_the_token(manager: Manager) -> None:
    assert len(manager.token) == 32 and token_in(manager.root) == manager.token
    assert manager.token not in ' '.join(psutil.Process(manager.process.pid).cmdline())
    assert stat.S_IMODE(manager.root.stat().st_mode) == 0o700
    assert stat.S_IMODE((manager.root / '.token').stat().st_mode) == 0o600


def test_a_prefix_of_the_users_own_is_kept(tmp_path: Path) -> None:
    port = free_port()
    with manager_environment() as token:
        process = subprocess.Popen(
            [NODE / 'node', NODE / 'main.js', '--port', str(port), '--experiment-id', 'x', '--action', 'create',
             '--log-level', 'info', '--experiments-directory', tmp_path, '--python-interpreter', sys.executable,
             '--url-prefix', 'mine'], cwd=NODE)
    try:
        deadline = time.monotonic() + 60
        while (status := _status(port, f'/mine/{token}/api/v1/nni/check-status')) != 200:
            assert time.monotonic() < deadline, status
            time.sleep(0.2)
        assert _status(port, '/mine/api/v1/nni/check-status') == 403
    finally:
        end_process_tree(process.pid)


def _status(port: int, path: str) -> int | None:
    try:
        return attacks.send(port, 'GET', path, [('Host', 'localhost')])[0]
    except OSError:
        return None


@contextmanager
def _website(text: str) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header('Content-Type', 'text/html')
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def _visit(directory: Path, port: int, token: str, trial: str, canary: Path) -> None:
    """A person's browser shows a page of another origin, by several names, which attacks the manager."""
    with _website(attacks.page(port, token, trial, canary)) as site, \
            open_browser(directory, '--host-resolver-rules=MAP *.example 127.0.0.1', '--disable-popup-blocking') as browser:
        for name in ('evil.example', 'localhost'):
            browser.go(f'http://{name}:{site}/')
            browser.wait(lambda: browser.js('document.title') == 'attacked', 120)
            done = browser.js('done')
            assert len(done) > 50 and set(done) <= {'error', 'opaque', 'refused'}, set(done)
        browser.go(f'http://rebound.example:{port}/{token}/oview')  # the name now leads to the manager
        assert 'the Host is not this machine' in browser.wait_for('Host')


@pytest.mark.skipif(not CHROMIUM, reason='needs chromium: this test looks at what a real browser lets a page do')
def test_a_page_in_a_browser_gets_nowhere(manager: Manager, tmp_path: Path) -> None:
    _visit(tmp_path, manager.port, manager.token, 'abcde', tmp_path / 'canary')
    assert manager.process.poll() is None
    assert 'INITIALIZED' in _get(manager.port, f'/{manager.token}/api/v1/nni/check-status')


@pytest.mark.nni
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    port, canary, run = free_port(), tmp_path / 'canary', tmp_path / 'run'
    with (tmp_path / 'out.txt').open('w') as out:
        search = subprocess.Popen([sys.executable, PROGRAM, run, 'new', 'local', str(port), '2', '0.5'], stdout=out,
                                  stderr=subprocess.STDOUT)
    try:
        def state() -> Any:
            assert search.poll() is None, (tmp_path / 'out.txt').read_text()
            return read_journal(run / 'journal.jsonl') if (run / 'journal.jsonl').exists() else None

        _until(lambda: (now := state()) and 'baseline' in now.candidates)
        root = (run / 'nni' / '_latest').resolve()
        token, owner = token_in(root), [('Host', f'localhost:{port}')]

        def trials() -> Any:
            assert search.poll() is None, (tmp_path / 'out.txt').read_text()
            status, text = attacks.send(port, 'GET', f'/{token}/api/v1/nni/trial-jobs', owner)
            return [t for t in json.loads(text) if t['status'] == 'RUNNING'] if status == 200 else []

        trial = _until(trials)[0]['trialJobId']
        for sent, status, text in attacks.refused_requests(port, token, trial, canary):
            assert status in (0, 400, 403, 405, 413, 415), (sent, status, text)
        assert not attacks.websocket_opens(port, '/tuner/x', None, None, {'type': 'TR', 'content': '{}'})
        # A trial gone mad: it has the token, and reports what it should not.
        made = {'__symbol__': 'path:os.system', '__args__': [f'touch {canary}']}
        good = {'parameter_id': 0, 'trial_job_id': trial, 'type': 'PERIODICAL', 'sequence': 0, 'value': '{"default": 0.5}'}
        bad: list[Any] = [None, 3, [], {}, {'type': 'metric'}, {'type': 3}, *({'type': 'metric', 'metric': m} for m in (
            None, 3, {}, '', '{', '[]', 'null', *map(json.dumps, (
                {k: v for k, v in good.items() if k != 'trial_job_id'}, {**good, 'sequence': None}, {**good, 'sequence': -3},
                {**good, 'type': 'REQUEST_PARAMETER'}, {**good, 'type': {}}, {**good, 'parameter_id': 'x'},
                {**good, 'value': 3}, {**good, 'value': '{'},
                {**good, 'value': json.dumps({'default': made})}, {**good, 'value': '[' * 10_000},
                {**good, 'sequence': 10 ** 6, 'value': json.dumps('x' * 10 ** 6)})))),
            {'type': 'unheard-of'}]
        for body in bad:
            attacks.send(port, 'PUT', f'/{token}/env/local-env/{trial}', owner, body)
            attacks.send(port, 'PUT', f'/{token}/env/local-env/nobody', owner, body)
        visited = CHROMIUM is not None and search.poll() is None
        if visited:
            _visit(tmp_path / 'browser', port, token, trial, canary)
        assert search.wait(300) == 0, (tmp_path / 'out.txt').read_text()
    finally:
        end_process_tree(search.pid)
    end = read_journal(run / 'journal.jsonl')
    assert end.ended.reason == 'budget'
    ends = [(c.number, c.status, c.attempts) for c in end.candidates.values()]
    assert ends == [(n, 'succeeded', 1) for n in range(3)]
    assert all(len(c.curve) <= 1 for c in end.operators)
    assert not canary.exists()
    assert '(guard) dropped a metric' in (root / 'log' / 'nnimanager.log').read_text()
    rest_needs_chromium('the page in a browser')
    if not visited:
        pytest.skip('all but the page in a browser passed: the search ended before the browser came')


def _until(condition: Any, seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, 'waited in vain'
        time.sleep(0.2)
    return value
