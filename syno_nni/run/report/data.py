"""The result of a run as plain data: what ``syno-nni report RUN --json`` prints and the page is written from."""
from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from syno_nni.run.candidate import is_setting
from syno_nni.run.plots import latency_conditions, model_name, section
from syno_nni.run.stage_costs import StageCost, rejected_by, stage_costs, unmeasured_costs
from syno_nni.run.state import RunState, Trial
from syno_nni.text import cell

from .model_facts import ModelFacts

MOST_SHOWN = 8
"""Operators that get a section of their own."""
_METRICS = ('latency_ms', 'speedup', 'speedup_sure', 'speedup_low', 'speedup_high', 'macs', 'params')


def report_data(state: RunState, run_dir: Path | None = None, facts: ModelFacts | None = None) -> dict[str, Any]:
    """The whole result as JSON-able data.

    Accuracies are fractions (0 to 1), ``accuracy`` on the validation split; latencies are milliseconds, comparable within
    the run; what is unknown is None. ``winner`` has the greatest objective. Its ``mapping`` says what fills each slot (a
    formula or ``keep``) where ``facts`` tell the slots, else None; ``sample`` says it per choice, as the journal does.
    """
    facts = facts or ModelFacts()
    best = state.best
    winner = None
    if best is not None:
        winner = candidate_data(best, state) | {'mapping': slot_mapping(best, facts), 'folder': _folder(run_dir, best)}
    return _finite({
        'run': None if run_dir is None else str(run_dir),
        'experiment': state.config.get('experimentName'),
        'model': model_name(state),
        'original': None if state.baseline is None else candidate_data(state.baseline, state),
        'winner': winner,
        'front': [candidate_data(c, state) for c in state.front],
        'outcomes': outcome_counts(state),
        'seconds_by_stage': {c.name: round(c.total_s, 3) for c in all_costs(state)},
        'seconds': None if state.started_at is None else round(state.elapsed_s, 3),
        'ended': None if state.ended is None else state.ended.reason,
        'latency_conditions': latency_conditions(state),
        'environment': state.environment,
        'seeds': seeds(state),
        'config': state.config,
    })


def candidate_data(trial: Trial, state: RunState) -> dict[str, Any]:
    """One candidate, the original model included."""
    found: dict[str, Any] = {
        'id': trial.id, 'formula': trial.formula, 'sample': dict(trial.sample),
        'objective': number(trial.metrics.get('default')), 'accuracy': number(trial.metrics.get('accuracy')),
        'test_accuracy': number(trial.test_metrics.get('accuracy')),
        **{name: number(trial.metrics.get(name)) for name in _METRICS}, 'noisy': noisy(trial)}
    found['latency_ms'] = latency(trial, state)
    return found


def outcome_counts(state: RunState) -> dict[str, int]:
    """How many operators ended in which way: ``succeeded``, ``rejected by size``, ``timeout``, ..., ``in flight``."""
    counts: dict[str, int] = {'succeeded': len(state.succeeded)}
    for trial in state.failed:
        name = ending(trial)
        counts[name] = counts.get(name, 0) + 1
    waiting = sum(trial is not state.baseline and trial.number > 0 for trial in state.in_flight)
    return counts | ({'in flight': waiting} if waiting else {})


def shown_id(trial: Trial) -> str:
    """The id on a page; a journal may hold anything in its place."""
    return cell(trial.id, 40)


def ending(trial: Trial) -> str:
    """How an operator without a result ended, in a word or two."""
    stage = rejected_by(trial)
    return f'rejected by {cell(stage, 40)}' if stage else str(trial.error.kind) if trial.error else 'exception'


def all_costs(state: RunState) -> list[StageCost]:
    """Where the seconds of the operators went: the stages of evaluation, then what lies beside them."""
    return [*stage_costs(state), *unmeasured_costs(state)]


def top_operators(state: RunState) -> list[Trial]:
    """The operators that the report looks into: the winner, then the front from the fastest on."""
    best = state.best
    return [*([best] if best is not None else []), *(c for c in state.front if c is not best)][:MOST_SHOWN]


def formulas(trial: Trial) -> dict[str, list[str]]:
    """The operators of a candidate, each with the choices that take it; layers that are kept are left out."""
    found: dict[str, list[str]] = {}
    for label, text in (trial.sample or {'operator': trial.formula}).items():
        if text != 'keep' and not is_setting(text):
            found.setdefault(text, []).append(label)
    return found


def slot_mapping(trial: Trial, facts: ModelFacts) -> dict[str, str] | None:
    """What fills each slot; None where the slots, or what fills one of them, are unknown."""
    if not facts.slots or not all(slot.label in trial.sample for slot in facts.slots):
        return None
    return {slot.name: trial.sample[slot.label] for slot in facts.slots}


def seeds(state: RunState) -> dict[str, Any]:
    """The seeds of the configuration by section; all randomness of a run follows from them."""
    return {name: section(state, name)['seed'] for name in ('strategy', 'data', 'evaluation') if 'seed' in section(state, name)}


def number(value: Any) -> float | None:
    """A finite number; None for whatever else a journal may hold in its place."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        return None


def noisy(trial: Trial) -> bool | None:
    """Whether something else kept the machine busy while it was timed; None when it was not timed."""
    value = trial.metrics.get('noisy')
    return None if value is None else bool(value)


def latency(trial: Trial, state: RunState) -> float | None:
    """:meth:`RunState.latency_ms`, rounded; None where it was not measured."""
    if number(trial.metrics.get('latency_ms')) is None:
        return None
    try:
        return round(state.latency_ms(trial), 4)
    except (TypeError, ArithmeticError, KeyError):
        return number(trial.metrics['latency_ms'])


def _finite(data: Any) -> Any:
    """JSON data with None for the NaN and infinity that Python's reader takes."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _folder(run_dir: Path | None, best: Trial) -> str | None:
    """A retrofitted model of the winner inside the run directory, as ``syno-nni retrofit --out`` writes one."""
    import json
    for path in sorted(run_dir.glob('*/config.json')) if run_dir is not None and run_dir.is_dir() else ():
        try:
            said = json.loads(path.read_text(encoding='utf-8'))['syno_nni']
            found = said if isinstance(said, Mapping) else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if best.id in (found.get('candidate'), *(v.get('candidate') for v in found.values() if isinstance(v, Mapping))):
            return str(path.parent)
    return None
