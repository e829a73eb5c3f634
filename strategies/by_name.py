"""Strategies by the names that experiment files use."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from syno_nni import strategies
from syno_nni.errors import ConfigError, shown
from syno_nni.text import did_you_mean

from .arguments import check_arguments

if TYPE_CHECKING:
    from syno_nni.run.config import SearchConfig, StrategyConfig

    from .base import SynoStrategy

_OURS = {'random': 'SynoRandom', 'evolution': 'SynoEvolution', 'mcts': 'SynoMCTS'}
_OF_NNI = {name: f'Nni{name}' for name in ('Random', 'GridSearch', 'RegularizedEvolution', 'TPE', 'PolicyBasedRL')}
_BY_NAME = _OURS | _OF_NNI


def strategy_names() -> tuple[str, ...]:
    """The names of our strategies, all of which :func:`make_strategy` knows."""
    return tuple(_OURS)


def nni_strategy_names() -> tuple[str, ...]:
    """The names of NNI's strategies that it knows beside them, as NNI writes them."""
    return tuple(_OF_NNI)


def make_strategy(name: str, **arguments: Any) -> SynoStrategy:
    """A strategy by the name used in experiment files.

    Raises:
        ConfigError: no strategy is called so, or it does not take these arguments.
    """
    try:
        return _class(name)(**arguments)
    except TypeError as error:
        raise ConfigError(f'strategy.classArgs: {_BY_NAME[name]} does not take these arguments: {error}') from None


def check_strategy(config: StrategyConfig) -> None:
    """Whether there is such a strategy, and takes the ``classArgs``.

    Raises:
        ConfigError: there is none, or an argument is unknown, of another type, or out of its bounds.
    """
    check_arguments(_class(config.name), config.class_args)


def _class(name: str) -> type[SynoStrategy]:
    if name not in _BY_NAME:
        raise ConfigError(f'strategy.name: there is no strategy {shown(name)}; {did_you_mean(name, _BY_NAME)}')
    found: type[SynoStrategy] = getattr(strategies, _BY_NAME[name])
    return found


def strategy_of(config: SearchConfig, *, limits: bool = True) -> SynoStrategy:
    """The strategy of an experiment file; without its ``limits`` where somebody else keeps them.

    Raises:
        ConfigError: as :func:`check_strategy`.
    """
    check_strategy(config.strategy)
    kept = {'max_trials': config.max_trial_number, 'max_duration_s': config.max_experiment_duration,
            'max_trial_duration_s': config.max_trial_duration,
            'concurrency': 1 if config.engine == 'sequential' else config.trial_concurrency} if limits else {}
    if config.engine != 'sequential':
        kept['max_attempts'] = None  # a trial that dies takes nothing along
    return make_strategy(config.strategy.name, seed=config.strategy.seed, **(kept | config.strategy.class_args))
