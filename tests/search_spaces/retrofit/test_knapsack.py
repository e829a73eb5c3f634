from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from syno_nni.errors import SlotError
from syno_nni.search_spaces.retrofit.knapsack import KEEP, Option, one_for_all, options_from, pareto, solve


def random_options(rng: np.random.Generator, groups: int, operators: int) -> dict[str, list[Option]]:
    return {f'g{i}': [Option(KEEP, float(rng.uniform(1, 3)))] + [
        Option(f'op{j}', float(rng.uniform(0.2, 3)), float(rng.uniform(-0.1, 1))) for j in range(operators)]
        for i in range(groups)}


def every_assignment(options):
    for chosen in itertools.product(*options.values()):
        yield math.fsum(o.latency_ms for o in chosen), math.fsum(o.loss for o in chosen)


@pytest.mark.parametrize('seed', range(8))
def test_agrees_with_trying_everything(seed):
    options = random_options(np.random.default_rng(seed), groups=5, operators=3)
    points = sorted(every_assignment(options))
    front = pareto(options)
    for budget in np.linspace(points[0][0] + 1e-3, points[-1][0], 7):
        want = min(loss for ms, loss in points if ms <= budget)
        assert solve(options, max_latency_ms=budget).loss == pytest.approx(want, abs=1e-3)
    for budget in (0.0, 0.3, 1.0, 10.0):
        want = min(ms for ms, loss in points if loss <= budget)
        assert solve(options, max_loss=budget).latency_ms == pytest.approx(want, abs=1e-3)
    assert all(a.latency_ms < b.latency_ms and a.loss > b.loss for a, b in itertools.pairwise(front))


def test_many_groups_take_no_time():
    front = pareto(random_options(np.random.default_rng(0), groups=48, operators=6))
    assert len(front) > 100


def test_is_at_least_as_good_as_one_operator_for_all():
    options = random_options(np.random.default_rng(3), groups=8, operators=4)
    for rival in one_for_all(options):
        assert solve(options, max_loss=rival.loss).latency_ms <= rival.latency_ms + 1e-3
    assert len(one_for_all(options)) == 5


def test_both_budgets():
    options = {'a': [Option(KEEP, 2.0), Option('x', 1.0, 0.5)], 'b': [Option(KEEP, 2.0), Option('x', 1.0, 0.7)]}
    assert solve(options, max_latency_ms=3.0, max_loss=0.6).choices == {'a': 'x', 'b': KEEP}
    with pytest.raises(SlotError, match='the fastest takes 2 ms at loss 1.2, the safest 4 ms at loss 0'):
        solve(options, max_latency_ms=2.5, max_loss=0.6)


def test_keeping_is_always_possible():
    options = options_from({'a': {KEEP: 2.0, 'x': 1.0, 'y': 0.5}}, {'a': {'x': 0.4}})
    assert [o.name for o in options['a']] == [KEEP, 'x']
    assert solve(options, max_loss=0.0).choices == {'a': KEEP}


@pytest.mark.parametrize(('options', 'words'), [
    ({}, 'no slot group'),
    ({'a': [Option('x', 1.0)]}, "lacks the option 'keep'"),
    ({'a': [Option(KEEP, math.nan)]}, 'must be finite'),
    ({'a': [Option(KEEP, -1.0)]}, 'not negative'),
])
def test_bad_options(options, words):
    with pytest.raises(SlotError, match=words):
        pareto(options)


def test_needs_a_budget_and_the_original_latency():
    with pytest.raises(SlotError, match='give a budget'):
        solve({'a': [Option(KEEP, 1.0)]})
    with pytest.raises(SlotError, match="no latency for 'keep'"):
        options_from({'a': {'x': 1.0}}, {})
