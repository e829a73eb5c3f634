"""On simulated landscapes: the engine keeps its clock, and strategies that learn beat random search."""
from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass

import numpy as np
import pytest

from syno_nni.errors import EngineError
from syno_nni.nas.mutable import KEEP
from syno_nni.operator import Operator
from syno_nni.strategies import make_strategy
from syno_nni.strategies.landscape import SimulatedResult, SyntheticLandscape
from syno_nni.strategies.simulation import SimulatedEngine, simulated_space
from syno_nni.testing.toy import ToyAction

from ..testing import toy

BINDING = {'N': 1, 'C_in': 16, 'C_out': 32, 'H': 16, 'k_1': 3, 'k_2': 7, 's': 2, 'g': 8}
_AXES = ('{0}', 'unfold({0}, {1}:k_1)', 'unfold({0}, {1}:k_2)', 'shift({0}, 1)', 'shift(unfold({0}, {1}:k_1), 1)')
_WEIGHTS = (('w1[o, c{i}{j}]',), ('w1[o, c{i}]', 'w2[c{j}]'), ('w1[o, c{j}]', 'w2[o{i}]'))


def _operator(h: int, w: int, weights: int) -> Operator:
    sums, letters = ['c:C_in'], {}
    for letter, axis in (('i', h), ('j', w)):
        letters[letter] = f', {letter}' if '{1}' in _AXES[axis] else ''
        if '{1}' in _AXES[axis]:
            sums.append(f'{letter}:{_AXES[axis].partition("{1}:")[2].partition(")")[0]}')
    at = [_AXES[axis].format(name, letter).replace(f'{letter}:k_1', letter).replace(f'{letter}:k_2', letter)
          for axis, name, letter in ((h, 'h', 'i'), (w, 'w', 'j'))]
    factors = ' * '.join(weight.format(**letters) for weight in _WEIGHTS[weights])
    return Operator.parse(f'out[n:N, o:C_out, h:H, w:H] = sum[{", ".join(sums)}] in[n, c, {", ".join(at)}] * {factors}')


DECISIONS = (len(_AXES), len(_AXES), len(_WEIGHTS))
OPERATORS = {digits: _operator(*digits) for digits in itertools.product(*map(range, DECISIONS))}
DIGITS = {op.id: digits for digits, op in reversed(OPERATORS.items())}


@dataclass(frozen=True)
class State:
    key: tuple[int, ...] = ()

    @property
    def is_final(self) -> bool:
        return len(self.key) == len(DECISIONS)


class GridSpace(toy.ToySpace):
    """Three decisions: what happens along each image side, and how the weights are factored."""

    root = State()

    def contains(self, op: Operator) -> bool:
        return op.id in DIGITS

    def sample(self, rng: np.random.Generator | np.random.RandomState) -> Operator:
        return self.complete(self.root, rng)

    def complete(self, state: State, rng: np.random.Generator, thorough: bool = True) -> Operator:
        rest = [int(rng.choice(n)) for n in DECISIONS[len(state.key):]]
        return OPERATORS[*state.key, *rest]

    def neighbour(self, op: Operator, rng: np.random.Generator) -> tuple[Operator, int]:
        digits, place = list(DIGITS[op.id]), int(rng.integers(len(DECISIONS)))
        digits[place] = int(rng.integers(DECISIONS[place]))
        return OPERATORS[tuple(digits)], place

    def actions(self, state: State) -> list[ToyAction]:
        return [ToyAction(d, len(state.key)) for d in range(DECISIONS[len(state.key)])]

    def step(self, state: State, action: ToyAction) -> State:
        return State((*state.key, action.digit))

    def path(self, op: Operator) -> list[ToyAction]:
        return [ToyAction(d, place) for place, d in enumerate(DIGITS[op.id])]


@pytest.fixture
def _grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: GridSpace())


def _best(name: str, seed: int, landscape: SyntheticLandscape, trials: int = 24) -> float:
    """The objective without noise of what the search puts first."""
    engine = SimulatedEngine(landscape, trials, workers=2)
    make_strategy(name, seed=seed, baseline=False, concurrency=2)(simulated_space({'preset': 'grid'}), engine)
    good = [t.result for t in engine.finished if t.result.error is None]
    return max(good, key=lambda e: e.metrics['default']).value


def test_evolution_and_tree_search_beat_random(_grid: None) -> None:
    results: dict[str, list[float]] = {'random': [], 'evolution': [], 'mcts': []}
    for seed in range(16):
        landscape = SyntheticLandscape([BINDING], seed)
        everything = [landscape({'operator': str(op)}).value for op in set(OPERATORS.values())]
        spread = statistics.pstdev(v for v in everything if v > -1)
        for name, found in results.items():
            # How far from the best of all, in standard deviations of the landscape.
            found.append((_best(name, seed, landscape) - max(everything)) / spread)
    means = {name: statistics.mean(found) for name, found in results.items()}
    assert means['evolution'] > 0.6 * means['random'], 'the gap to the optimum shrinks by 40 % at least'
    assert means['mcts'] > 0.6 * means['random']


def test_the_clock_is_simulated() -> None:
    seconds = {'a': 5.0, 'b': 2.0, 'c': 4.0}

    class Model:
        def __init__(self, name: str) -> None:
            self.sample = {'operator': name}
            self.status = None
            self.metrics = type('Metrics', (), {'final': None})()

    engine = SimulatedEngine(lambda sample: SimulatedResult({'default': 1.0}, seconds[sample['operator']], 1.0), 3, workers=2)
    engine.submit_models(*map(Model, 'abc'))
    assert [(t.sample['operator'], t.at_s) for t in engine.finished] == [('b', 2.0), ('a', 5.0), ('c', 6.0)]
    assert not engine.budget_available()
    with pytest.raises(EngineError, match='budget of 3'):
        engine.submit_models(Model('a'))


def test_the_landscape_is_fixed_and_makes_sense() -> None:
    quiet = SyntheticLandscape([BINDING], ruggedness=0, noise=0, failure_rate=0)
    both, one, none = (OPERATORS[digits] for digits in ((1, 1, 0), (1, 0, 0), (0, 0, 0)))
    assert quiet.accuracy(both) > quiet.accuracy(one) > quiet.accuracy(none)
    assert quiet.latency_ms(both) > quiet.latency_ms(one) > quiet.latency_ms(none)
    sample = {'operator': str(one)}
    assert SyntheticLandscape([BINDING], 5)(sample) == SyntheticLandscape([BINDING], 5)(sample)
    assert SyntheticLandscape([BINDING], 5)(sample) != SyntheticLandscape([BINDING], 6)(sample)
    kept = quiet({'operator': KEEP})
    assert kept.metrics['speedup'] == pytest.approx(1, rel=0.1) and kept.error is None
    failing = SyntheticLandscape([BINDING], failure_rate=1.0)
    assert failing(sample).error.kind == 'died' and failing({'operator': KEEP}).error is None
