"""Models that give NaN or infinity: a candidate's failure is typed, the original model's ends the search clearly."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from syno_nni.errors import EngineError
from syno_nni.nas.evaluator import OperatorEvaluator
from syno_nni.nas.stages import Diverged, StageLog, gradient_norm
from syno_nni.plan.layer import SynthesizedLayer
from syno_nni.run.candidate import Candidate, Outcome
from syno_nni.run.directory import load_run
from syno_nni.run.records import OutcomeKind
from syno_nni.search.run import run_search

from ..testing import toy
from ..testing.searching import make_config


class Poison(nn.Module):
    """Passes its input on, and from the call number ``after`` on a number that is none in its place."""

    def __init__(self, value: float, after: int) -> None:
        super().__init__()
        self.value, self.left = value, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.left -= 1
        return x if self.left > 0 else x * self.value


def _poisoned(monkeypatch: pytest.MonkeyPatch, value: float, after: int, whom: str) -> None:
    build = OperatorEvaluator.build

    def poisoned(self: OperatorEvaluator, model: Any) -> nn.Module:
        built = build(self, model)
        synthesized = any(isinstance(m, SynthesizedLayer) for m in built.modules())
        return nn.Sequential(built, Poison(value, after)) if synthesized == (whom == 'candidate') else built

    monkeypatch.setattr(OperatorEvaluator, 'build', poisoned)
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: toy.ToySpace())


# Before the training: found where the latency is measured. In it: found there.
@pytest.mark.parametrize(('value', 'after'), [(float('inf'), 0), (float('-inf'), 3), (float('nan'), 3)])
def test_a_candidate_is_a_failure_and_the_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float,
                                                         after: int) -> None:
    _poisoned(monkeypatch, value, after, 'candidate')
    config = make_config(engine='sequential', maxTrialNumber=2, evaluation={'epochs': 2})
    state = run_search(config, tmp_path / 'run', tell=lambda line: None)
    assert state.ended is not None and state.ended.reason == 'budget' and state.baseline is not None
    for candidate in state.operators:
        assert candidate.error is not None
        assert candidate.error.kind == (OutcomeKind.INVALID_METRIC if after else OutcomeKind.EXCEPTION)
        assert ('no finite numbers' if after else 'not finite') in candidate.error.message
    assert state.best is None


def test_the_original_model_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _poisoned(monkeypatch, float('nan'), 2, 'original')
    with pytest.raises(EngineError, match='the baseline, .* cannot be evaluated: invalid-metric: .* no finite numbers; a lower '
                                          'evaluation.learningRate') as raised:
        run_search(make_config(engine='sequential', maxTrialNumber=2), tmp_path / 'run', tell=lambda line: None)
    assert '\n' not in str(raised.value)
    state = load_run(tmp_path / 'run')
    assert state.ended is not None and state.ended.reason == 'error' and state.candidates['baseline'].status == 'waiting'


def test_a_learning_rate_that_is_far_too_high(tmp_path: Path) -> None:
    config = make_config(engine='sequential', evaluation={'epochs': 5, 'learningRate': 1e4, 'clipGradient': None})
    with pytest.raises(EngineError, match='invalid-metric: Diverged'):
        run_search(config, tmp_path / 'run', tell=lambda line: None)


def test_it_crosses_nni_as_what_it_is() -> None:
    report = StageLog().failure(Diverged('the loss is nan')).report()
    outcome = Outcome.judge(Candidate(1, {'operator': next(iter(toy.OPERATORS.values())).__str__()}), report)
    assert outcome.kind == OutcomeKind.INVALID_METRIC and outcome.error is not None
    assert outcome.error.message == 'Diverged: the loss is nan'


def test_the_score_of_an_untrained_model_is_a_number() -> None:
    x, y = torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    assert gradient_norm(model, x, y) > 0
    with pytest.raises(Diverged, match='norm nan'):
        gradient_norm(nn.Sequential(model, Poison(float('nan'), 0)), x, y)
