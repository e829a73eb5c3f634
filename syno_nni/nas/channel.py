"""Channels between NNI's parts, without faults of NNI 3.0.

- The local training service hands the next parameter in its queue to whichever trial asks first. With two trials at
  once they get each other's, and after a trial that dies before asking, every later one gets its predecessor's. The
  manager's own records, the web UI and the strategy believe otherwise. :class:`ExactParameterChannel` takes the
  parameter that is on record for its own trial.
- The strategy's listener thread dies of a command it does not know (those sent on resume), of a malformed one, and of an
  exception in a callback; then nothing arrives any more and the search waits for ever. :class:`SteadyCommandChannel`
  survives them.
- Whatever arrives is decoded into whatever object it names. Both channels take plain data only (:mod:`.messages`).
"""
from __future__ import annotations

import logging
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from threading import Event
from typing import Any, cast

from nni.runtime.command_channel.websocket import WsChannelClient, connection
from nni.runtime.command_channel.websocket.connection import WsConnection
from nni.runtime.trial_command_channel.v3 import TrialCommandChannelV3
from nni.runtime.tuner_command_channel import TunerCommandChannel, command_type
from nni.runtime.tuner_command_channel.command_type import CommandType, TunerIncomingCommand
from nni.typehint import ParameterRecord

from syno_nni.errors import EngineError, shown

from . import messages, patches  # noqa: F401 - formulas hold what NNI takes for comments
from .messages import MessageError

_log = logging.getLogger(__name__)


class ExactParameterChannel(TrialCommandChannelV3):
    """The trial's side of the channel.

    Args:
        url: ``NNI_TRIAL_COMMAND_CHANNEL`` of the trial, ``http://host:port/env/<environment>/<trial>``.
        job_id: the trial's id in the manager's records.
        patience_s: seconds to wait for the record.
        manager: address of the manager, ``http://host:port``, when ``url`` leads to something else.
    """

    def __init__(self, url: str, job_id: str, patience_s: float = 30.0, manager: str | None = None) -> None:
        super().__init__(url)
        self.record_url = f'{manager or url.partition("/env/")[0]}/api/v1/nni/trial-jobs/{job_id}'
        self.patience_s = patience_s

    def send_metric(self, type: Any, parameter_id: int | None, trial_job_id: str, sequence: int, value: Any) -> None:
        """Report a metric, as plain data."""
        metric = {'parameter_id': parameter_id, 'trial_job_id': trial_job_id, 'type': type, 'sequence': sequence,
                  'value': messages.encode(value)}
        self._channel.send({'type': 'metric', 'metric': messages.encode(metric)})

    def receive_parameter(self) -> ParameterRecord:
        """The parameter on record.

        Raises:
            EngineError: the manager does not tell it in time. Running another one would falsify a result.
        """
        queued = self._queued()  # keeps the manager's queue in step with its trials
        deadline = time.monotonic() + self.patience_s
        problem = 'it has no parameter on record'
        while time.monotonic() < deadline:
            try:
                record = self._recorded()
            except MessageError as error:
                raise EngineError(f'the parameter on record at {self._place} is malformed: {error}') from error
            except (OSError, ValueError) as error:
                problem = f'{type(error).__name__}: {error}'
            else:
                if record is not None:
                    if queued not in (None, record['parameter_id']):
                        _log.warning('the queue offered parameter %s, this trial is recorded with %s', queued,
                                     record['parameter_id'])
                    return record
            time.sleep(0.25)
        raise EngineError(f'no parameter from {self._place} within {self.patience_s:g} s: {problem}; on another machine '
                          "the trial command needs --manager http://ADDRESS:PORT of NNI's manager")

    @property
    def _place(self) -> str:
        """The record's address without the manager's token, for messages."""
        host, _, rest = self.record_url.partition('://')[2].partition('/')
        return f'{host}/{rest[rest.find("api/"):]}'

    def _queued(self) -> int | None:
        """The number of the parameter that the manager's queue offers."""
        self._channel.send({'type': 'request_parameter'})
        answer = self._channel.receive()
        if not isinstance(answer, Mapping):
            return None
        try:
            return cast('int | None', messages.record(messages.decode(answer.get('parameter')))['parameter_id'])
        except MessageError as error:
            _log.warning('the queue offered what is no parameter: %s', error)
            return None

    def _recorded(self) -> ParameterRecord | None:
        # No proxy: the manager is on this machine, or on the one that started the trial.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.record_url, timeout=5) as response:
            answer = messages.decode(response.read(messages.MAX_TEXT + 1))
        parameters = answer.get('hyperParameters') if isinstance(answer, Mapping) else None
        if not isinstance(parameters, list) or not parameters:
            return None
        return cast(ParameterRecord, messages.record(messages.decode(parameters[0])))


class SteadyCommandChannel(TunerCommandChannel):
    """The strategy's side of the channel to the manager."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._channel = _PlainClient(url)

    def listen(self, stop_event: Event) -> None:
        """Hand commands to their callbacks until the manager terminates or ``stop_event`` is set."""
        while not stop_event.is_set():
            command = self.receive()
            for callback in self._callbacks[command.command_type]:
                try:
                    callback(command)
                except Exception:
                    _log.exception('a callback failed on %s; listening goes on', command.command_type.name)
            if command.command_type == CommandType.Terminate:
                stop_event.set()

    def receive(self) -> TunerIncomingCommand:
        """The next command that concerns a search; others are skipped, malformed ones logged and dropped."""
        while True:
            message = self._channel.receive()
            if message is None:
                return command_type.Terminate()
            try:
                command = _command(message)
            except MessageError as error:
                _log.warning('dropped a message: %s', error)
                continue
            if command is not None:
                return command

    def send_trial(self, parameter_id: int, parameters: Any, parameter_source: str = 'algorithm', parameter_index: int = 0,
                   placement_constraint: dict[str, Any] | None = None) -> None:
        """Ask for a trial of a frozen model.

        Raises:
            EngineError: the model cannot be made from plain data.
        """
        from .flat_space import FlatModelSpace  # needs torch, which a trial wants to import later
        if not isinstance(parameters, FlatModelSpace):
            raise EngineError(f'trials are made from a FlatModelSpace, got {type(parameters).__name__}')
        trial = {'parameter_id': parameter_id, 'parameters': parameters.parameters(), 'parameter_source': parameter_source,
                 'parameter_index': parameter_index}
        if placement_constraint is not None:
            trial['placement_constraint'] = placement_constraint
        self._send(CommandType.NewTrialJob, messages.encode(trial))


def _command(message: Any) -> TunerIncomingCommand | None:
    """What NNI's callbacks want for a message; None for one that concerns no search.

    Raises:
        MessageError: it is malformed.
    """
    try:
        kind = CommandType(message['type'])
    except (KeyError, TypeError, ValueError):
        raise MessageError(f'no command of NNI: {shown(message)}') from None
    if kind is CommandType.Terminate:
        return command_type.Terminate()
    if kind not in (CommandType.Initialize, CommandType.RequestTrialJobs, CommandType.ReportMetricData, CommandType.TrialEnd):
        _log.debug('skipped a command: %s', kind)
        return None
    data = messages.decode(message.get('content'))
    if kind is CommandType.ReportMetricData:
        return command_type.ReportMetricData(**messages.metric(data))
    if kind is CommandType.TrialEnd:
        end = messages.trial_end(data)
        return command_type.TrialEnd(end['trial_job_id'], [end['parameter_id']], end['event'])
    if kind is CommandType.RequestTrialJobs:
        if isinstance(data, bool) or not isinstance(data, int) or data < 0:
            raise MessageError(f'the number of trials that are asked for is {shown(data)}')
        return command_type.RequestTrialJobs(data)
    if not isinstance(data, dict):
        raise MessageError(f'a search space should be a mapping, got {shown(data)}')
    return command_type.Initialize(data)


class _PlainClient(WsChannelClient):
    """NNI's, but a connection of it decodes plain data only: even what listens in the place of a manager that has died
    cannot run code."""

    def _ensure_conn(self) -> WsConnection:
        if self._conn is None and not self._closing:
            self._conn: WsConnection | None = _PlainConnection(self._url)
            self._conn.connect()
        return cast(WsConnection, self._conn)


class _PlainConnection(WsConnection):
    def receive(self) -> Any:
        try:
            message = connection._wait(self._ws.recv())
        except self.ConnectionClosed:
            self._ws: Any = None
            connection._decrease_refcnt()
            raise
        try:
            return messages.decode(message)
        except MessageError as error:
            _log.warning('dropped a message: %s', error)
            return {'type': '_nop_'}  # what NNI's client skips
