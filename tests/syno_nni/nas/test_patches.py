"""What we change of NNI is what it was when the changes were made; another NNI is refused."""
from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nni
import nni_node
import pytest

from syno_nni.errors import EngineError
from syno_nni.nas import patches
from syno_nni.nas.manager import manager_environment

MANAGER = Path(nni_node.__path__[0])
# The files of the manager that `manager_guard.js` changes or relies upon, as they are in NNI 3.0.
DIGESTS = {
    'main.js': '60111370885579da',
    'core/nnimanager.js': '4f45d543c1f6c65a',
    'core/tuner_command_channel.js': 'ab66be789261f31b',
    'core/ipcInterface.js': '711bb0f4ac00f77e',
    'common/command_channel/http.js': '569c2b6efa2dcd16',
    'common/command_channel/websocket/connection.js': '02ef077aa0366ed5',
    'common/globals/arguments.js': 'de83b6e454590699',
    'common/trial_keeper/keeper.js': 'fefd98c8e8a8e91b',
    'common/utils.js': 'da278d805bdfb1fa',
    'rest_server/index.js': '91ee1863512e18ed',
}


@pytest.mark.parametrize('name', patches.SHAPES)
def test_nni_is_as_it_was(name: str) -> None:
    assert patches.shape_of(name) == patches.SHAPES[name]


@pytest.mark.parametrize('file', DIGESTS)
def test_the_manager_is_as_it_was(file: str) -> None:
    assert hashlib.sha256((MANAGER / file).read_bytes()).hexdigest()[:16] == DIGESTS[file], 'read manager_guard.js against it'


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nni, '__version__', '3.1')
    for use in (patches.check_version, patches.no_comments, lambda: manager_environment().__enter__(),
                lambda: patches.client().__enter__()):
        with pytest.raises(EngineError, match=r'NNI 3.1 is installed, .* NNI 3.0 only: pip install nni==3.0'):
            use()


def test_another_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from nni.experiment import rest
    monkeypatch.setattr(rest, 'request', lambda method, url: None)
    with pytest.raises(EngineError, match=r'rest.request of NNI 3.0 is not what .* got \(method, url\)'), patches.client():
        pass


def test_everything_is_put_back() -> None:
    from nni.experiment import launcher
    before = {name: patches._find(name)[0].__dict__[patches._find(name)[1]] for name in patches.SHAPES}
    with patches.nnictl('0' * 32, '127.0.0.1'), patches.own_channel(dict):
        assert launcher._check_rest_server.__defaults__ == (patches.START_PATIENCE_S, None)
        assert launcher._start_rest_server is not before['nni.experiment.launcher._start_rest_server']
    assert {name: patches._find(name)[0].__dict__[patches._find(name)[1]] for name in patches.SHAPES} == before
    assert launcher._check_rest_server.__defaults__ == (3, None)


def test_nni_waits_until_its_manager_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    from nni.experiment import launcher, rest
    tries: list[int] = []

    def get(*arguments: object) -> None:
        tries.append(1)
        if len(tries) < 10:
            raise ConnectionError

    monkeypatch.setattr(rest, 'get', get)
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    with pytest.raises(ConnectionError):  # NNI is repaired when this fails
        launcher._check_rest_server(1)
    tries.clear()
    with patches.client():
        launcher._check_rest_server(1)


def test_nobody_waits_for_a_manager_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    from nni.experiment import launcher
    monkeypatch.setattr(launcher, '_start_rest_server', lambda nni_manager_args, run_mode: subprocess.Popen(['false']))
    monkeypatch.setattr('nni.experiment.rest.get', lambda *_: (_ for _ in ()).throw(ConnectionError('no answer')))
    with patches.client(), pytest.raises(patches.ManagerEnded, match='ended at its start, with status 1'):
        launcher._start_rest_server(None, None)
        launcher._check_rest_server(1)


def test_tokens_come_from_the_directories_of_running_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {'a': {'id': 'a', 'port': 7, 'logDir': str(tmp_path), 'status': 'RUNNING', 'startTime': 1},
               'b': {'id': 'b', 'port': 7, 'logDir': str(tmp_path), 'status': 'STOPPED', 'startTime': 2}}
    for name in entries:
        (tmp_path / name).mkdir()
        (tmp_path / name / '.token').write_text(('1' if name == 'a' else '2') * 32)
    monkeypatch.setattr('nni.tools.nnictl.config_utils.Experiments.get_all_experiments', lambda self: entries)
    assert patches._with_token('http://localhost:7/api/v1/nni/x') == f'http://localhost:7/{"1" * 32}/api/v1/nni/x'
    for url in ('http://localhost:8/api/v1/nni/trial-jobs', 'http://elsewhere:7/api/v1/nni'):
        assert patches._with_token(url) == url
    (tmp_path / 'a' / '.token').write_text('../../x')
    assert patches._token_of(7) == ''


DISPATCHER = """
import json, sys
from nni.runtime.msg_dispatcher_base import MsgDispatcherBase
from nni.runtime.tuner_command_channel import CommandType
from nni.common.serializer import load
from syno_nni.nas import patches
patches.plain_dispatcher()
base, heard = MsgDispatcherBase('ws://_unittest_'), []
base.default_command_queue.put = base.assessor_command_queue.put = lambda item: heard.append(item)
for kind, content in json.loads(sys.stdin.read()):
    base.enqueue_command(CommandType(kind), load(content))
print(json.dumps([[kind.value, data] for kind, data in heard]))
"""


def test_the_tuners_process_makes_no_objects(tmp_path: Path) -> None:
    from .test_messages import _metric, objects
    canary = tmp_path / 'canary'
    sent: list[list[Any]] = [['FD', json.dumps([{'parameter': {'id': 'x'}, 'value': 2}, 3, {}])], ['ME', json.dumps(_metric())]]
    for made in objects(canary):
        sent += [['FD', json.dumps([{'parameter': made, 'value': made}])], ['FD', json.dumps(made)], ['ME', json.dumps(made)],
                 ['ME', json.dumps(_metric(value=json.dumps(made)))], ['EN', json.dumps({'hyper_params': json.dumps(made)})]]
    sent += [['ME', json.dumps({k: v for k, v in _metric().items() if k != 'trial_job_id'})], ['ME', '{'], ['ME', '[' * 10_000]]

    def heard(process: str) -> Any:
        done = subprocess.run([sys.executable, '-c', DISPATCHER], input=json.dumps(sent), capture_output=True, text=True,
                              env={**os.environ, 'SDK_PROCESS': process, 'NNI_LOG_DIRECTORY': str(tmp_path),
                                   'NNI_CHECKPOINT_DIRECTORY': str(tmp_path), 'NNI_TUNER_COMMAND_CHANNEL': 'ws://_unittest_'})
        return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr

    received = heard('dispatcher')
    assert [r for r in received if r[1]] == [['FD', [{'parameter': {'id': 'x'}, 'value': '2'}]], ['ME', _metric()]], received
    assert not canary.exists()
    heard('another')
    assert canary.exists(), 'without the patch they are made; NNI is repaired when this fails'
