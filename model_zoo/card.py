"""Model cards: Markdown made from a folder's or a zoo entry's data alone."""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from syno_nni.operator import Operator
from syno_nni.operator.draw import to_text_graph
from syno_nni.text import quantity

from .entries import ZooEntry, load
from .retrofits import Retrofit, is_name, resolve

CITATION = ('Zhuo et al., "Syno: Structured Synthesis for Neural Operators", ASPLOS 2025 '
            "(the method; these numbers are this project's unless marked as published)")


def folder_card(name: str, base: str, config: Mapping[str, Any], evidence: Mapping[str, Any], *, factory: str = '') -> str:
    """The card of a saved folder, from its slot configuration and what was measured when it was written. ``factory`` names
    the function (``module:function``) that makes the original where that is no timm model."""
    change = evidence.get('change', {})
    module, _, function = factory.partition(':')
    of = f'`{factory}`' if factory else f"[timm](https://github.com/huggingface/pytorch-image-models)'s `{base}`"
    use = (('import syno_nni', f'from {module} import {function}', f"model = syno_nni.load('{name}', model={function}())")
           if factory else ('import timm', 'import syno_nni.model_zoo',
                            f"model = timm.create_model('local-dir:{name}', pretrained=True)"))
    parts = [
        *([] if factory else [_header(base, evidence)]), f'# {name}', '',
        f'{of} with synthesized operators in {len(config["slots"])} of its layers. Made by syno-nni.', '',
        '## Use', '', '```python', *use, '```', '']
    if change:
        parts += ['## Size', '', *_table(('', 'original', 'retrofitted', 'ratio'), [
            (what, quantity(change[f'baseline_{key}']), quantity(change[key]), f'{change[key] / change[f"baseline_{key}"]:.2f}')
            for what, key in (('multiply-accumulates', 'macs'), ('parameters', 'params'))]), '']
    parts += _latency(evidence.get('latency', []))
    parts += _accuracy(evidence)
    parts += ['## Slots', '', *_slot_map(config), '', '## Operators', '']
    for op in {Operator.parse(s['formula']).id: Operator.parse(s['formula']) for s in config['slots'].values()}.values():
        parts += _operator(op)
    if evidence.get('command'):
        parts += ['## How it was made', '', '```', evidence['command'], '```', '', _versions(evidence), '']
    return '\n'.join([*parts, '## Citation', '', CITATION, ''])


def retrofit_card(entry: Retrofit) -> str:
    """The card of a retrofitted model of the zoo."""
    operators = {name: resolve(name) for name in entry.operators}
    parts = [f'# {entry.name}', '', f'`{entry.base}` with {", ".join(f"`{n}`" for n in entry.operators)}.', '',
             *([entry.notes, ''] if entry.notes else []), '```python', 'import timm', 'import syno_nni.model_zoo',
             f"model = timm.create_model('{entry.name}'{', pretrained=True' if entry.weights else ''})", '```', '',
             '## Slots', '', *_table(('slots', 'operator'), [(f'`{k}`', f'`{v}`') for k, v in entry.fill.items()]), '']
    parts += _latency([c for c in entry.claims if c.get('speedup')])
    for claim in entry.claims:
        if claim.get('accuracy') is not None:
            parts += _accuracy({'accuracy': claim})
    parts += _published(entry.published())
    parts += ['## Operators', '']
    for name, op in operators.items():
        parts += _operator(op, name)
    return '\n'.join([*parts, '## Citation', '', *dict.fromkeys(load(n).citation for n in operators if is_name(n)), ''])


def operator_card(entry: ZooEntry) -> str:
    """The card of an operator of the zoo."""
    parts = [f'# {entry.name}', '', f'Source: {entry.source}. Family: {entry.family}.', '', *_operator(entry.operator)]
    return '\n'.join([*parts, *_published(entry.published), '## Citation', '', entry.citation, ''])


def _header(base: str, evidence: Mapping[str, Any]) -> str:
    """The YAML that model hubs read."""
    data = (evidence.get('accuracy') or {}).get('dataset')
    lines = ['---', 'library_name: timm', 'tags:', '- image-classification', '- timm', '- syno-nni',
             f'base_model: timm/{base}']
    return '\n'.join([*lines, *(['datasets:', f'- {data}'] if data else []), '---', ''])


def _latency(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    cells = []
    for r in rows:
        if 'error' in r:
            cells.append((r['runtime'], '', '', f'failed: {r["error"][:120]}', '', ''))
        else:
            quartiles = [f'{r[key]:.2f}' for key in ('speedup_low', 'speedup_high') if r.get(key)]
            cells.append((r['runtime'], _two_digits(r.get('baseline_latency_ms')), _two_digits(r.get('latency_ms')),
                          f'{r["speedup"]:.2f}x' + (f' ({"-".join(quartiles)})' if quartiles else '')
                          + (' noisy' if r.get('noisy') else ''), str(r.get('threads') or ''), r.get('cpu') or ''))
    shape = next(('x'.join(map(str, r['input'])) for r in rows if r.get('input')), '')
    return ['## Latency', '', *_table(('runtime', 'original ms', 'ms', 'speedup (quartiles)', 'threads', 'CPU'), cells), '',
            f'Input {shape}, float32, both models in turns in one runtime.', '']


def _two_digits(number: float | None) -> str:
    return '' if number is None else f'{number:.2f}'


def _accuracy(evidence: Mapping[str, Any]) -> list[str]:
    found = evidence.get('accuracy')
    if found:
        return ['## Accuracy', '', *_table(('', 'accuracy', 'seeds'), [
            ('original', _percents(found.get('baseline_accuracy')), _seeds(found)),
            ('retrofitted', _percents(found.get('accuracy')), _seeds(found))]), '',
            f'{found.get("dataset") or ""}, {found.get("split") or ""} split. {found.get("recipe") or ""}'.strip(), '']
    run = evidence.get('run')
    if run:
        test, base = run.get('test_metrics', {}), run.get('baseline_test_metrics', {})
        data = run.get('experiment', {}).get('data', {})
        return ['## Accuracy', '', *_table(('', 'validation', 'test'), [
            ('original', _percents(run['baseline_metrics'].get('accuracy')), _percents(base.get('accuracy'))),
            ('retrofitted', _percents(run['metrics'].get('accuracy')), _percents(test.get('accuracy')))]), '',
            f'Of the search `{run["run"]}`, candidate `{run["candidate"]}`: {data.get("name", "")} at '
            f'{data.get("imageSize", "")} px, one seed, the same short training for both. The weights of this folder are '
            'not those of the search.', '']
    return ['## Accuracy', '', 'Not measured.', '']


def _published(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = list(rows)
    if not rows:
        return []
    head = ('model', 'CIFAR-100 (original)', 'ImageNet (original)', 'mobile CPU', 'mobile GPU', 'A100')
    return ['## Published numbers', '', 'Published by the authors of the operator, not measured by this project. Speedups: '
            'batch 1, 224x224, TorchInductor.', '', *_table(head, [
                (str(r.get('model', '')), _two(r, 'cifar100'), _two(r, 'imagenet'),
                 *(f'{r[k]:.2f}x' if r.get(k) else '' for k in ('speedup_mobile_cpu_inductor', 'speedup_mobile_gpu_inductor',
                                                              'speedup_a100_inductor'))) for r in rows]), '']


def _two(row: Mapping[str, Any], data: str) -> str:
    if not row.get(f'{data}_accuracy'):
        return ''
    return f'{_percents(row[f"{data}_accuracy"])} ({_percents(row.get(f"{data}_baseline"))})'


def _operator(op: Operator, name: str = '') -> list[str]:
    return [f'### {name or op.id}', '', '```', str(op), '', to_text_graph(op), '```', '']


def _slot_map(config: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, slot in config['slots'].items():
        sizes = slot['sizes']
        where = 'x'.join(str(sizes[v]) for v in ('H', 'W', 'L', 'T') if v in sizes)
        rows.append((f'`{name}`', f'{sizes["C_in"]} → {sizes["C_out"]}', where,
                     'x'.join(map(str, slot.get('stride', ()))), f'`{Operator.parse(slot["formula"]).id}`'))
    return _table(('slot', 'channels', 'size', 'stride', 'operator'), rows)


def _versions(evidence: Mapping[str, Any]) -> str:
    return ', '.join(f'{k} {v}' for k, v in evidence.get('versions', {}).items())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f'| {" | ".join(head)} |', '|' + '---|' * len(head), *(f'| {" | ".join(row)} |' for row in rows)]


def _percents(value: Any) -> str:
    """Accuracies are fractions, of one seed or of several."""
    if isinstance(value, (int, float)):
        return f'{100 * value:.2f} %'
    return ', '.join(f'{100 * v:.2f} %' for v in value) if value else ''


def _seeds(found: Mapping[str, Any]) -> str:
    return json.dumps(found.get('seeds') or []).strip('[]')
