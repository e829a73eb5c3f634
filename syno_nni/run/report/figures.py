"""The page's charts as Plotly figures: plain data, which the page's script colours for a light or a dark page.

A trace names its ``role`` (``operator``, ``front``, ``original``, ...) in place of colours; ``customdata`` are ids of
candidates, whose sections a click opens.
"""
from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from syno_nni.run.plots import latency_conditions, section
from syno_nni.run.state import RunState, Trial
from syno_nni.text import cell, duration

from .data import all_costs, latency, number, shown_id
from .verdict import accuracy_error

Figure = dict[str, Any]
_WRAP = 60


def trade_off(state: RunState) -> Figure | None:
    """Validation accuracy against latency, with the front, the original model, and intervals; None without results."""
    points = [c for c in state.measured if _place(c, state) is not None]
    placed = {c.id for c in points}
    front = [c for c in state.front if c.id in placed]
    best = state.best
    best = best if best is not None and best.id in placed else None
    apart = {c.id for c in [*front, *([best] if best is not None else [])]}
    others = [c for c in points if c.id not in apart]
    traces: list[dict[str, Any]] = [_points('operator', 'operator', others, state)] if others else []
    if front:
        line = _points('front', 'best trade-offs (front)', front, state)
        traces.append({**line, 'mode': 'lines+markers', 'line': {'shape': 'hv'}, **_errors(front, state)})
    if best is not None:
        traces.append({**_points('winner', 'winner', [best], state), **_errors([best], state)})
    shapes: list[dict[str, Any]] = []
    original = state.baseline
    if original is not None and (at := _place(original, state)) is not None:
        traces.append({**_points('original', 'original model', [original], state)})
        shapes = [{'axis': 'x', 'at': at[0]}, {'axis': 'y', 'at': at[1]}]
    if not traces:
        return None
    return {'traces': traces, 'lines': shapes, 'x': f'latency (ms): {latency_conditions(state)}',
            'y': 'validation accuracy (%)', 'legend': True}


def convergence(state: RunState) -> Figure | None:
    """The objective in the order of the outcomes: operators, the best so far, and what random sampling found."""
    original, results = state.baseline, {c.id for c in state.succeeded}
    ended = [c for c in state.finished if c is not original]
    scored = [(n, c, float(score)) for n, c in enumerate(ended, 1)
              if c.id in results and (score := number(c.metrics.get('default'))) is not None]
    if not scored:
        return None
    sampled = random_part(state)
    traces: list[dict[str, Any]] = []
    for role, name, chosen in (('operator', 'operator, proposed by the strategy', False), ('random', 'operator, random', True)):
        part = [(n, c, s) for n, c, s in scored if (c.id in sampled) == chosen]
        if part:
            traces.append({'role': role, 'name': name, 'mode': 'markers', 'x': [n for n, _, _ in part],
                           'y': [s for _, _, s in part], 'text': [_hover(c, state) for _, c, _ in part],
                           'customdata': [shown_id(c) for _, c, _ in part]})
    best: list[float] = []
    for _, _, score in scored:
        best.append(max(score, best[-1]) if best else score)
    numbers = [n for n, _, _ in scored]
    if numbers[-1] < len(ended):
        numbers, best = [*numbers, len(ended)], [*best, best[-1]]
    traces.append({'role': 'best', 'name': 'best so far', 'mode': 'lines', 'line': {'shape': 'hv'}, 'x': numbers, 'y': best,
                   'hover': 'skip'})
    by_chance = [s for _, c, s in scored if c.id in sampled]
    if by_chance and len(by_chance) < len(scored):
        traces.append({'role': 'random', 'name': 'best of the random ones', 'mode': 'lines', 'dash': True,
                       'x': [1, len(ended)], 'y': [max(by_chance)] * 2, 'hover': 'skip'})
    lost = [(n, c) for n, c in enumerate(ended, 1) if c.id not in results]
    if lost:
        low, high = min(s for _, _, s in scored), max(s for _, _, s in scored)
        floor = low - 0.12 * (high - low or 0.01)
        traces.append({'role': 'lost', 'name': 'rejected or failed', 'mode': 'markers', 'x': [n for n, _ in lost],
                       'y': [floor] * len(lost), 'customdata': [shown_id(c) for _, c in lost],
                       'text': [f'<b>{escape(shown_id(c))}</b><br>{_wrapped(c.error.message if c.error else "")}'
                                for _, c in lost]})
    score = None if state.baseline is None else number(state.baseline.metrics.get('default'))
    return {'traces': traces, 'lines': [] if score is None else [{'axis': 'y', 'at': score}],
            'x': 'operators in the order of their outcomes', 'y': 'objective', 'legend': True,
            'note': '' if score is None else 'original model'}


def time_spent(state: RunState) -> Figure | None:
    """Seconds of the operators by stage of evaluation, and beside the stages."""
    costs = [c for c in all_costs(state) if c.total_s > 0]
    if not costs:
        return None
    total = sum(c.total_s for c in costs)
    return {'traces': [{'role': 'bars', 'name': 'seconds', 'x': [round(c.total_s, 2) for c in costs],
                        'y': [cell(c.name, 30) for c in costs], 'beside': [c.name in ('overhead', 'failed') for c in costs],
                        'label': [f'{duration(c.total_s)} ({c.total_s / total:.0%})' for c in costs]}],
            'lines': [], 'x': 'seconds in all', 'y': '', 'legend': False}


def random_part(state: RunState) -> set[str]:
    """The ids of the operators that were drawn at random, as far as the journal tells: all of a random search; those of
    a tree search that no path through the tree is noted for; the warm-up of another strategy that names its length."""
    strategy = section(state, 'strategy')
    operators = state.operators
    if strategy.get('name') == 'random':
        return {c.id for c in operators}
    guided = [c for c in operators if 'paths' in c.candidate.note]
    if guided:
        return {c.id for c in operators if 'paths' not in c.candidate.note}
    arguments = strategy.get('classArgs')
    warm_up = arguments.get('warm_up') if isinstance(arguments, dict) else None
    count = warm_up if isinstance(warm_up, int) and warm_up > 0 else 0
    return {c.id for c in operators[:count]}


def _points(role: str, name: str, trials: Sequence[Trial], state: RunState) -> dict[str, Any]:
    places = [_place(c, state) or (0.0, 0.0) for c in trials]
    return {'role': role, 'name': name, 'mode': 'markers', 'x': [x for x, _ in places], 'y': [y for _, y in places],
            'text': [_hover(c, state) for c in trials], 'customdata': [shown_id(c) for c in trials]}


def _place(trial: Trial, state: RunState) -> tuple[float, float] | None:
    x, y = latency(trial, state), number(trial.metrics.get('accuracy'))
    return None if x is None or y is None else (x, round(100 * y, 3))


def _errors(trials: Sequence[Trial], state: RunState) -> dict[str, Any]:
    """Intervals: latency in the middle half of the timed rounds, one standard error of the accuracy."""
    more: list[float] = []
    less: list[float] = []
    high: list[float] = []
    for trial in trials:
        low_speed, high_speed = (number(trial.metrics.get(k)) for k in ('speedup_low', 'speedup_high'))
        speed, x = number(trial.metrics.get('speedup')), latency(trial, state) or 0.0
        known = low_speed and high_speed and speed and min(low_speed, high_speed, speed) > 0
        more.append(round(max(x * speed / low_speed - x, 0.0), 4) if known else 0.0)  # type: ignore[operator]
        less.append(round(max(x - x * speed / high_speed, 0.0), 4) if known else 0.0)  # type: ignore[operator]
        high.append(round(100 * (accuracy_error(number(trial.metrics.get('accuracy')), state) or 0.0), 3))
    return {'error_x': {'plus': more, 'minus': less} if any(more + less) else None,
            'error_y': {'plus': high, 'minus': high} if any(high) else None}


def _hover(trial: Trial, state: RunState) -> str:
    """Plotly's own small markup; everything that comes from the journal is escaped."""
    m = trial.metrics
    title = 'original model' if trial is state.baseline else shown_id(trial)
    facts = [f'accuracy {100 * a:.2f} %' if (a := number(m.get('accuracy'))) is not None else '',
             f'{x:.2f} ms' if (x := latency(trial, state)) is not None else '',
             f'{s:.2f}x' if (s := number(m.get('speedup'))) is not None else '', 'noisy' if m.get('noisy') else '']
    lines = [f'<b>{escape(title)}</b>', escape(', '.join(filter(None, facts)))]
    if trial is not state.baseline:
        lines.append(_wrapped(trial.summary))
    return '<br>'.join(lines)


def _wrapped(text: str) -> str:
    lines = ['']
    for word in cell(text, 600).split():
        if lines[-1] and len(lines[-1]) + len(word) >= _WRAP:
            lines.append('')
        lines[-1] += (' ' if lines[-1] else '') + word
    return '<br>'.join(map(escape, lines))
