"""NNI's NAS experiment, made to last: see :class:`SynoExperiment` for what differs from NNI's own."""
from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any

from nni.experiment import RunMode, rest
from nni.experiment.config import RemoteMachineConfig
from nni.nas.evaluator import Evaluator
from nni.nas.execution import ExecutionEngine
from nni.nas.experiment import NasExperiment, NasExperimentConfig
from nni.nas.experiment.config import ModelFormatConfig, SimplifiedModelFormatConfig
from nni.nas.space import ExecutableModelSpace
from nni.nas.strategy import Strategy
from nni.runtime.log import silence_stdout
from nni.tools.nnictl.config_utils import Experiments

from syno_nni.errors import EngineError
from syno_nni.run.config import SearchConfig

from . import patches
from .channel import SteadyCommandChannel
from .flat_space import FlatModelSpace
from .manager import LOOPBACK, check_port, end_process_tree, manager_environment, trial_interpreter
from .signals import interruptible, shielded
from .slot import ModelSpace

_log = logging.getLogger(__name__)

_TRIAL_GRACE_S = 30
# Trials end themselves at their time limit; the manager ends those that hang, a little later.
_STOP_PATIENCE_S = 20.0


class _ExperimentConfig(NasExperimentConfig):
    """NNI's, but for the folder that is copied to every machine: NNI wants it to be the one the search was started in."""

    if TYPE_CHECKING:
        trial_code_directory: Any

    def _canonicalize(self, parents: list[Any]) -> None:
        folder, self.trial_code_directory = self.trial_code_directory, '.'
        super()._canonicalize(parents)
        self.trial_code_directory = self.training_service.trial_code_directory = str(Path(folder).absolute())


_ExperimentConfig.__name__ = NasExperimentConfig.__name__  # by which NNI decides that it needs no tuner


class SynoExperiment(NasExperiment):
    """A NAS experiment of NNI, for both engines.

    - The manager listens on loopback, answers its owner only, and ends with this process (:mod:`.manager`).
    - Trials get the parameters that are on record for them, the listener survives what kills NNI's, and parameters
      are readable in the web UI and hold no code (:mod:`.channel`, :mod:`.flat_space`).
    - NNI's checkpoint is not written: it is saved at start and stop only, not atomically, and cannot be read back
      with current torch. The journal holds the state.
    - Without a manager, nothing is written outside the working directory.
    """

    on_start: Callable[[str | None], None] | None = None
    """Called with :attr:`url` when the search begins."""
    host = LOOPBACK
    """Address that the manager listens on."""
    names: tuple[str, ...] = ()
    """Further names of this machine by which the trials' machines may ask for the manager."""
    _token = ''
    port: int | None
    _proc: Any

    def _start_engine_and_strategy(self) -> None:
        if self.on_start is not None:
            self.on_start(self.url)
        super()._start_engine_and_strategy()

    def execution_engine_factory(self, config: Any) -> ExecutionEngine:
        with patches.own_channel(SteadyCommandChannel):
            return super().execution_engine_factory(config)

    @property
    def tuner_command_channel(self) -> str:
        """Where the engine connects. NNI's own, which the manager sees on its command line, is without the token."""
        return super().tuner_command_channel.removesuffix('/tuner') + f'/{self._token}/tuner'

    def executable_model_factory(self, config: ModelFormatConfig) -> ExecutableModelSpace:
        if isinstance(config, SimplifiedModelFormatConfig):
            return FlatModelSpace.from_model(self.model_space, self.evaluator)
        return super().executable_model_factory(config)

    @property
    def url(self) -> str | None:
        """Address of the web UI while the manager runs, for its owner alone."""
        return patches.web_ui('localhost', self.port, self._token) if self.port else None

    def _start_nni_manager(self, port: int, debug: bool, run_mode: RunMode = RunMode.Background,
                           tuner_command_channel: str | None = None, tags: list[str] | None = None) -> None:
        with manager_environment(self.host, names=self.names) as self._token:
            patches.use_token(port, self._token)
            super()._start_nni_manager(port, debug, run_mode, tuner_command_channel, tags or [])

    def _stop_nni_manager(self) -> None:
        if self._proc is None:
            return
        try:
            rest.delete(self.port, '/experiment', self.url_prefix)
            self._proc.wait(_STOP_PATIENCE_S)
        except (OSError, TimeoutExpired) as error:
            _log.warning('the NNI manager does not stop by itself (%s): ending it', type(error).__name__)
        finally:
            end_process_tree(self._proc.pid)
            # NNI finds out only when it looks for the process.
            Experiments().update_experiment(self.id, 'status', 'STOPPED')
            self.port = self._proc = None

    def save_checkpoint(self) -> None:
        """Nothing; see the class."""

    def _start_without_nni_manager(self) -> None:
        """Nothing: NNI would enter the experiment into a list in the home directory."""

    def _stop_without_nni_manager(self) -> None:
        """Nothing, see above."""


def make_experiment(space: ModelSpace, evaluator: Evaluator, strategy: Strategy, config: SearchConfig,
                    working_directory: Path, trials: int | None = None) -> SynoExperiment:
    """The NNI experiment of an experiment file.

    Args:
        working_directory: for NNI's logs, database and trial files.
        trials: how many trials the web UI should expect.
    """
    sequential = config.engine == 'sequential'
    engine, service = ('sequential', None) if sequential else ('ts', config.engine)
    nni_config = _ExperimentConfig(engine, 'simplified', service)
    nni_config.experiment_name = config.experiment_name
    nni_config.experiment_working_directory = str(working_directory.absolute())
    nni_config.trial_concurrency = 1 if sequential else config.trial_concurrency
    if sequential:
        # The strategy keeps the limits; a failing candidate is an outcome, not the end.
        nni_config.execution_engine.continue_on_failure = True
    else:
        nni_config.max_trial_number = trials
        nni_config._trial_command_params = {'python': trial_interpreter()}
        if config.evaluation.device == 'cuda':
            nni_config.trial_gpu_number = 1
        if config.max_trial_duration is not None:
            nni_config.max_trial_duration = f'{config.max_trial_duration + _TRIAL_GRACE_S}s'
    if config.engine == 'local':
        nni_config.training_service.use_active_gpu = True
    elif config.engine == 'remote':
        _use_machines(nni_config, config, working_directory)
    experiment = SynoExperiment(space, evaluator, strategy, nni_config)
    if config.engine == 'remote' and config.nni_manager_ip not in (LOOPBACK, 'localhost'):
        experiment.host = '0.0.0.0'  # NNI's own client asks for localhost, the machines for the address
        experiment.names = (config.nni_manager_ip,)
    return experiment


def _use_machines(nni_config: NasExperimentConfig, config: SearchConfig, working_directory: Path) -> None:
    nni_config.nni_manager_ip = config.nni_manager_ip
    nni_config.training_service.machine_list = [
        RemoteMachineConfig(host=m.host, port=m.port, user=m.user, ssh_key_file=str(Path(m.ssh_key_file).expanduser()),
                            python_path=m.python_path, use_active_gpu=True) for m in config.machine_list]
    nni_config._trial_command_params = {'python': 'python -m syno_nni.trial'}
    code = working_directory / 'code'
    code.mkdir(parents=True, exist_ok=True)
    # NNI refuses an empty folder.
    (code / 'README').write_text('syno-nni is installed on the machines; nothing else is copied there.\n')
    nni_config.trial_code_directory = str(code.absolute())


def run_experiment(experiment: SynoExperiment, port: int,
                   on_start: Callable[[str | None], None] | None = None) -> None:
    """Run an experiment to its end in this thread, and leave nothing behind: no manager, no trial, no port.

    SIGINT, SIGTERM and SIGHUP end it by a KeyboardInterrupt, after everything is stopped.

    Args:
        port: for the manager and its web UI, when the engine has them.
        on_start: called with the web UI's address, or None without one, when the search begins.

    Raises:
        EngineError: the port is in use, or the manager does not start or dies.
    """
    if experiment._nni_manager_required():
        check_port(port)
    _log_to_file_only()
    experiment.on_start = on_start
    with patches.client(), interruptible():
        try:
            experiment.start(port)
        except patches.ManagerEnded:
            check_port(port)  # which says more, if another program was faster
            raise
        except (OSError, RuntimeError) as error:
            if isinstance(error, EngineError):
                raise
            raise EngineError(f'NNI cannot run the experiment: {type(error).__name__}: {error}; its log is in '
                              f'{experiment.config.experiment_working_directory}') from error
        finally:
            with shielded():
                experiment.stop()


def _log_to_file_only() -> None:
    """NNI's own messages go to the experiment's log; those for people are ours."""
    silence_stdout()
    logger = logging.getLogger('nni')
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
