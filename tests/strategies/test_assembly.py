"""Bisection for the fastest model that can be healed, and an exploration that fills the library."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from syno_nni.errors import ConfigError
from syno_nni.nas.mutable import OperatorChoice
from syno_nni.operator import Operator, classics
from syno_nni.run.candidate import BASELINE, KEEP, Outcome
from syno_nni.search_spaces.retrofit.knapsack import Assignment
from syno_nni.strategies import make_strategy
from syno_nni.strategies.assembly import SynoAssembly
from syno_nni.strategies.explore import explore

FORMULAS = [str(classics.pointwise()), str(classics.depthwise_separable())]


class Front:
    """A library with a front of many models: n of 24 slots are replaced, each saves 3 %."""
    slots = [f'layer{n}' for n in range(24)]

    def front(self) -> list[Assignment]:
        return [Assignment({s: FORMULAS[0] if i < n else KEEP for i, s in enumerate(self.slots)}, 100 - 3.0 * n, 0.01 * n ** 2)
                for n in range(24, -1, -1)]

    def speedup(self, assignment: Assignment) -> float:
        return 100 / assignment.latency_ms

    def sample(self, assignment: Assignment) -> dict[str, str]:
        return dict(assignment.choices)

    def one_for_all(self) -> list[Assignment]:
        return [Assignment(dict.fromkeys(self.slots, f), 40.0, 9.0) for f in FORMULAS]


def _strategy(**arguments: Any) -> SynoAssembly:
    strategy = SynoAssembly(max_loss=0.01, hope=2.0, **arguments)
    strategy.library = Front()  # type: ignore[assignment]
    strategy.labels = {s: f'operator:{s}' for s in Front.slots}
    strategy.begin({label: OperatorChoice({'preset': 'conv2d'}, label=label, any_operator=True)
                    for label in strategy.labels.values()})
    return strategy


def _run(strategy: SynoAssembly, loss: Any, trials: int = 30) -> list[tuple[float, str]]:
    done = []
    for _ in range(trials):
        candidate = strategy.ask()
        if candidate is None:
            break
        if candidate.id == BASELINE:
            strategy.tell(Outcome(candidate, {'default': 0.0, 'accuracy': 0.9}))
            continue
        speedup = candidate.note['speedup']
        strategy.tell(Outcome(candidate, {'default': 0.0, 'accuracy': 0.9 - loss(speedup)}))
        done.append((speedup, candidate.note['kind']))
    return done


@pytest.mark.parametrize('limit', [1.2, 1.6, 2.4, 3.3])
def test_it_finds_the_fastest_that_keeps_the_accuracy(limit: float) -> None:
    done = _run(_strategy(), lambda speedup: 0.001 if speedup <= limit else 0.05)
    tried = [speedup for speedup, kind in done if kind == 'front']
    fastest = max(s for s in (100 / (100 - 3 * n) for n in range(25)) if s <= limit)
    assert max(s for s in tried if s <= limit) == pytest.approx(fastest, rel=0.04)
    assert len(tried) <= 8 and len(set(tried)) == len(tried)


def test_it_ends_and_tries_one_rival() -> None:
    done = _run(_strategy(), lambda speedup: 0.0)
    assert [kind for _, kind in done].count('one for all') == 1 and len(done) < 30


def test_several_at_a_time_are_different() -> None:
    strategy = _strategy(concurrency=3)
    first = strategy.ask()
    assert first is not None and first.id == BASELINE
    strategy.tell(Outcome(first, {'default': 0.0, 'accuracy': 0.9}))
    speedups = [c.note['speedup'] for _ in range(3) if (c := strategy.ask()) is not None]
    assert len(set(speedups)) == 3


def test_it_wants_a_library_and_a_sane_limit() -> None:
    with pytest.raises(ConfigError, match='needs a library'):
        SynoAssembly().propose(np.random.default_rng(0))
    with pytest.raises(ConfigError, match='max_loss'):
        SynoAssembly(max_loss=0.0)


class Counting:
    """A library that likes operators with few multiply-adds and remembers what it was asked."""

    def __init__(self) -> None:
        self.screened, self.scored, self.entries = 0, [], {}

    def screen(self, op: Operator, origin: str = '') -> Any:
        self.screened += 1
        return self.entries.setdefault(str(op), type('Entry', (), {'formula': str(op), 'changes': {}, 'saved_ms': {}})())

    def gain(self, entry: Any) -> float:
        return 1.0 / len(entry.formula)

    def score(self, entries: Any) -> None:
        for entry in entries:
            entry.changes['slot'] = 1.0
            self.scored.append(entry.formula)


SMALL = {'preset': 'linear', 'bindings': [{'N': 1, 'C_in': 16, 'C_out': 16, 'T': 4, 's': 2, 'g': 4}]}


@pytest.mark.parametrize('name', ['random', 'evolution', 'mcts'])
def test_any_strategy_explores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('syno_nni.strategies.explore.BATCH', 4)
    library: Any = Counting()
    explore(library, make_strategy(name, seed=1, baseline=False), OperatorChoice(SMALL, label='operator'),
            seeds=[classics.linear()], operators=10)
    assert library.screened == 10 and len(library.scored) == len(set(library.scored)) > 4


def test_an_exploration_that_goes_on_screens_the_rest() -> None:
    library: Any = Counting()
    library.screened = 60
    explore(library, make_strategy('random', baseline=False), OperatorChoice(SMALL, label='operator'), operators=60)
    assert library.screened == 60 and not library.scored
