"""The page of a report: one HTML file that needs no network, written with Jinja2, its charts drawn by Plotly.

Whatever the journal says is data to the template, which escapes it; the page's policy lets only its own scripts run and
forbids it to load anything.
"""
from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from syno_nni.errors import ConfigError, SynoError
from syno_nni.operator import Operator
from syno_nni.operator.draw_svg import STYLE
from syno_nni.operator.draw_text import LEGEND
from syno_nni.run.config import SearchConfig
from syno_nni.run.plots import convergence_png, latency_conditions, model_name, pareto_png, section
from syno_nni.run.stage_costs import rank_correlations
from syno_nni.run.state import RunState, Trial
from syno_nni.run.yaml_file import dump_yaml
from syno_nni.text import cell, duration, quantity, visible

from . import figures
from .data import (
    all_costs,
    ending,
    formulas,
    latency,
    noisy,
    number,
    outcome_counts,
    seeds,
    shown_id,
    slot_mapping,
    top_operators,
)
from .model_facts import ModelFacts
from .operators import operator_view
from .verdict import verdict

_FEW_CHOICES = 3
_LONGEST = 5000
# Characters of a formula.


def html_report(state: RunState, pareto: bytes | None = None, convergence: bytes | None = None, *,
                run_dir: Path | None = None, facts: ModelFacts | None = None) -> str:
    """One self-contained page.

    Args:
        state: of the run.
        pareto, convergence: the PNGs of :func:`~syno_nni.run.plots.pareto_png` and
            :func:`~syno_nni.run.plots.convergence_png` for readers without scripts; drawn when not given.
        run_dir: its directory, for the commands that the page offers.
        facts: what is known of the model beyond the journal.
    """
    facts = facts or ModelFacts()
    plots = [pareto_png(state) if pareto is None else pareto, convergence_png(state) if convergence is None else convergence]
    charts = {'trade-off': figures.trade_off(state), 'convergence': figures.convergence(state),
              'time': figures.time_spent(state)}
    scripts = [_plotly(), _own('report.js')]
    shown = top_operators(state)
    marks = _Marks(state, shown)
    return _template().render(
        title=f'{cell(state.config.get("experimentName", "search"))}: operators found', policy=_policy(scripts),
        scripts=scripts, style=_own('report.css') + STYLE, verdict=verdict(state), searched=_searched(state),
        cards=_cards(state), command=_command(run_dir, state.best, state), charts={k: v for k, v in charts.items() if v},
        figures=_embedded({k: v for k, v in charts.items() if v}), costs=all_costs(state), correlations=_correlations(state),
        wall=_wall(state), slots=_slot_rows(state, facts), facts=facts, legend=LEGEND,
        operators=[_operator(trial, state, marks, facts, run_dir) for trial in shown],
        rows=[_row(trial, state, marks) for trial in _ranked(state)], lost=_lost(state), counts=outcome_counts(state),
        conditions=list(_conditions(state, run_dir)), config=_config_yaml(state),
        pictures=[base64.b64encode(png).decode() for png in plots])


# ---- parts ----


def _searched(state: RunState) -> str:
    """What was searched, in one sentence."""
    data, slots = section(state, 'data'), section(state, 'slots')
    kinds = slots.get('kinds')
    layers = f'the {cell(", ".join(map(str, kinds)))} layers' if isinstance(kinds, list) and kinds else 'layers'
    size = f' at {cell(data["imageSize"])} pixels' if data.get('imageSize') else ''
    title = data.get('factory') or data.get('name')
    on = f' for {cell(title)}{size}' if title else ''
    count = len(state.succeeded) + len(state.failed)
    strategy = section(state, 'strategy').get('name')
    by = f' by {cell(strategy)}' if strategy else ''
    return (f'A search{by} for faster operators in the place of {layers} of {cell(model_name(state) or "a model")}{on}: '
            f'{count} candidates, {len(state.succeeded)} of them trained and measured to the end, in {_wall(state)}.')


def _cards(state: RunState) -> list[dict[str, str]]:
    """Numbers before and after, for the head of the page."""
    best, original = state.best, state.baseline
    if best is None:
        return []
    rows = [('latency', _ms(original, state), _ms(best, state)),
            ('validation accuracy', _percent(original, 'accuracy'), _percent(best, 'accuracy')),
            ('test accuracy', _test(original), _test(best)),
            ('multiply-adds', _count(original, 'macs'), _count(best, 'macs')),
            ('parameters', _count(original, 'params'), _count(best, 'params'))]
    return [{'name': name, 'before': before or '–', 'after': after or '–'} for name, before, after in rows if before or after]


def _command(run_dir: Path | None, trial: Trial | None, state: RunState) -> str:
    """What puts an operator of the run into the model."""
    if trial is None:
        return ''
    where = shlex.quote(str(run_dir)) if run_dir is not None else 'RUN_DIR'
    if state.library:
        # A search from weights has written the model itself.
        if trial is not state.best or run_dir is None or not (run_dir / 'winner').is_dir():
            return ''
        own = section(state, 'model').get('factory')
        return visible(f"model = syno_nni.load({str(run_dir / 'winner')!r}{', model=build()' if own else ''})")
    return visible(f'syno-nni retrofit --from-run {where} --candidate {shlex.quote(shown_id(trial))}')


def _operator(trial: Trial, state: RunState, marks: _Marks, facts: ModelFacts, run_dir: Path | None) -> dict[str, Any]:
    return {'row': _row(trial, state, marks), 'winner': trial is marks.best, 'command': _command(run_dir, trial, state),
            'views': [operator_view(text, labels, facts) for text, labels in formulas(trial).items()]}


class _Marks:
    """What sets some of the trials apart; found once, for runs of many."""

    def __init__(self, state: RunState, shown: list[Trial]) -> None:
        self.best, self.original = state.best, state.baseline
        self.front, self.shown = {c.id for c in state.front}, {c.id for c in shown}


def _row(trial: Trial, state: RunState, marks: _Marks) -> dict[str, Any]:
    m = trial.metrics
    speed, low, high = (number(m.get(k)) for k in ('speedup', 'speedup_low', 'speedup_high'))
    return {'id': shown_id(trial), 'original': trial is marks.original, 'best': trial is marks.best,
            'linked': trial.id in marks.shown, 'front': trial.id in marks.front,
            'accuracy': _percent(trial, 'accuracy'), 'test': _test(trial),
            'latency': '' if (ms := latency(trial, state)) is None else f'{ms:.2f}', 'noisy': bool(noisy(trial)),
            'speedup': '' if speed is None else f'{speed:.2f}x',
            'interval': '' if low is None or high is None else f'{low:.2f}x to {high:.2f}x',
            'macs': _count(trial, 'macs'), 'params': _count(trial, 'params'), 'number': trial.number,
            'objective': '' if (score := number(m.get('default'))) is None else f'{score:.4f}',
            'formula': 'the layers of the original model' if trial is marks.original else cell(trial.summary, _LONGEST)}


def _ranked(state: RunState) -> list[Trial]:
    """The original model, then the operators with a result, the best first."""
    def key(trial: Trial) -> float:
        score = number(trial.metrics.get('default'))
        return float('inf') if score is None else -score
    return [*([state.baseline] if state.baseline else []), *sorted(state.succeeded, key=key)]


def _lost(state: RunState) -> list[dict[str, str]]:
    return [{'id': shown_id(c), 'why': ending(c), 'message': cell(c.error.message, 2000) if c.error else '',
             'formula': cell(c.summary, _LONGEST),
             'speedup': '' if (s := number(c.metrics.get('speedup'))) is None else f'{s:.2f}x'} for c in state.failed]


def _slot_rows(state: RunState, facts: ModelFacts) -> list[dict[str, Any]]:
    """The model's slots with what the winner puts into them; widths are parts of the largest slot's multiply-adds."""
    best = state.best
    mapping = slot_mapping(best, facts) if best is not None else None
    if best is None or mapping is None:
        return []
    most = max(slot.macs for slot in facts.slots) or 1
    rows = []
    for slot in facts.slots:
        text = mapping[slot.name]
        after = slot.macs if text == 'keep' else _macs_at(text, slot.sizes)
        rows.append({'name': slot.name, 'layer': slot.layer, 'kind': slot.kind, 'kept': text == 'keep',
                     'label': slot.label if len(best.sample) <= _FEW_CHOICES else _id_of(text),
                     'sizes': ' '.join(f'{v}={n}' for v, n in slot.sizes.items() if v in ('C_in', 'C_out', 'H', 'W', 'L', 'T')),
                     'before': quantity(slot.macs), 'after': '?' if after is None else quantity(after),
                     'wide': f'{100 * slot.macs / most:.1f}', 'filled': f'{100 * min((after or 0) / most, 1):.1f}'})
    return rows


def _id_of(formula: str) -> str:
    try:
        return Operator.parse(formula).id
    except SynoError:
        return 'operator'


def _macs_at(formula: str, sizes: Any) -> int | None:
    try:
        op = Operator.parse(formula)
        return op.macs({v: sizes[v] for v in op.variables})
    except (SynoError, KeyError):
        return None


def _correlations(state: RunState) -> str:
    found = rank_correlations(state)
    if not found:
        return ''
    return ('Rank correlation (Spearman) with the validation accuracy of the operators that were trained to the end: '
            + ', '.join(f'{name} {rho:+.2f}' for name, (rho, _) in found.items())
            + f' ({max(n for _, n in found.values())} operators).')


def _conditions(state: RunState, run_dir: Path | None) -> Iterator[tuple[str, str]]:
    facts, model, data = state.environment, section(state, 'model'), section(state, 'data')
    config = shlex.quote(str(run_dir / 'config.yml')) if run_dir is not None else 'RUN_DIR/config.yml'
    run = shlex.quote(str(run_dir)) if run_dir is not None else 'RUN_DIR'
    yield 'model', ' '.join([cell(model.get('name', '')), *(f'{cell(k)}={cell(v)}' for k, v in model.items() if k != 'name')])
    yield 'data', f'{cell(data.get("factory") or data.get("name", ""))}, {cell(data.get("imageSize", ""))} pixels'
    yield 'strategy', ', '.join(f'{cell(k)} {cell(v)}' for k, v in section(state, 'strategy').items() if v != {})
    yield 'seeds', ', '.join(f'{k} {cell(v)}' for k, v in seeds(state).items())
    yield 'latency', latency_conditions(state)
    yield 'machine', ', '.join(filter(None, (
        cell(facts.get('cpu') or ''), f'{cell(facts["cores"])} cores' if facts.get('cores') else '',
        f'{cell(facts["memory_gb"])} GB' if facts.get('memory_gb') else '', cell(facts.get('platform') or ''))))
    versions = facts.get('versions')
    yield 'versions', ', '.join([*([f'python {cell(facts["python"])}'] if facts.get('python') else []), *(
        f'{cell(k)} {cell(v)}' for k, v in (versions.items() if isinstance(versions, dict) else ()))])
    yield 'sessions', f'{state.sessions} (processes that worked on the run)'
    yield 'the same search anew', visible(f'syno-nni search {config}')
    yield 'this report anew', visible(f'syno-nni report {run}')


def _config_yaml(state: RunState) -> str:
    """The configuration with every default, or as it was recorded, where this version would no longer take it."""
    try:
        return SearchConfig.from_dict(state.config).to_yaml()
    except ConfigError:
        return dump_yaml(state.config)


def _wall(state: RunState) -> str:
    return duration(state.elapsed_s)


def _percent(trial: Trial | None, name: str) -> str:
    value = None if trial is None else number(trial.metrics.get(name))
    return '' if value is None else f'{100 * value:.2f} %'


def _test(trial: Trial | None) -> str:
    value = None if trial is None else number(trial.test_metrics.get('accuracy'))
    return '' if value is None else f'{100 * value:.2f} %'


def _count(trial: Trial | None, name: str) -> str:
    return '' if trial is None else quantity(number(trial.metrics.get(name)))


def _ms(trial: Trial | None, state: RunState) -> str:
    ms = None if trial is None else latency(trial, state)
    return '' if ms is None else f'{ms:.2f} ms'


# ---- the file ----

@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    loader = Environment(loader=PackageLoader('syno_nni.run.report', '.'), autoescape=True, undefined=StrictUndefined,
                         trim_blocks=True, lstrip_blocks=True)
    loader.filters['quantity'] = quantity
    loader.filters['duration'] = duration
    return loader.get_template('report.html.j2')


def _own(name: str) -> str:
    return resources.files('syno_nni.run.report').joinpath(name).read_text(encoding='utf-8')


@cache
def _plotly() -> str:
    """Plotly's own file of its browser library."""
    from plotly.offline import get_plotlyjs
    return get_plotlyjs()


def _embedded(data: Any) -> str:
    """JSON that may stand inside a script element, whatever its strings say."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False)
    return text.replace('<', '\\u003c').replace('>', '\\u003e').replace('&', '\\u0026')


def _policy(scripts: list[str]) -> str:
    """Nothing is loaded, and no scripts run but these."""
    hashes = ' '.join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
            "form-action 'none'")
