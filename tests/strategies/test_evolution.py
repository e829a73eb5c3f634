"""Evolution climbs."""
from __future__ import annotations

import numpy as np
import pytest

from syno_nni.run.candidate import Failure, Miss
from syno_nni.strategies import Candidate, Outcome, SynoEvolution

from ..testing import toy


@pytest.fixture
def strategy(monkeypatch: pytest.MonkeyPatch) -> SynoEvolution:
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: toy.ToySpace())
    strategy = SynoEvolution(population_size=3, sample_size=3, warm_up=2, random_share=0.0, children=1)
    strategy.initialize(toy.model_space(), toy.ToyEngine(toy.landscape))
    return strategy


def _observe(strategy: SynoEvolution, index: int, reward: float | None) -> None:
    candidate = Candidate(index + 1, {'operator': str(list(toy.OPERATORS.values())[index])})
    failed = reward is None
    strategy.observe(Outcome.failed(candidate, 'died', '') if failed else Outcome(candidate, {'default': reward}))


def test_children_are_neighbours_of_the_best(strategy: SynoEvolution) -> None:
    for index, reward in ((1, 0.1), (5, 0.9), (3, None), (8, 0.2)):
        _observe(strategy, index, reward)
    formulas = [str(op) for op in toy.OPERATORS.values()]
    children = {formulas.index(strategy.propose(np.random.default_rng(seed)).sample['operator']) for seed in range(20)}
    assert children == {4, 6}


def test_of_many_children_the_most_promising_is_chosen(strategy: SynoEvolution) -> None:
    for index, reward in ((1, 0.1), (5, 0.9), (8, 0.2)):
        _observe(strategy, index, reward)
    strategy.children = 16
    formulas = [str(op) for op in toy.OPERATORS.values()]
    chosen = {formulas.index(strategy.propose(np.random.default_rng(seed)).sample['operator']) for seed in range(10)}
    assert len(chosen) == 1 and chosen < {4, 6}


def test_the_oldest_leave(strategy: SynoEvolution) -> None:
    for index, reward in ((5, 0.9), (1, 0.1), (2, 0.1), (3, 0.3)):
        _observe(strategy, index, reward)
    assert [o.reward for o in strategy.population] == [0.1, 0.1, 0.3]


def _reject(strategy: SynoEvolution, index: int, missed_by: float) -> None:
    candidate = Candidate(index + 1, {'operator': str(list(toy.OPERATORS.values())[index])})
    strategy.observe(Outcome.judge(candidate, Failure.rejection(Miss('too slow', missed_by), 'latency').report()))


def test_among_rejected_ones_the_nearest_to_the_limit_is_the_parent(strategy: SynoEvolution) -> None:
    for index, missed_by in ((1, 0.9), (5, 0.1), (8, 0.5)):
        _reject(strategy, index, missed_by)
    formulas = [str(op) for op in toy.OPERATORS.values()]
    children = {formulas.index(strategy.propose(np.random.default_rng(seed)).sample['operator']) for seed in range(20)}
    assert children == {4, 6}


def test_rejected_ones_never_drive_out_a_result(strategy: SynoEvolution) -> None:
    _reject(strategy, 0, 0.1)
    for index, reward in ((5, 0.9), (1, -7.0)):
        _observe(strategy, index, reward)
    _reject(strategy, 2, 0.2)
    assert [o.reward for o in strategy.population] == [0.9, -7.0, None], 'an older rejected one leaves'
    _observe(strategy, 3, 0.3)
    _reject(strategy, 4, 0.01)
    assert [o.reward for o in strategy.population] == [0.9, -7.0, 0.3]


def test_random_until_warm(strategy: SynoEvolution) -> None:
    _observe(strategy, 5, 0.9)
    assert len({strategy.propose(np.random.default_rng(seed)).sample['operator'] for seed in range(50)}) > 4
