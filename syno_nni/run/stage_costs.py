"""What the stages of evaluation cost, whom they stopped, and how well the cheap ones foretell the final accuracy."""
from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from .state import RunState, Trial

_SECONDS = '_seconds'
_PREDICTORS = ('proxy_accuracy', 'gradient_norm', 'params', 'macs')
_FEWEST = 5
# A rank correlation of fewer says nothing.


@dataclass(frozen=True)
class StageCost:
    """One stage: how many operators reached it, how many it rejected, and the seconds that it took."""
    name: str
    reached: int
    rejected: int
    median_s: float
    total_s: float


def stage_costs(state: RunState) -> list[StageCost]:
    """The stages in the order of evaluation; those that no operator reached are left out."""
    operators = state.operators
    names = dict.fromkeys(key.removesuffix(_SECONDS) for c in operators for key in c.metrics if key.endswith(_SECONDS))
    for candidate in operators:
        if (stage := rejected_by(candidate)) is not None:
            names.setdefault(stage)
    rows = []
    for name in sorted(names, key=_order):
        rejected = [c for c in operators if rejected_by(c) == name]
        seconds = [c.metrics[name + _SECONDS] for c in operators if name + _SECONDS in c.metrics]
        # A filter ahead of the trials keeps no time of its own.
        unstarted = sum(name + _SECONDS not in c.metrics for c in rejected)
        rows.append(StageCost(name, len(seconds) + unstarted, len(rejected), median(seconds) if seconds else 0.0, sum(seconds)))
    return rows


def unmeasured_costs(state: RunState) -> list[StageCost]:
    """The seconds of the trials that no stage accounts for; what took none is left out.

    ``overhead`` is what the trials that timed their stages took beside them: starting a process, importing, building the
    model, waiting for the lock of the measurement. ``failed`` are the trials that ended before they timed any.
    """
    overhead, lost = [], []
    for trial in state.operators:
        if not isinstance(trial.duration_s, (int, float)):
            continue
        stages = [v for k, v in trial.metrics.items() if k.endswith(_SECONDS) and isinstance(v, (int, float))]
        if stages:
            overhead.append(max(trial.duration_s - sum(stages), 0.0))
        elif trial.started and trial.error is not None:
            lost.append(trial.duration_s)
    return [StageCost(name, len(seconds), 0, median(seconds), sum(seconds))
            for name, seconds in (('overhead', overhead), ('failed', lost)) if sum(seconds) > 0]


def _order(name: str) -> tuple[int, str]:
    known = ('size', 'latency', 'proxy', 'train')
    return (known.index(name) if name in known else len(known)), name


def rejected_by(candidate: Trial) -> str | None:
    """The stage that rejected a candidate, or None."""
    return candidate.outcome.stage if candidate.outcome else None


def rank_correlations(state: RunState) -> dict[str, tuple[float, int]]:
    """Spearman's rank correlation of each cheap number with the final validation accuracy, and over how many operators.

    Only operators that were trained to the end have both, so what was rejected is not in it.
    """
    from scipy.stats import spearmanr
    found = {}
    for name in _PREDICTORS:
        pairs = [(c.metrics[name], c.metrics['accuracy']) for c in state.succeeded
                 if name in c.metrics and 'accuracy' in c.metrics]
        if len(pairs) >= _FEWEST and all(len(set(values)) > 1 for values in zip(*pairs)):
            found[name] = (float(spearmanr(*zip(*pairs)).statistic), len(pairs))
    return found
