"""Channels between NNI's parts, without two faults of NNI 3.0.

- The local training service hands the next parameter in its queue to whichever trial asks first. With two trials at
  once they get each other's, and after a trial that dies before asking, every later one gets its predecessor's. The
  manager's own records, the web UI and the strategy believe otherwise. :class:`ExactParameterChannel` takes the
  parameter that is on record for its own trial.
- The strategy's listener thread dies of a command it does not know (those sent on resume) and of an exception in a
  callback; then nothing arrives any more and the search waits for ever. :class:`SteadyCommandChannel` survives both.
"""
from __future__ import annotations

import json
import logging
import time
import urllib.error
import urllib.request
from threading import Event

import nni
from nni.runtime.trial_command_channel.v3 import TrialCommandChannelV3
from nni.runtime.tuner_command_channel import TunerCommandChannel
from nni.runtime.tuner_command_channel.command_type import CommandType
from nni.typehint import ParameterRecord

from syno_nni.errors import EngineError

from . import plain_json  # noqa: F401 - formulas hold what NNI takes for comments

_log = logging.getLogger(__name__)

_UNUSED = (CommandType.ImportData, CommandType.AddCustomizedTrialJob, CommandType.UpdateSearchSpace, CommandType.Ping)


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

    def receive_parameter(self) -> ParameterRecord:
        """The parameter on record.

        Raises:
            EngineError: the manager does not tell it in time. Running another one would falsify a result.
        """
        queued = super().receive_parameter()  # keeps the manager's queue in step with its trials
        deadline = time.monotonic() + self.patience_s
        problem = 'it has no parameter on record'
        while time.monotonic() < deadline:
            try:
                record = self._recorded()
            except (OSError, ValueError) as error:
                problem = f'{type(error).__name__}: {error}'
            else:
                if record is not None:
                    if queued is not None and queued['parameter_id'] != record['parameter_id']:
                        _log.warning('the queue offered parameter %s, this trial is recorded with %s',
                                     queued['parameter_id'], record['parameter_id'])
                    return record
            time.sleep(0.25)
        raise EngineError(f'no parameter from {self.record_url} within {self.patience_s:g} s: {problem}; on another machine '
                          "the trial command needs --manager http://ADDRESS:PORT of NNI's manager")

    def _recorded(self) -> ParameterRecord | None:
        # No proxy: the manager is on this machine, or on the one that started the trial.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.record_url, timeout=5) as response:
            parameters = json.load(response).get('hyperParameters')
        return nni.load(parameters[0]) if parameters else None


class SteadyCommandChannel(TunerCommandChannel):
    """The strategy's side of the channel to the manager."""

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

    def _receive(self) -> tuple[CommandType, str] | tuple[None, None]:
        while True:
            kind, content = super()._receive()
            if kind not in _UNUSED:
                return kind, content
            _log.debug('skipped a command: %s', kind)
