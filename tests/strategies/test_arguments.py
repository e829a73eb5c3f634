"""``strategy.classArgs`` are checked by the strategies' own signatures."""
from __future__ import annotations

import inspect
from typing import Any

import pytest

from syno_nni.errors import ConfigError
from syno_nni.run.config import SearchConfig
from syno_nni.strategies import SynoStrategy, check_strategy, make_strategy, strategy_names
from syno_nni.strategies.arguments import AtLeastOne, check_arguments


def _config(name: str, arguments: dict[str, Any]) -> Any:
    return SearchConfig.from_dict({'model': {'name': 'a'}, 'strategy': {'name': name, 'classArgs': arguments}}).strategy


@pytest.mark.parametrize('name', strategy_names())
@pytest.mark.parametrize(('arguments', 'message'), [
    ({'concurrency': -1}, 'concurrency: should be greater than or equal to 1, got -1'),
    ({'concurrency': 0}, 'equal to 1, got 0'),
    ({'patience': 0}, 'patience: should be greater'), ({'max_trials': -1}, 'max_trials: should be greater'),
    ({'max_trials': 1.5}, 'max_trials'), ({'max_attempts': 0}, 'max_attempts'), ({'baseline': 'no'}, 'should be true or false'),
    ({'baseline': 1}, 'should be true or false'), ({'max_duration_s': 0}, 'max_duration_s'), ({'patience': [1]}, 'patience'),
    ({'patience': '7'}, 'patience'), ({'concurency': 1}, "unknown key 'concurency'; did you mean 'concurrency'"),
    ({'journal': 'x'}, "unknown key 'journal'"), ({'seed': 3}, 'write strategy.seed instead'),
    ({'self': 3}, "unknown key 'self'"),
    ({'max_trials': True}, 'max_trials')])
def test_every_strategy_refuses(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_strategy(_config(name, arguments))
    assert message in str(caught.value) and str(caught.value).startswith('strategy.classArgs') and '\n' not in str(caught.value)


@pytest.mark.parametrize(('name', 'arguments'), [
    ('evolution', {'population_size': 0}), ('evolution', {'random_share': 1.1}), ('evolution', {'children': 'many'}),
    ('mcts', {'widening': 0}), ('mcts', {'widening': 2}), ('mcts', {'exploration': -0.1}), ('mcts', {'power': 0}),
    ('mcts', {'playouts': {}}), ('mcts', {'trust': None}), ('random', {'population_size': 3})])
def test_their_own_arguments(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match='strategy.classArgs'):
        check_strategy(_config(name, arguments))


@pytest.mark.parametrize(('name', 'arguments'), [
    ('evolution', {'warm_up': 4, 'random_share': 0, 'max_trials': None}), ('mcts', {'exploration': 1, 'widening': 1}),
    ('random', {'concurrency': 2, 'baseline': False})])
def test_what_they_take(name: str, arguments: dict[str, Any]) -> None:
    check_strategy(_config(name, arguments))
    make_strategy(name, **arguments)


@pytest.mark.parametrize('name', strategy_names())
def test_defaults_keep_their_bounds(name: str) -> None:
    parameters = {p.name: p.default for cls in type(make_strategy(name)).__mro__ if '__init__' in vars(cls)
                  for p in inspect.signature(cls.__init__).parameters.values() if p.kind is p.KEYWORD_ONLY}
    del parameters['seed'], parameters['journal']
    check_arguments(type(make_strategy(name)), parameters)


def test_a_strategy_of_ones_own_says_its_bounds() -> None:
    class Mine(SynoStrategy):
        def __init__(self, *, width: AtLeastOne = 8, **arguments: Any) -> None:
            super().__init__(**arguments)

    check_arguments(Mine, {'width': 3, 'patience': 5})
    with pytest.raises(ConfigError, match='width: should be greater'):
        check_arguments(Mine, {'width': 0})
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        check_arguments(Mine, {'widht': 3})
