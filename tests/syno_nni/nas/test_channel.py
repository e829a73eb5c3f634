"""Faults of NNI's channels, and that ours do not have them."""
from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nni
import pytest
from nni.runtime.trial_command_channel.v3 import TrialCommandChannelV3
from nni.runtime.tuner_command_channel import TunerCommandChannel

from syno_nni.errors import EngineError
from syno_nni.nas.channel import ExactParameterChannel, SteadyCommandChannel
from syno_nni.nas.launch import remote_manager

# --- the trial's side ------------------------------------------------------------------------------------------------


class Manager(ThreadingHTTPServer):
    """Speaks as NNI's manager does: its queue offers ``queued``, its records say ``recorded``."""

    def __init__(self, queued: int, recorded: int | None, failures: int = 0) -> None:
        self.queued, self.recorded, self.failures = queued, recorded, failures
        super().__init__(('127.0.0.1', 0), Handler)

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}/env/local/job1'


class Handler(BaseHTTPRequestHandler):
    server: Manager

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers['Content-Length']))
        self._answer({})

    def do_GET(self) -> None:
        if self.path.startswith('/env/'):
            self._answer({'type': 'parameter', 'parameter': nni.dump(_parameter(self.server.queued))})
        elif self.path == '/api/v1/nni/trial-jobs/job1' and self.server.failures > 0:
            self.server.failures -= 1
            self.send_error(500)
        else:
            recorded = [] if self.server.recorded is None else [nni.dump(_parameter(self.server.recorded))]
            self._answer({'trialJobId': 'job1', 'hyperParameters': recorded})

    def _answer(self, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def _parameter(number: int) -> dict[str, Any]:
    return {'parameter_id': number, 'parameters': {'x': number}}


@pytest.fixture
def serve() -> Iterator[Any]:
    managers: list[Manager] = []

    def start(**arguments: Any) -> Manager:
        managers.append(Manager(**arguments))
        threading.Thread(target=managers[-1].serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()
        return managers[-1]

    yield start
    for manager in managers:
        manager.shutdown()
        manager.server_close()


def test_a_trial_gets_the_parameter_on_record(serve: Any) -> None:
    manager = serve(queued=7, recorded=8)
    assert TrialCommandChannelV3(manager.url).receive_parameter()['parameters'] == {'x': 7}, 'NNI is repaired'
    assert ExactParameterChannel(manager.url, 'job1').receive_parameter()['parameters'] == {'x': 8}


def test_the_manager_may_be_late(serve: Any) -> None:
    manager = serve(queued=7, recorded=8, failures=2)
    assert ExactParameterChannel(manager.url, 'job1').receive_parameter()['parameter_id'] == 8


def test_no_record_is_an_error_and_not_a_guess(serve: Any) -> None:
    manager = serve(queued=7, recorded=None)
    with pytest.raises(EngineError, match='no parameter'):
        ExactParameterChannel(manager.url, 'job1', patience_s=0.3).receive_parameter()


# --- what both read --------------------------------------------------------------------------------------------------

def test_formulas_are_no_comments() -> None:
    message = json.dumps({'type': 'EN', 'content': json.dumps({'hyper_params': json.dumps({'op': 'w1[o//s, c] # s'})})})
    with pytest.raises(ValueError):
        nni.load(message, ignore_comments=True)  # as NNI does; it is repaired when this fails
    assert nni.load(nni.load(nni.load(message)['content'])['hyper_params']) == {'op': 'w1[o//s, c] # s'}


# --- the strategy's side ---------------------------------------------------------------------------------------------

COMMANDS = [
    {'type': 'FD', 'content': '[]'},                       # sent on resume
    {'type': 'AD', 'content': '{}'},
    {'type': 'GE', 'content': '1'},
    {'type': 'PI', 'content': ''},
    {'type': 'GE', 'content': '2'},
    {'type': 'TE', 'content': ''},
]


class Wire:
    """In the place of the websocket."""

    def __init__(self) -> None:
        self.commands = list(COMMANDS)

    def receive(self) -> dict[str, str]:
        return self.commands.pop(0)


def _listening(channel: TunerCommandChannel, bad: bool) -> list[int]:
    counts: list[int] = []

    def callback(command: Any) -> None:
        counts.append(command.count)
        if bad:
            raise ValueError('a metric without default')

    channel._channel = Wire()
    channel.on_request_trial_jobs(callback)
    stop = threading.Event()
    channel.listen(stop)
    assert stop.is_set()
    return counts


@pytest.mark.parametrize('bad', [False, True])
def test_listening_goes_on(bad: bool) -> None:
    assert _listening(SteadyCommandChannel('ws://localhost:1/tuner'), bad) == [1, 2]
    with pytest.raises(ValueError):
        _listening(TunerCommandChannel('ws://localhost:1/tuner'), bad)  # NNI is repaired when this fails


# --- on another machine ----------------------------------------------------------------------------------------------

def test_the_manager_is_known_on_another_machine(tmp_path: Path) -> None:
    """From the file of NNI's helper there, and not from the command line of the trial."""
    output = tmp_path / 'environments' / 'worker' / 'trials' / 'abcde'
    output.mkdir(parents=True)
    assert remote_manager(output) is None
    for number, (name, url) in enumerate({'trial_keeper': 'ws://10.0.0.1:8080/old/platform/remote/w',
                                          'trial_keeper_1': 'ws://10.0.0.1:8080/prefix/new/platform/remote/w',
                                          'trial_keeper_2': 3}.items()):
        (file := tmp_path / 'environments' / 'worker' / name / 'launcher_config.json').parent.mkdir()
        file.write_text(json.dumps({'managerCommandChannel': url}))
        os.utime(file, (number, number))
    assert remote_manager(output) == 'http://10.0.0.1:8080/prefix/new'
    channel = ExactParameterChannel('http://localhost:1/env/e/abcde', 'abcde', manager=remote_manager(output))
    assert channel.record_url == 'http://10.0.0.1:8080/prefix/new/api/v1/nni/trial-jobs/abcde'
