"""Two processes want one run, one port, one name or one processor at the same time."""
from __future__ import annotations

import os
import re
import socket
import stat
import threading
from pathlib import Path

import pytest

from syno_nni.measure.lock import lock_path, measurement_lock
from syno_nni.nas.manager import free_port
from syno_nni.run.directory import load_run

from ..testing.command import Commands, finished, wait_for, write_file


def test_two_resumes_of_one_run(tmp_path: Path, command: Commands) -> None:
    """One goes on, whoever was faster; the other one says who has the run, and changes nothing."""
    file, run = write_file(tmp_path / 'search.yml', engine='sequential', maxTrialNumber=4), tmp_path / 'run'
    first = command('search', file, '--run-dir', run)
    wait_for(lambda: finished(run), why=lambda: first.said)
    first.process.kill()
    first.wait()
    two = [command('resume', run) for _ in range(2)]
    assert sorted(c.wait() for c in two) == [0, 1], [c.said for c in two]
    loser, winner = sorted(two, key=lambda c: c.process.returncode, reverse=True)
    (error,) = loser.errors
    assert f'in use by pid {winner.process.pid} on {socket.gethostname()}' in error
    state = load_run(run)
    assert state.sessions == 2 and state.ended is not None and state.ended.reason == 'budget'
    assert [c.status for c in state.candidates.values()] == ['succeeded'] * 5
    assert sum(c.attempts for c in state.candidates.values()) <= 6


def test_two_searches_that_begin_in_the_same_second_have_directories_of_their_own(tmp_path: Path, command: Commands) -> None:
    file = write_file(tmp_path / 'search.yml', engine='sequential', maxTrialNumber=2)
    three = [command('search', file) for _ in range(3)]
    assert [c.wait() for c in three] == [0, 0, 0], [c.said for c in three]
    runs = list((tmp_path / 'runs').iterdir())
    assert len(runs) == 3 and all(len(load_run(run).succeeded) == 2 for run in runs)


def test_a_search_that_cannot_begin_leaves_no_directory(tmp_path: Path, command: Commands) -> None:
    file = write_file(tmp_path / 'search.yml', engine='sequential', slots={'kinds': ['conv1d']})
    failing = command('search', file)
    assert failing.wait() == 1 and len(failing.errors) == 1
    assert not (tmp_path / 'runs').exists()


@pytest.mark.nni
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_searches_with_managers(tmp_path: Path, command: Commands) -> None:
    """With one port, one of them says which other one is free, however close they are; with that, both end well."""
    port = free_port()
    file = write_file(tmp_path / 'search.yml', engine='local', port=port, maxTrialNumber=1)
    two = [command('search', file, '--run-dir', tmp_path / name) for name in ('a', 'b')]
    wait_for(lambda: any(c.process.poll() is not None for c in two))
    loser = next(c for c in two if c.process.poll() is not None)
    winner = next(c for c in two if c is not loser)
    assert loser.wait() == 1, loser.said
    (error,) = loser.errors
    match = re.search(rf'port {port} cannot be used .* with --port, such as (\d+)', error)
    assert match, error
    name = 'ab'[two.index(loser)]
    verb = ['resume', tmp_path / name] if (tmp_path / name).exists() else ['search', file, '--run-dir', tmp_path / name]
    again = command(*verb, '--port', match[1])
    assert [c.wait(400) for c in (winner, again)] == [0, 0], winner.said + again.said
    for run in (tmp_path / 'a', tmp_path / 'b'):
        assert [c.status for c in load_run(run).candidates.values()] == ['succeeded'] * 2


# --- the lock of measurements, in a folder that all users share --------------------------------------------------------

@pytest.fixture
def shared_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    return tmp_path


def test_the_lock_is_for_its_owner_alone(shared_folder: Path) -> None:
    with measurement_lock():
        pass
    assert stat.S_IMODE(lock_path().stat().st_mode) == 0o600, 'who can open it can hold it'


@pytest.mark.parametrize('obstacle', ['link', 'folder', 'link into nothing'])
def test_what_stands_in_its_place_stops_no_measurement(shared_folder: Path, obstacle: str,
                                                       caplog: pytest.LogCaptureFixture) -> None:
    target = shared_folder / 'target'
    match obstacle:
        case 'folder':
            lock_path().mkdir()
        case 'link':
            target.write_text('mine')
            lock_path().symlink_to(target)
        case 'link into nothing':
            lock_path().symlink_to(target)
    with measurement_lock():
        assert f'cannot lock {lock_path()}' in caplog.text
    assert (target.read_text() == 'mine') if obstacle == 'link' else not target.exists()


def test_a_pipe_in_its_place_does_not_hang(shared_folder: Path) -> None:
    os.mkfifo(lock_path())
    done = threading.Event()

    def measure() -> None:
        with measurement_lock(patience_s=0.0):
            done.set()

    threading.Thread(target=measure, daemon=True).start()
    assert done.wait(30)
