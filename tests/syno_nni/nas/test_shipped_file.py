"""The file for ``nnictl`` in ``examples/`` as it stands, by both command lines, in an environment that is not activated."""
from __future__ import annotations

from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml

from syno_nni.nas.manager import free_port
from syno_nni.run.journal import read_journal

from ...testing import nnictl

EXAMPLE = Path(__file__).parents[3] / 'examples' / 'nnictl.yml'
_ATTEMPTS = 8


@pytest.mark.nni
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize('command', nnictl.COMMANDS)
def test_create_list_stop_view_and_resume(command: str, tmp_path: Path) -> None:
    port = free_port()
    with nnictl.own_home(tmp_path / 'home') as environment:
        said = _start(environment, command, port, None, 'create', '--config', str(EXAMPLE))
        experiment, root, token = nnictl.experiment(tmp_path / 'home')
        assert bool(token) == (command != 'nnictl')
        listening = {c.laddr.ip for c in psutil.net_connections('tcp') if c.status == 'LISTEN' and c.laddr.port == port}
        # As docs/search.md says of both.
        assert listening == {'127.0.0.1'} if token else listening <= {'::', '0.0.0.0'}
        assert listening
        if token:
            assert f'http://localhost:{port}/{token}/oview' in said
            others = {a.address for group in psutil.net_if_addrs().values() for a in group} - {'127.0.0.1', '::1'}
            assert not any(f'http://{address}' in said for address in others), 'nothing listens there'
            assert token in nnictl.run(environment, command, 'webui', 'url', experiment)
        assert experiment in nnictl.run(environment, command, 'experiment', 'list')

        def succeeded() -> int:
            trials = nnictl.get(port, 'trial-jobs', token)
            assert not any(t['status'] == 'FAILED' for t in trials), nnictl.logs(root)
            return sum(t['status'] == 'SUCCEEDED' for t in trials)

        nnictl.wait_until(succeeded, root)
        assert 'SUCCEEDED' in nnictl.run(environment, command, 'trial', 'ls', experiment)
        nnictl.run(environment, command, 'stop', experiment)
        nnictl.wait_until(lambda: not nnictl.listens(port), root)
        before = [c.id for c in read_journal(root / 'syno' / 'journal.jsonl').finished]
        assert before[:1] == ['baseline']

        nnictl.run(environment, command, 'view', experiment, '--port', str(port))
        assert nnictl.get(port, 'check-status', nnictl.experiment(tmp_path / 'home')[2])['status'] == 'VIEWED'
        nnictl.run(environment, command, 'stop', experiment)
        nnictl.wait_until(lambda: not nnictl.listens(port), root)

        _start(environment, command, port, root, 'resume', experiment)
        nnictl.wait_until(lambda: len(read_journal(root / 'syno' / 'journal.jsonl').finished) > len(before), root)
        nnictl.run(environment, command, 'stop', experiment)
        nnictl.wait_until(lambda: not nnictl.listens(port), root)
        after = [c.id for c in read_journal(root / 'syno' / 'journal.jsonl').finished]
        assert after[:len(before)] == before and len(set(after)) == len(after), 'nothing is lost or done again'


def _start(environment: dict[str, str], command: str, port: int, root: Path | None, *words: str) -> str:
    """What nnictl says when it starts an experiment, again and again where this machine is too busy for NNI's own limit of ten
    seconds for a tuner (which says nothing about us), as its user is told to do: that must not end without a word."""
    for _ in range(_ATTEMPTS):
        dispatcher, manager = _log(root, 'dispatcher.log'), _log(root, 'nnimanager.log')
        said = nnictl.run(environment, command, *words, '--port', str(port))
        here = root or nnictl.experiment(Path(environment['HOME']))[1]
        nnictl.wait_until(partial(_says, here, 'dispatcher.log', dispatcher, 'Dispatcher started'), here)
        if not _says(here, 'nnimanager.log', manager, 'Tuner did not connect in 10 seconds'):
            return said
        assert 'create it again, or by syno-nni nnictl' in _log(here, 'nnictl_stderr.log')
        nnictl.run(environment, command, 'stop', here.name)
        nnictl.wait_until(partial(_ended, port), here)
    raise AssertionError(f'NNI gave up {_ATTEMPTS} times on the start of the tuner')


def _says(root: Path, name: str, before: str, text: str) -> bool:
    return text in _log(root, name).removeprefix(before)


def _ended(port: int) -> bool:
    return not nnictl.listens(port)


def _log(root: Path | None, name: str) -> str:
    path = (root or Path()) / 'log' / name
    return path.read_text() if root and path.exists() else ''


@pytest.mark.nni
@pytest.mark.slow
def test_a_tuner_that_cannot_start_is_an_error_at_once(tmp_path: Path) -> None:
    """NNI's nnictl says that all is well, and the experiment ends ten seconds later."""
    file = yaml.safe_load(EXAMPLE.read_text())
    run_directory = tmp_path / 'taken'
    run_directory.mkdir()
    (run_directory / 'journal.jsonl').write_text('{"event": "no journal"}\n')
    file['tuner']['classArgs']['runDirectory'] = str(run_directory)
    file['trialCodeDirectory'] = file['tuner']['codeDirectory'] = str(tmp_path)
    (tmp_path / 'search.yml').write_text(yaml.safe_dump(file))
    port = free_port()
    with nnictl.own_home(tmp_path / 'home') as environment:
        said = nnictl.run(environment, 'syno-nni nnictl', 'create', '--config', str(tmp_path / 'search.yml'),
                          '--port', str(port), status=1)
        assert 'JournalError' in said
        assert not nnictl.listens(port)
