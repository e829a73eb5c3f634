"""The search: from an experiment file to a finished run directory.
"""
from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nni.nas.strategy import Strategy
from nni.nas.strategy.middleware import Chain

from syno_nni.data.datasets import load_data
from syno_nni.data.inspection import inspect
from syno_nni.data.splits import Splits
from syno_nni.errors import ConfigError, JournalError, SynoError
from syno_nni.files import show_path
from syno_nni.nas.evaluator import OperatorEvaluator
from syno_nni.nas.filters import ProfilerFilter
from syno_nni.nas.flat_space import FlatModelSpace
from syno_nni.nas.manager import check_node, check_port
from syno_nni.nas.nni_experiment import make_experiment, run_experiment
from syno_nni.nas.profiler import MacsProfiler, ParamsProfiler
from syno_nni.nas.signals import interruptible
from syno_nni.nas.slot import ModelSpace
from syno_nni.nas.waiting import wait_asleep
from syno_nni.run.candidate import BASELINE
from syno_nni.run.config import SearchConfig
from syno_nni.run.directory import open_run
from syno_nni.run.journal import Journal, Listener
from syno_nni.run.records import Ended, Header, Resumed, Tested
from syno_nni.run.state import RunState
from syno_nni.search_spaces.backbone import backbone_space
from syno_nni.strategies import SynoStrategy, strategy_of

from .evaluators import evaluator_of
from .finals import race, write_winner
from .healing import RetrofitEvaluator
from .library_run import Budget, assembly_of, fill_library, share_out, with_unseen_images, with_weights
from .preflight import check, check_code

_log = logging.getLogger(__name__)


def run_search(config: SearchConfig, run_dir: Path, *, resume: bool = False, listener: Listener | None = None,
               tell: Callable[[str], None] = print) -> RunState:
    """Search by an experiment file, or go on with a search, and return what is known in the end.

    The winner and the baseline are then trained once more, by the same recipe, for their accuracy on the test split.

    Args:
        config: of the search. Resuming wants the one it began with, but for budget, engine and port.
        run_dir: of the run; made when new.
        resume: go on with the run in ``run_dir``.
        listener: called with every journal record and the state after it.
        tell: gets a line of text for people now and then: data, slots, the address of the web UI.

    Raises:
        SynoError: of several kinds, with a message of one line, for whatever is wrong with the input; nothing is
            changed then. An :class:`EngineError` when NNI fails later: the run can be resumed.
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP stopped the search; it can be resumed.
    """
    if config.engine != 'sequential':
        check_node()
        check_port(config.port)
    if config.engine == 'remote':
        check_port(config.port + 1)  # where the other machines report
    for machine in config.machine_list if config.engine == 'remote' else ():
        if not Path(machine.ssh_key_file).expanduser().is_file():
            raise ConfigError(f'machineList: there is no SSH key {machine.ssh_key_file} for {machine.user}@{machine.host}')
    check(config)
    check_code(config)
    wait_asleep(config.latency.threads)
    data = load_data(config.data, config.trial_code_directory)
    config = with_sizes(config, data)
    tell(data.summary())
    for note in inspect(data):
        tell(f'data: {note}')
    if config.retrofits:
        return retrofit_search(config, run_dir, data, resume=resume, listener=listener, tell=tell)
    evaluator = evaluator_of(config, data)
    space = backbone_space(config, data)
    tell(f'{config.model.title}: ' + '; '.join(f'{label}: {len(slots)} slots' for label, slots in space.groups.items())
         + f'; {len(space.excluded)} layers stay (`syno-nni slots {config.model.title}` lists them)')
    strategy = strategy_of(config)
    for choice in space.simplify().values():
        choice.space  # noqa: B018 - built here, so that an impossible space is an error before anything starts
    with open_run(config, run_dir, resume=resume, listener=listener) as journal, interruptible():
        try:
            strategy.journal = journal
            _restore(strategy, journal)
            if (change := _other_order(journal)) is not None:
                tell(change)
            _search(config, run_dir, journal.state, space, evaluator, strategy, tell)
            _test(journal, space, evaluator, tell)
        except BaseException as error:
            _ended_by(journal, error)
            raise
        journal.append(Ended(reason=strategy.ended or 'budget'))
        return journal.state


def retrofit_search(config: SearchConfig, run_dir: Path, data: Splits, *, resume: bool, listener: Listener | None,
                    tell: Callable[[str], None]) -> RunState:
    """:func:`run_search` from the weights of the original: library, score, solve, heal."""
    started = time.monotonic()
    with open_run(config, run_dir, resume=resume, listener=listener) as journal, interruptible():
        earlier_s = journal.state.elapsed_s
        try:
            trained = time.monotonic()
            config = with_weights(config, data, run_dir, tell)
            config, data = with_unseen_images(config, data, tell)
            config = config.replace(run_directory=str(run_dir.absolute()))
            # Training an original that had no weights is not the search's time.
            budget = Budget(started + time.monotonic() - trained - earlier_s, config.max_experiment_duration)
            evaluator = evaluator_of(config, data)
            assert isinstance(evaluator, RetrofitEvaluator)
            evaluator.progress = sys.stderr.isatty()
            library = fill_library(config, evaluator, journal, budget, tell)
            config = share_out(config, evaluator, library, budget)
            evaluator.config = config
            space = backbone_space(config, data)
            strategy = assembly_of(config, library, space.groups, budget)
            strategy.journal = journal
            _restore(strategy, journal)
            _search(config, run_dir, journal.state, space, evaluator, strategy, tell)
            models = FlatModelSpace.from_model(space, evaluator)
            race(config, journal, models, evaluator, budget, tell)
            _test(journal, space, evaluator, tell)
            write_winner(config, journal, models, evaluator, run_dir, tell)
        except BaseException as error:
            _ended_by(journal, error)
            raise
        journal.append(Ended(reason='budget' if strategy.ended in (None, 'exhausted') else strategy.ended))
        return journal.state


def with_sizes(config: SearchConfig, data: Splits) -> SearchConfig:
    """The configuration with image size and channels of the data, where a function of the user's makes them."""
    if config.data.factory is None:
        return config
    sizes = {'image_size': data.image_size, 'channels': data.channels}
    return config.replace(data=config.data.model_copy(update=sizes).model_dump(by_alias=True))


def _restore(strategy: SynoStrategy, journal: Journal) -> None:
    try:
        strategy.restore(journal.state)
    except SynoError as error:
        raise JournalError(f'{show_path(journal.path)}: cannot go on from what it records: {error}') from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise JournalError(f'{show_path(journal.path)}: cannot go on from what it records '
                           f'({type(error).__name__}: {error}); restore the file from a copy') from error


def filtered(strategy: Strategy, config: SearchConfig, space: ModelSpace) -> Strategy:
    """A strategy whose candidates are rejected before a trial is started when they are larger than the objective
    allows."""
    if config.objective.max_macs is None and config.objective.max_params is None:
        return strategy
    shape = (1, config.data.channels, config.data.image_size, config.data.image_size)
    profilers = {'macs': MacsProfiler(space, shape), 'params': ParamsProfiler(space, shape)}
    return Chain(strategy, ProfilerFilter(profilers, lambda size: config.objective.too_large(**size)))


def _search(config: SearchConfig, run_dir: Path, state: RunState, space: ModelSpace, evaluator: OperatorEvaluator,
            strategy: SynoStrategy, tell: Callable[[str], None]) -> None:
    begun = [c for c in state.operators if c.started]
    trials = config.max_trial_number - len(begun) + len(state.in_flight) + (BASELINE not in state.candidates)
    if trials <= 0:
        strategy.ended = 'budget'
        return
    experiment = make_experiment(space, evaluator, filtered(strategy, config, space), config, run_dir / 'nni', trials)
    run_experiment(experiment, config.port, lambda url: tell(f'NNI web UI: {url}') if url else None)


def _test(journal: Journal, space: ModelSpace, evaluator: OperatorEvaluator, tell: Callable[[str], None]) -> None:
    """Take the test accuracies that are missing: the baseline's and the best operator's."""
    state = journal.state
    untested = [c for c in (state.baseline, state.best) if c is not None and not c.test_metrics]
    if not untested:
        return
    if not isinstance(evaluator, RetrofitEvaluator):
        tell('accuracy on the test split: training ' + ' and '.join(c.id for c in untested) + ' once more')
    model_space = FlatModelSpace.from_model(space, evaluator)
    for candidate in untested:
        metrics = evaluator.test(model_space.freeze(dict(candidate.sample)))
        journal.append(Tested(id=candidate.id, metrics=metrics))


def _other_order(journal: Journal) -> str | None:
    """What a resumed search cannot have in common with an uninterrupted one, in words: how many trials run at a time decides
    what is known when the next one is proposed."""
    sessions = [record.config for record in journal.records if isinstance(record, Header | Resumed)][-2:]
    before, now = (1 if config.get('engine') == 'sequential' else config.get('trialConcurrency')
                   for config in (sessions[0], sessions[-1]))
    if before == now:
        return None
    return f'trials at a time: {before} -> {now}; what follows differs from an uninterrupted search'


def _ended_by(journal: Journal, error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt):
        _end(journal, Ended(reason='interrupted'))
    elif isinstance(error, Exception):
        _end(journal, Ended(reason='error', message=f'{type(error).__name__}: {error}'))


def _end(journal: Journal, record: Ended) -> None:
    """Note the end, unless the journal is what failed: then that is what is raised, and said once."""
    try:
        journal.append(record)
    except JournalError as error:
        _log.info('the end of the search could not be recorded: %s', error)
