"""Strategies by the names that experiment files use."""
from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from syno_nni import strategies
from syno_nni.errors import ConfigError

if TYPE_CHECKING:
    from .base import SynoStrategy

_BY_NAME = {'random': 'SynoRandom', 'evolution': 'SynoEvolution', 'mcts': 'SynoMCTS'}


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
        return getattr(strategies, _BY_NAME[name])(**arguments)
    except TypeError as error:
        raise ConfigError(f'strategy.classArgs: {_BY_NAME[name]} does not take these arguments: {error}') from None
