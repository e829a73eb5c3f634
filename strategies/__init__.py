"""Exploration strategies of NNI that propose operators: random, evolution, tree search."""
from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

import syno_nni.nas  # noqa: F401 - silences a warning of NNI's import, before the modules below import NNI
from syno_nni.errors import ConfigError

if TYPE_CHECKING:
    from .base import SynoStrategy

_HOME = {'SynoRandom': 'random', 'SynoEvolution': 'evolution', 'SynoMCTS': 'mcts', 'SynoStrategy': 'base',
         'SynoTuner': 'tuner', 'Candidate': 'outcome', 'Outcome': 'outcome', 'Proposal': 'outcome'}
_BY_NAME = {'random': 'SynoRandom', 'evolution': 'SynoEvolution', 'mcts': 'SynoMCTS'}
__all__ = [*_HOME, 'make_strategy', 'strategy_names']


def __getattr__(name: str) -> Any:
    # Lazy, because a strategy imports NNI.
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'.{_HOME[name]}', __name__), name)


def strategy_names() -> tuple[str, ...]:
    """The names that :func:`make_strategy` knows."""
    return tuple(_BY_NAME)


def make_strategy(name: str, **arguments: Any) -> SynoStrategy:
    """A strategy by the name used in experiment files.

    Raises:
        ConfigError: no strategy is called so, or it does not take these arguments.
    """
    if name not in _BY_NAME:
        close = difflib.get_close_matches(name, _BY_NAME, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f'choose from {", ".join(_BY_NAME)}'
        raise ConfigError(f'strategy.name: there is no strategy {name!r}; {hint}')
    try:
        return __getattr__(_BY_NAME[name])(**arguments)
    except TypeError as error:
        raise ConfigError(f'strategy.classArgs: {_BY_NAME[name]} does not take these arguments: {error}') from None
