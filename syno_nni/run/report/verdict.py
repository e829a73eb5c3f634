"""The winner in words: how much faster, what it loses, on which machine, and how sure that is."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from syno_nni.run.plots import latency_conditions, model_name, section
from syno_nni.run.state import RunState, Trial
from syno_nni.text import cell

from .data import latency, noisy, number, shown_id

_SAME = 0.005
"""Speedups nearer to 1 than this are called equal: the last digit shown."""


@dataclass(frozen=True)
class Verdict:
    """Attributes:
        headline: one sentence.
        grade: whether the winner is better than the original model by the objective that was searched for
            (``better``), not (``keep``), or unknown (``none``).
        reasons: sentences on how sure it is, and what to do.
    """
    headline: str
    grade: Literal['better', 'keep', 'none']
    reasons: tuple[str, ...]


def verdict(state: RunState) -> Verdict:
    """What a reader should take away from the run."""
    best, original = state.best, state.baseline
    model = cell(model_name(state) or 'the model')
    if best is None:
        counted = len(state.failed)
        told = f' ({counted} rejected or failed; see below why)' if counted else ''
        return Verdict(f'No operator was evaluated to the end yet{told}.', 'none', ())
    machine = cell(state.environment.get('cpu') or 'the machine of the search')
    what = 'Model' if state.library else 'Operator'
    headline = f'{what} {shown_id(best)} makes {model} {_faster(best)} on {machine}{_loss(best, original)}.'
    keep = original is not None and _score(original) is not None and (_score(best) or -math.inf) < (_score(original) or 0.0)
    reasons = [*_speed(best), *_accuracy(best, original, state), _where(state)]
    if keep:
        reasons.insert(0, f"By the search's objective the original model is still the better choice ({_score(original):.4f} "
                       f'against {_score(best):.4f}): keep it, or search longer.')
    return Verdict(headline, 'keep' if keep else 'better' if original is not None else 'none', tuple(reasons))


def accuracy_pair(best: Trial, original: Trial | None) -> tuple[float | None, float | None, str]:
    """Accuracies (0 to 1) of the winner and the original model on one and the same split, and its name."""
    tests = number(best.test_metrics.get('accuracy')), number(original.test_metrics.get('accuracy')) if original else None
    if tests[0] is not None and (tests[1] is not None or original is None):
        return *tests, 'test'
    return (number(best.metrics.get('accuracy')), number(original.metrics.get('accuracy')) if original else None,
            'validation')


def accuracy_error(accuracy: float | None, state: RunState) -> float | None:
    """The standard error of a validation accuracy, by the number of images that the configuration says; None unknown."""
    count = number(section(state, 'data').get('valSamples'))
    if accuracy is None or not 0 <= accuracy <= 1 or not count or count < 1:
        return None
    return math.sqrt(accuracy * (1 - accuracy) / count)


def _score(trial: Trial | None) -> Any:
    return None if trial is None else number(trial.metrics.get('default'))


def _faster(best: Trial) -> str:
    speedup = number(best.metrics.get('speedup'))
    if speedup is None or speedup <= 0:
        return 'another model, whose speed was not compared,'
    if abs(speedup - 1) < _SAME:
        return 'neither faster nor slower'
    low, high = number(best.metrics.get('speedup_low')), number(best.metrics.get('speedup_high'))
    sure = [f'{low:.2f}x to {high:.2f}x'] if low is not None and high is not None else []
    sure += ['a noisy measurement'] if noisy(best) else []
    told = f'{speedup:.2f}x as fast' if speedup > 1 else f'slower, {speedup:.2f}x as fast'
    return f'{told} ({", ".join(sure)})' if sure else told


def _loss(best: Trial, original: Trial | None) -> str:
    ours, theirs, split = accuracy_pair(best, original)
    if ours is None or theirs is None:
        return ''
    points = 100 * (theirs - ours)
    size = f'{abs(points):.1f} point{"" if f"{abs(points):.1f}" == "1.0" else "s"} of {split} accuracy'
    if f'{abs(points):.1f}' == '0.0':
        change = f' and keeps its {split} accuracy'
    else:
        change = f' and loses {size}' if points > 0 else f' and gains {size}'
    return f'{change} ({100 * theirs:.1f} % before, {100 * ours:.1f} % after)'


def _speed(best: Trial) -> list[str]:
    low, high, sure = (number(best.metrics.get(f'speedup_{name}')) for name in ('low', 'high', 'sure'))
    said = []
    if low is not None and high is not None:
        said.append(f'{low:.2f}x to {high:.2f}x is the middle half of the timed rounds'
                    + (f'; {sure:.2f}x, the lower end of the 95 % interval of their median, is what the search went by.'
                       if sure is not None else '.'))
    least = sure if sure is not None else low
    if least is not None and least <= 1:
        said.append('It may be no faster at all.')
    if noisy(best):
        said.append('Something else kept the machine busy during the measurement: measure again before relying on it.')
    elif noisy(best) is False:
        said.append('The machine was quiet during the measurement.')
    return said


def _accuracy(best: Trial, original: Trial | None, state: RunState) -> list[str]:
    ours, theirs, split = accuracy_pair(best, original)
    errors = [accuracy_error(number(t.metrics.get('accuracy')), state) for t in (best, original) if t is not None]
    said = []
    if ours is not None and theirs is not None:
        said.append('The operators were fitted to the layers of the original, and the model was distilled from it; more of '
                    'that may bring it nearer.' if state.library else
                    f'Both models were trained by the same short recipe{", once" if split == "test" else ""}; '
                    'longer training may widen or close the gap.')
    if len(errors) == 2 and all(e is not None for e in errors) and (spread := 1.96 * math.hypot(*map(float, errors))) > 0:  # type: ignore[arg-type]
        said.append(f'On {state.config["data"]["valSamples"]} validation images, differences below about '
                    f'{100 * spread:.1f} points can be chance.')
    return said


def _where(state: RunState) -> str:
    original, best = state.baseline, state.best
    before, after = (latency(t, state) if t is not None else None for t in (original, best))
    told = 'Latency: ' if before is None or after is None else f'Latency {before:.2f} ms before, {after:.2f} ms after: '
    machine = cell(state.environment.get('cpu') or 'the machine of the search')
    return f'{told}{latency_conditions(state)}, on {machine}, in turns with the original model.'
