"""NNI's strategies by name: journal, budget and resume as ours have them."""
from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from syno_nni.errors import ConfigError
from syno_nni.run.config import SearchConfig
from syno_nni.strategies import check_strategy, make_strategy, nni_strategy_names, strategy_of
from syno_nni.testing import toy
from syno_nni.testing.strategies import STRATEGY_CHECKS, search
from syno_nni.testing.toy import ToyJournal

NOT_THEIRS = ('proposing_changes_nothing', 'several_at_a_time_replay')
"""A strategy of NNI moves on with every proposal; and when it has two outcomes at once, their order is lost."""


@pytest.fixture(autouse=True)
def _toy_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: toy.ToySpace())


@pytest.mark.parametrize('check', [c for c in STRATEGY_CHECKS if c.__name__ not in NOT_THEIRS], ids=lambda c: c.__name__)
def test_they_keep_what_strategies_promise(check: Any) -> None:
    check(partial(make_strategy, 'RegularizedEvolution', population_size=4, sample_size=2))


@pytest.mark.parametrize('check', [c for c in STRATEGY_CHECKS if c.__name__ in ('budget_is_used_and_kept', 'notes_are_json',
                                                                               'every_outcome_is_survived')],
                         ids=lambda c: c.__name__)
@pytest.mark.parametrize('name', ['Random', 'GridSearch'])
def test_others_keep_the_essential(name: str, check: Any) -> None:
    check(partial(make_strategy, name))


def test_tpe_searches_a_pool() -> None:
    journal = ToyJournal()
    strategy, engine = search(partial(make_strategy, 'TPE', pool=4), journal, max_trials=3)
    assert len(engine.order) == 4 and strategy.ended == 'budget'
    assert all(trial.outcome is not None for trial in journal.state.operators)


def test_a_fault_of_theirs_ends_the_search_with_its_name() -> None:
    from syno_nni.errors import SpaceError, SynoError
    with pytest.raises(SynoError, match='pool is to hold 5000') as caught:
        search(partial(make_strategy, 'TPE', pool=5000), ToyJournal(), max_trials=3)
    assert isinstance(caught.value.__cause__, SpaceError)


def _config(name: str, **arguments: Any) -> SearchConfig:
    return SearchConfig.from_dict({'model': {'name': 'a'}, 'strategy': {'name': name, 'classArgs': arguments, 'seed': 3}})


def test_a_file_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in nni_strategy_names():
        check_strategy(_config(name).strategy)
        if name != 'PolicyBasedRL':
            strategy = strategy_of(_config(name))
            assert type(strategy).__name__ == f'Nni{name}' and strategy.seed == 3
            assert type(strategy.make()).__name__ == name
    with pytest.raises(ConfigError, match="unknown key 'poool'; did you mean 'pool'"):
        check_strategy(_config('TPE', poool=3).strategy)
    with pytest.raises(ConfigError, match='at most population_size, 2, got 3'):
        strategy_of(_config('RegularizedEvolution', population_size=2, sample_size=3))
    with pytest.raises(ConfigError, match=r'strategy.name.*DARTS trains one network.*choose mcts'):
        _config('DARTS')


def test_what_reinforcement_learning_needs_is_named() -> None:
    try:
        import tianshou  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match='needs tianshou.*syno-nni.rl.'):
            strategy_of(_config('PolicyBasedRL'))
    else:
        search(partial(make_strategy, 'PolicyBasedRL', pool=4, samples_per_update=2), ToyJournal(), max_trials=3)
