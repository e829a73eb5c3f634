"""The search: from an experiment file to a finished run directory.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from nni.nas.strategy import Strategy
from nni.nas.strategy.middleware import Chain

from syno_nni.data.inspection import inspect
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

from .preflight import check

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
    wait_asleep(config.latency.threads)
    evaluator = OperatorEvaluator(config.to_dict())
    tell(evaluator.data.summary())
    for note in inspect(evaluator.data):
        tell(f'data: {note}')
    space = backbone_space(config, evaluator.data)
    tell(f'{config.model.name}: ' + '; '.join(f'{label}: {len(slots)} slots' for label, slots in space.groups.items())
         + f'; {len(space.excluded)} layers stay (`syno-nni slots {config.model.name}` lists them)')
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
        except KeyboardInterrupt:
            _end(journal, Ended(reason='interrupted'))
            raise
        except Exception as error:
            _end(journal, Ended(reason='error', message=f'{type(error).__name__}: {error}'))
            raise
        journal.append(Ended(reason=strategy.ended or 'budget'))
        return journal.state


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


def _end(journal: Journal, record: Ended) -> None:
    """Note the end, unless the journal is what failed: then that is what is raised, and said once."""
    try:
        journal.append(record)
    except JournalError as error:
        _log.info('the end of the search could not be recorded: %s', error)
