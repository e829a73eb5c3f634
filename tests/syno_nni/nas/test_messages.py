"""Whatever arrives is plain data of the form that it should have, or is dropped."""
from __future__ import annotations

import base64
import json
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from syno_nni.errors import EngineError, SynoError
from syno_nni.nas import messages
from syno_nni.nas.channel import ExactParameterChannel, SteadyCommandChannel
from syno_nni.nas.messages import MessageError
from syno_nni.trial import read_payload, read_sample


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def objects(canary: Path) -> list[dict[str, Any]]:
    """What NNI's decoder makes the canary from."""
    pickled = base64.b64encode(pickle.dumps(Touch(canary))).decode()
    return [{'__symbol__': 'path:os.system', '__args__': [f'touch {canary}']},
            {'__symbol__': 'path:os.mkdir', '__args__': [str(canary)]},
            {'__nni_obj__': pickled}, {'__nni_type__': f'bytes:{pickled}'}]


def _metric(**changes: Any) -> dict[str, Any]:
    return {'parameter_id': 1, 'trial_job_id': 'a', 'type': 'FINAL', 'sequence': 0, 'value': '{"default": 1}', **changes}


def test_nni_runs_what_is_in_a_message(tmp_path: Path) -> None:
    """Why there is a decoder of our own; fails when NNI is repaired."""
    import nni
    nni.load(json.dumps(objects(tmp_path / 'canary')[1]))
    assert (tmp_path / 'canary').exists()


@pytest.mark.parametrize('number', range(4))
def test_objects_are_not_made(number: int, tmp_path: Path) -> None:
    canary = tmp_path / 'canary'
    value = objects(canary)[number]
    for bad in (value, {'default': value}, {'default': [1, {'x': value}]}):
        with pytest.raises(MessageError, match='stands for an object'):
            messages.metric(_metric(value=json.dumps(bad)))
        with pytest.raises(MessageError, match='stands for an object'):
            messages.record({'parameter_id': 1, 'parameters': {'operator': bad}})
        assert messages.imported([{'parameter': {'x': bad}, 'value': 1}, {'parameter': {}, 'value': bad}]) == []
    assert not canary.exists()


@pytest.mark.parametrize('changes', [
    {'trial_job_id': None}, {'trial_job_id': 3}, {'type': 'REQUEST_PARAMETER'}, {'type': None}, {'type': ['FINAL']},
    {'sequence': None}, {'sequence': -1}, {'sequence': 1.5}, {'sequence': True}, {'sequence': 10 ** 40}, {'sequence': '0'},
    {'parameter_id': 'x'}, {'parameter_id': -1}, {'parameter_id': {}}, {'value': None}, {'value': 3}, {'value': '{'},
    {'value': '[' * 100_000}, {'value': '[' * 200 + ']' * 200}, {'value': '9' * 100_000}, {'value': ''},
], ids=lambda changes: str(changes)[:40])
def test_malformed_metrics(changes: dict[str, Any]) -> None:
    assert messages.metric(_metric())['value'] == {'default': 1}
    with pytest.raises(MessageError) as raised:
        messages.metric(_metric(**changes))
    assert len(str(raised.value)) < 400 and '\n' not in str(raised.value)
    for key in _metric():
        if key != 'parameter_id':  # trials that nobody's search asked for have none
            with pytest.raises(MessageError):
                messages.metric({k: v for k, v in _metric().items() if k != key})


@pytest.mark.parametrize('data', [None, 3, [], 'x', {}, {'trial_job_id': 'a'}, {'trial_job_id': 'a', 'event': 'FAILED'},
                                  {'trial_job_id': 'a', 'event': 'FAILED', 'hyper_params': '3'},
                                  {'trial_job_id': 'a', 'event': 'FAILED', 'hyper_params': '{"parameter_id": "x"}'}], ids=str)
def test_malformed_ends_and_records(data: Any) -> None:
    with pytest.raises(MessageError):
        messages.trial_end(data)
    with pytest.raises(MessageError):
        messages.record(data)
    with pytest.raises(MessageError):
        messages.metric(data)


def test_a_message_without_end_is_not_read() -> None:
    with pytest.raises(MessageError, match='at most'):
        messages.decode('"' + 'x' * messages.MAX_TEXT + '"')


class Wire:
    """In the place of the websocket."""

    def __init__(self, *commands: Any) -> None:
        self.commands = list(commands)

    def receive(self) -> Any:
        return self.commands.pop(0)


def test_the_strategy_hears_what_is_well_formed_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    canary, heard = tmp_path / 'canary', []
    bad = [{}, {'type': 'XX'}, {'type': 3}, [], 'x', {'type': 'ME'}, {'type': 'ME', 'content': '{'},
           {'type': 'GE', 'content': '"x"'}, {'type': 'EN', 'content': '{}'}, {'type': 'IN', 'content': '[]'},
           {'type': 'ME', 'content': json.dumps(_metric(sequence=None))},
           *({'type': 'ME', 'content': json.dumps(_metric(value=json.dumps({'default': o})))} for o in objects(canary)),
           *({'type': 'FD', 'content': json.dumps([{'parameter': o, 'value': o}])} for o in objects(canary))]
    channel = SteadyCommandChannel('ws://localhost:1/tuner')
    channel._channel = Wire(*bad, {'type': 'ME', 'content': json.dumps(_metric())}, {'type': 'TE'})  # type: ignore[assignment]
    channel.on_report_metric_data(lambda command: heard.append(command.value))
    stop = threading.Event()
    channel.listen(stop)
    assert heard == [{'default': 1}] and stop.is_set()
    assert not canary.exists()
    assert caplog.text.count('dropped a message') >= 15


class FakeManager:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def send(self, command: Any) -> None:
        pass

    def receive(self) -> Any:
        return self.answer


@pytest.mark.parametrize('number', range(4))
def test_a_trial_runs_nothing_that_it_is_sent(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / 'canary'
    parameter = json.dumps({'parameter_id': 1, 'parameters': objects(canary)[number]})
    channel = ExactParameterChannel('http://127.0.0.1:1/secret/env/e/t', 't', patience_s=0.1)
    channel._channel = FakeManager({'type': 'parameter', 'parameter': parameter})  # type: ignore[assignment]
    monkeypatch.setattr(channel, '_recorded', lambda: messages.record(messages.decode(parameter)))
    with pytest.raises(EngineError, match='malformed') as raised:
        channel.receive_parameter()
    assert 'secret' not in str(raised.value)
    assert not canary.exists()


@pytest.mark.parametrize('parameters', [
    None, [], {}, {'payload': 3}, {'payload': '[]'}, {'payload': '{}'}, {'payload': '{"config": 3}'},
    {'payload': '{"config": {"model": {"__symbol__": "path:os.system"}}}'}], ids=str)
def test_a_trial_refuses_foreign_payloads(parameters: Any) -> None:
    with pytest.raises(SynoError):
        read_payload(parameters)


@pytest.mark.parametrize('reference', [3, {'curve': 'x'}, {'curve': [[]]}, {'x': 1}, {'proxy_accuracy': 'x'}], ids=str)
def test_a_trial_refuses_a_foreign_reference(reference: Any) -> None:
    config = {'model': {'name': 'resnet10t'}}
    if reference == 3:
        assert read_payload({'payload': json.dumps({'config': config, 'reference': 3})})[1]().curve == ()
        return
    with pytest.raises(EngineError):
        read_payload({'payload': json.dumps({'config': config, 'reference': reference})})[1]()


@pytest.mark.parametrize('value', [None, 3, {}, 'import os', 'keep ', '', 'x' * 10_000], ids=lambda v: str(v)[:20])
def test_a_trial_refuses_what_is_no_formula(value: Any) -> None:
    with pytest.raises(EngineError, match='operator'):
        read_sample({'operator': value}, ['operator'])
    assert read_sample({'operator': 'keep'}, ['operator']) == {'operator': 'keep'}
