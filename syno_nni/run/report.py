"""The report of a run, made from its journal's state alone: a table for terminals, and one HTML file with the plots.

Accuracies are fractions in the journal and percentages here. They come from the validation split, unless a heading
says test; latencies are those of :meth:`RunState.latency_ms`, under the conditions that the report names.
"""
from __future__ import annotations

import base64
import html
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from syno_nni.atomic import write_whole
from syno_nni.errors import ConfigError, JournalError
from syno_nni.text import cell, columns, duration, quantity, visible

from .config import SearchConfig
from .plots import convergence_png, latency_conditions, pareto_png, section
from .stage_costs import rank_correlations, rejected_by, stage_costs
from .state import RunState, Trial
from .yaml_file import dump_yaml

_HEAD = ('candidate', 'val. accuracy', 'latency ms', 'speedup', 'MACs', 'params', 'formula')
_NUMBERS = range(1, 6)
_LONGEST = 5000
# Characters of a formula.
REPORT_FILES = ('report.txt', 'report.html', 'pareto.png', 'convergence.png')


def write_report(state: RunState, run_dir: Path) -> list[Path]:
    """Write :data:`REPORT_FILES` into ``run_dir``, each as a whole or not at all; return their paths.

    Raises:
        JournalError: the directory is not writable.
    """
    pareto, convergence = pareto_png(state), convergence_png(state)
    contents = (text_report(state, run_dir).encode() + b'\n', html_report(state, pareto, convergence).encode(), pareto,
                convergence)
    paths = [run_dir / name for name in REPORT_FILES]
    for path, content in zip(paths, contents, strict=True):
        try:
            write_whole(path, content)
        except OSError as error:
            raise JournalError(f'{path}: cannot write the report: {error.strerror}') from None
    return paths


def text_report(state: RunState, run_dir: Path) -> str:
    """The end of a search as people read it: table, winner, failures, where the files are and how to go on."""
    return '\n'.join([result_table(state), '', *_remarks(state, _shown(state)), *_where(state, run_dir)])


def result_table(state: RunState) -> str:
    """The original model and the Pareto-best operators, fastest first; each formula on a line below its numbers."""
    rows = [_cells(c, state) for c in _shown(state)]
    head, *lines = columns([row[:-1] for row in (_HEAD, *rows)], _NUMBERS).splitlines()
    return '\n'.join([head, *(f'{line}\n    {row[-1]}' for line, row in zip(lines, rows, strict=True))])


def html_report(state: RunState, pareto: bytes | None = None, convergence: bytes | None = None) -> str:
    """One self-contained page: remarks, plots, the Pareto-best and all other candidates, failures, conditions."""
    title = html.escape(f'{cell(state.config.get("experimentName", "search"))}: operators found')
    plots = ''.join(_image(png, text) for png, text in (
        (pareto or pareto_png(state), 'validation accuracy against latency'),
        (convergence or convergence_png(state), 'objective of the operators in the order of their results')))
    shown = _shown(state)
    ranked = sorted(state.succeeded, key=lambda c: -c.metrics.get('default', float('-inf')))
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{_CSS}</style></head>',
        f'<body><h1>{title}</h1>', *(f'<p>{html.escape(line)}</p>' for line in _remarks(state, state.succeeded)),
        f'<div class="plots">{plots}</div>',
        '<h2>Pareto-best operators</h2>', _html_table([_cells(c, state) for c in shown]),
        f'<h2>All {len(ranked)} evaluated operators, best objective first</h2>',
        _html_table([_cells(c, state) for c in ranked]),
    ]
    if state.failed:
        parts += ['<h2>Failures</h2>', _html_rows(('candidate', 'reason', 'message', 'formula'), (
            (c.id, c.error.kind if c.error else '', cell(c.error.message, 2000) if c.error else '', cell(c.formula, _LONGEST))
            for c in state.failed))]
    parts += _stages(state)
    parts += ['<h2>Conditions</h2>', _html_rows(('what', 'value'), _conditions(state)),
              '<details><summary>Configuration</summary>', f'<pre>{html.escape(_config_yaml(state))}</pre></details>',
              '</body></html>']
    return '\n'.join(parts)


def _stages(state: RunState) -> list[str]:
    costs = stage_costs(state)
    if not costs:
        return []
    rows = [(cell(c.name, 60), str(c.reached), str(c.rejected), f'{c.median_s:.1f}', duration(c.total_s)) for c in costs]
    parts = ['<h2>Stages of evaluation</h2>',
             _html_rows(('stage', 'operators', 'rejected', 'median s', 'in all'), rows, range(1, 5))]
    correlations = rank_correlations(state)
    if correlations:
        parts.append('<p>Rank correlation (Spearman) with the validation accuracy of the operators that were trained to the '
                     'end: ' + ', '.join(f'{name} {rho:+.2f}' for name, (rho, _) in correlations.items())
                     + f' ({max(n for _, n in correlations.values())} operators).</p>')
    return parts


def _shown(state: RunState) -> list[Trial]:
    best = [state.best] if state.best is not None and state.best not in state.front else []
    return [*([state.baseline] if state.baseline else []), *state.front, *best]


def _cells(candidate: Trial, state: RunState) -> tuple[str, ...]:
    m = candidate.metrics
    star = ' *' if candidate is state.best else ''
    noisy = ' ~' if m.get('noisy') else ''
    name, formula = (('original', 'the layers of the original model') if candidate is state.baseline
                     else (f'{cell(candidate.id, 40)}{star}', cell(candidate.formula, _LONGEST)))
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
    yield (f'{len(state.succeeded)} operators evaluated{others}'
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


def _conditions(state: RunState) -> Iterator[tuple[str, str]]:
    facts, model, data = state.environment, section(state, 'model'), section(state, 'data')
    yield 'model', cell(model.get('name', ''))
    yield 'data', f'{cell(data.get("name", ""))}, {cell(data.get("imageSize", ""))} pixels'
    yield 'strategy', ', '.join(f'{cell(k)} {cell(v)}' for k, v in section(state, 'strategy').items() if v != {})
    yield 'latency', latency_conditions(state)
    yield 'machine', f'{cell(facts.get("cpu", ""))}, {cell(facts.get("cores", ""))} cores, {cell(facts.get("platform", ""))}'
    versions = facts.get('versions')
    yield 'versions', ', '.join([f'python {cell(facts.get("python", ""))}', *(
        f'{cell(k)} {cell(v)}' for k, v in (versions.items() if isinstance(versions, dict) else ()))])
    yield 'sessions', str(state.sessions)


def _config_yaml(state: RunState) -> str:
    """The configuration with every default, or as it was recorded, where this version would no longer take it."""
    try:
        return SearchConfig.from_dict(state.config).to_yaml()
    except ConfigError:
        return dump_yaml(state.config)


def _percent(fraction: Any) -> str:
    return '' if fraction is None else f'{100 * fraction:.2f} %'


# --- HTML ------------------------------------------------------------------------------------------------------------

_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #2b2f36; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.plots { display: flex; flex-wrap: wrap; gap: 1rem } .plots img { width: 100%; max-width: 35rem; height: auto }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e6e9ed; vertical-align: top }
td.n, th.n { text-align: right } td.n, td:first-child { white-space: nowrap }
code, pre { font-size: .82rem } pre { overflow-x: auto }
"""


def _image(png: bytes, text: str) -> str:
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _html_table(rows: list[tuple[str, ...]]) -> str:
    return _html_rows(_HEAD, rows, _NUMBERS)


def _html_rows(head: tuple[str, ...], rows: Any, numbers: Any = ()) -> str:
    def row(tag: str, cells: tuple[str, ...]) -> str:
        parts = []
        for i, content in enumerate(cells):
            text = html.escape(content)
            text = f'<code>{text}</code>' if tag == 'td' and head[i] == 'formula' else text
            parts.append(f'<{tag} class="n">{text}</{tag}>' if i in numbers else f'<{tag}>{text}</{tag}>')
        return f'<tr>{"".join(parts)}</tr>'
    body = '\n'.join(row('td', cells) for cells in rows)
    return f'<div class="scroll"><table><thead>{row("th", head)}</thead><tbody>\n{body}\n</tbody></table></div>'
