"""The report as text for terminals: a table, the winner, failures, where the files are.

Accuracies are fractions in the journal and percentages here. They come from the validation split, unless a heading
says test; latencies are those of :meth:`RunState.latency_ms`, under the conditions that the report names.
"""
from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from syno_nni.run.plots import latency_conditions
from syno_nni.run.stage_costs import rejected_by
from syno_nni.run.state import RunState, Trial
from syno_nni.text import cell, columns, duration, quantity, visible

_HEAD = ('candidate', 'val. accuracy', 'latency ms', 'speedup', 'MACs', 'params', 'formula')
_NUMBERS = range(1, 6)
_LONGEST = 5000
# Characters of a formula.


def text_report(state: RunState, run_dir: Path) -> str:
    """The end of a search as people read it: table, winner, failures, where the files are and how to go on."""
    return '\n'.join([result_table(state), '', *_remarks(state, _shown(state)), *_where(state, run_dir)])


def result_table(state: RunState) -> str:
    """The original model and the Pareto-best operators, fastest first; each formula on a line below its numbers."""
    rows = [_cells(c, state) for c in _shown(state)]
    head, *lines = columns([row[:-1] for row in (_HEAD, *rows)], _NUMBERS).splitlines()
    return '\n'.join([head, *(f'{line}\n    {row[-1]}' for line, row in zip(lines, rows, strict=True))])


def _shown(state: RunState) -> list[Trial]:
    best = [state.best] if state.best is not None and state.best not in state.front else []
    return [*([state.baseline] if state.baseline else []), *state.front, *best]


def _cells(candidate: Trial, state: RunState) -> tuple[str, ...]:
    m = candidate.metrics
    star = ' *' if candidate is state.best else ''
    noisy = ' ~' if m.get('noisy') else ''
    name, formula = (('original', 'the layers of the original model') if candidate is state.baseline
                     else (f'{cell(candidate.id, 40)}{star}', cell(candidate.summary, _LONGEST)))
    return (name, _percent(m.get('accuracy')), f'{state.latency_ms(candidate):.2f}{noisy}' if 'latency_ms' in m else '',
            f'{m["speedup"]:.2f}x' if 'speedup' in m else '', quantity(m.get('macs')), quantity(m.get('params')),
            formula)


def _remarks(state: RunState, listed: list[Trial]) -> Iterator[str]:
    baseline, best = state.baseline, state.best
    if best is None:
        yield 'No operator was evaluated successfully.'
    else:
        test = best.test_metrics.get('accuracy')
        original = baseline.test_metrics.get('accuracy') if baseline else None
        tail = f'; original model {_percent(original)}' if original is not None else ''
        yield (f'* best objective: {best.id}, test accuracy {_percent(test)}{tail}' if test is not None
               else f'* best objective: {best.id}; its test accuracy is taken when the search ends')
    if any(c.metrics.get('noisy') for c in listed):
        yield '~ noisy measurement: something else kept the machine busy'
    counts: dict[str, int] = {}
    for candidate in state.failed:
        stage = rejected_by(candidate)
        kind = (f'rejected by {cell(stage, 40)}' if stage
                else f'failed ({candidate.error.kind if candidate.error else "exception"})')
        counts[kind] = counts.get(kind, 0) + 1
    others = ''.join(f', {n} {kind}' for kind, n in counts.items())
    screened = max((s.screened for s in state.library.values()), default=0)
    before = f'{screened} operators screened, {len(state.library)} scored in the model; ' if screened else ''
    what = 'models' if screened else 'operators'
    yield (f'{before}{len(state.succeeded)} {what} evaluated{others}'
           f'{f", {len(state.in_flight)} in flight" if state.in_flight else ""}; {_ending(state)}. '
           f'Latency: {latency_conditions(state)}, on {cell(state.environment.get("cpu", "this machine"))}, '
           'in turns with the original model.')


def _ending(state: RunState) -> str:
    taken = duration(state.elapsed_s)
    if state.ended is None:
        return f'no end recorded after {taken}'
    words = {'budget': 'budget used up', 'time': 'time used up', 'exhausted': 'nothing new left in the space',
             'interrupted': 'interrupted', 'error': 'ended by an error'}
    message = f' ({cell(state.ended.message, 500)})' if state.ended.message else ''
    return f'{words[state.ended.reason]}{message} after {taken}'


def _where(state: RunState, run_dir: Path) -> Iterator[str]:
    budget = state.config.get('maxTrialNumber')
    more = (f' --max-trials {2 * budget}' if state.ended is not None and state.ended.reason == 'budget'
            and isinstance(budget, int) else '')
    yield ''
    yield f'Run directory: {visible(str(run_dir))} (report.html, pareto.png, journal.jsonl)'
    yield f'Continue with: syno-nni resume {visible(shlex.quote(str(run_dir)))}{more}'


def _percent(fraction: Any) -> str:
    return '' if fraction is None else f'{100 * fraction:.2f} %'
