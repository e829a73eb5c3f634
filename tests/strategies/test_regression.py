"""What operators may be worth by the primitives that they use."""
from __future__ import annotations

import numpy as np
import pytest

from syno_nni.strategies.regression import PrimitiveRegression, Step

KINDS = ('Shift', 'Unfold', 'Merge', 'Reduce')


def _steps(*labels: str) -> list[Step]:
    return [Step(label.split()[0], label) for label in labels]


def _operators(count: int, rng: np.random.Generator) -> list[list[Step]]:
    return [_steps(*(f'{KINDS[rng.integers(4)]} {rng.integers(4)}' for _ in range(rng.integers(2, 7)))) for _ in range(count)]


def _worth(done: list[Step]) -> float:
    labels = [step.label for step in done]
    return 1.0 * ('Merge 2' in labels) - 0.5 * ('Reduce 1' in labels) + 0.3 * sum(step.kind == 'Unfold' for step in done)


@pytest.mark.parametrize('seed', range(5))
def test_it_tells_good_operators_from_bad_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    seen, new = _operators(60, rng), _operators(200, rng)
    model = PrimitiveRegression()
    model.fit(seen, [_worth(done) for done in seen])
    expected, _ = model.predict(new)
    assert np.corrcoef(expected, [_worth(done) for done in new])[0, 1] > 0.8


def test_a_kind_speaks_for_steps_never_seen() -> None:
    model = PrimitiveRegression(prior=1.0)
    model.fit([_steps('Unfold 1'), _steps('Unfold 2'), _steps('Shift 1'), _steps('Shift 2')], [1.0, 1.0, 0.0, 0.0])
    expected, _ = model.predict([_steps('Unfold 3'), _steps('Shift 3')])
    assert expected[0] > 0.6 and expected[1] < 0.4


def test_what_is_new_is_uncertain() -> None:
    model = PrimitiveRegression()
    model.fit([_steps('Unfold 1', 'Shift 1')] * 5 + [_steps('Unfold 1')] * 5, [0.5] * 10)
    _, uncertain = model.predict([_steps('Unfold 1', 'Shift 1'), _steps('Unfold 1', 'Shift 2'), _steps('Merge 1', 'Stride 1')])
    assert uncertain[0] < uncertain[1] < uncertain[2]


def test_one_result_says_nothing_but_its_reward() -> None:
    model = PrimitiveRegression()
    model.fit([_steps('Unfold 1')], [0.7])
    expected, _ = model.predict([_steps('Unfold 1'), _steps('Shift 1')])
    assert expected[0] == pytest.approx(0.7)
    assert np.isfinite(expected).all()
