"""The NNI tuner for experiments that ``nnictl`` starts from a YAML file; trials run ``python -m syno_nni.trial``.

NNI ends an experiment whose tuner does not connect within ten seconds (``syno-nni nnictl`` waits longer), so torch and NNI's
NAS part are imported with the first request for a trial. The journal is in ``syno/`` of the experiment's directory (or in
``runDirectory``): ``syno-nni report`` reads it, and after ``nnictl resume`` the tuner goes on from it, not from a checkpoint
of NNI's.
"""
from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nni
import psutil
from nni.tuner import Tuner

from syno_nni.errors import ConfigError, JournalError
from syno_nni.nas import patches  # formulas hold what NNI takes for comments
from syno_nni.nas.messages import trial_parameters
from syno_nni.run.candidate import Candidate, Outcome
from syno_nni.run.config import SearchConfig
from syno_nni.run.directory import open_run
from syno_nni.run.journal import JOURNAL_FILE
from syno_nni.run.nnictl_file import tuner_config
from syno_nni.run.records import Ended, OutcomeKind

if TYPE_CHECKING:
    from .base import SynoStrategy

_log = logging.getLogger(__name__)

_NNI_PATIENCE_S = 10


class SynoTuner(Tuner):
    """Proposes operators; see the module.

    A trial's parameters are flat, for the columns of the web UI: the formula of every choice, ``id``, and the payload.

    Args:
        class_args: the sections of an experiment file (``model``, ``data``, ``space``, ``slots``, ``strategy``, ...), but
            without what NNI's own file says: budget, concurrency, engine, port.

    Raises:
        ConfigError: a key or value is wrong.
    """

    def __init__(self, **class_args: Any) -> None:
        super().__init__()
        patches.plain_dispatcher()
        check_trial_command(sys.argv, os.environ.get('PATH'))
        self.config: SearchConfig = tuner_config(class_args)
        self.run_dir = Path(self.config.run_directory or _experiment_directory() / 'syno')
        self._strategy: SynoStrategy | None = None
        self._open: dict[str, Candidate] = {}
        self._by_parameter: dict[int, Candidate] = {}
        self._imported: list[Any] = []
        # Opened now, so that what is wrong with a run directory ends the experiment at once and not its first trial.
        resume = (self.run_dir / JOURNAL_FILE).exists()
        self._journal = open_run(self.config, self.run_dir, resume=resume)
        _warn_if_late()

    def update_search_space(self, search_space: Any) -> None:
        """Nothing: the space is described by ``classArgs``."""

    def generate_parameters(self, parameter_id: int, **kwargs: Any) -> dict[str, str]:
        strategy = self._search()
        candidate = strategy.ask()
        if candidate is None:
            raise nni.NoMoreTrialError('the operator space is exhausted')
        self._by_parameter[parameter_id] = self._open[candidate.id] = candidate
        parameters = trial_parameters(candidate.sample, self.config.to_dict(), asdict(strategy.reference))
        return {'id': candidate.id, **parameters}

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: Any, **kwargs: Any) -> None:
        candidate = self._by_parameter.get(parameter_id)
        if candidate is not None:
            self._conclude(candidate, value)

    def trial_end(self, parameter_id: int, success: bool, **kwargs: Any) -> None:
        candidate = self._by_parameter.pop(parameter_id, None)
        if candidate is not None and candidate.id in self._open:
            why = ((OutcomeKind.INVALID_METRIC, 'the trial ended without a final metric') if success else
                   (OutcomeKind.DIED, 'the trial ended without a report; see its log'))
            del self._open[candidate.id]
            self._search().tell(Outcome.failed(candidate, *why))

    def import_data(self, data: list[Any]) -> None:
        """Results of trials that NNI ran again after ``nnictl resume``; those in the journal are known already."""
        self._imported += data
        if self._strategy is not None:
            self._take_in_imported()

    def _conclude(self, candidate: Candidate, value: Any) -> None:
        if self._open.pop(candidate.id, None) is not None:
            self._search().tell(Outcome.judge(candidate, value))

    def _take_in_imported(self) -> None:
        imported, self._imported = self._imported, []
        for entry in imported:
            parameters = entry['parameter'] if isinstance(entry.get('parameter'), dict) else {}
            candidate = self._open.get(str(parameters.get('id')))
            if candidate is not None:
                self._conclude(candidate, entry.get('value'))

    def _search(self) -> SynoStrategy:
        if self._strategy is None:
            from syno_nni.data.datasets import load_data
            from syno_nni.search_spaces.backbone import backbone_space

            from .by_name import strategy_of
            space = backbone_space(self.config, load_data(self.config.data))
            strategy = strategy_of(self.config, limits=False)
            strategy.journal = self._journal
            strategy.restore(self._journal.state)
            self._open = {c.id: c for c in strategy.begin(space.simplify())}
            self._strategy = strategy
            self._take_in_imported()
        return self._strategy

    def _on_exit(self) -> None:
        self._end(Ended(reason='interrupted' if self._open else 'budget'))

    def _on_error(self) -> None:
        self._end(Ended(reason='error', message="the tuner failed; see NNI's dispatcher.log"))

    def _end(self, record: Ended) -> None:
        try:
            self._journal.append(record)
        except JournalError as error:
            _log.warning('the end of the search could not be recorded: %s', error)
        self._journal.close()


def check_trial_command(arguments: Sequence[str], path: str | None) -> None:
    """Find out before the first trial that none can start. Otherwise each would end in ``python: command not found``, and
    the experiment as if it were done.

    Args:
        arguments: of the process that NNI starts for a tuner: the experiment is among them.
        path: where the trials look for programs.

    Raises:
        ConfigError: they are to run on this machine, by a program that is not there.
    """
    try:
        experiment = json.loads(base64.b64decode(arguments[arguments.index('--exp_params') + 1]))
        words, platform = experiment['trialCommand'].split(), experiment['trainingService']['platform']
    except (ValueError, LookupError, AttributeError, TypeError):
        return
    if platform != 'local' or not words or not words[0].startswith('python'):
        return
    if shutil.which(words[0], path=path or '') is None:
        raise ConfigError(f'trialCommand: there is no {words[0]} in the PATH that NNI was started with; write trialCommand: '
                          f'{sys.executable} -m syno_nni.trial, activate the environment, or use syno-nni nnictl')


def _warn_if_late() -> None:
    patience = float(os.environ.get('SYNO_NNI_PATIENCE', _NNI_PATIENCE_S))
    seconds = time.time() - psutil.Process().create_time()
    if os.environ.get('SDK_PROCESS') == 'dispatcher' and seconds > 0.8 * patience:
        message = (f'the tuner took {seconds:.0f} s to start on this busy machine, and NNI ends an experiment with status '
                   f'ERROR after {patience:.0f} s: create it again, or by syno-nni nnictl, which waits longer')
        _log.warning(message)
        print(message, file=sys.stderr, flush=True)


def _experiment_directory() -> Path:
    logs = os.environ.get('NNI_LOG_DIRECTORY')
    if not logs:
        raise ConfigError("tuner.classArgs.runDirectory is missing: outside an experiment of NNI's, the tuner has no place "
                          'of its own for the journal')
    return Path(logs).parent
