"""The slot table that ``syno-nni slots MODEL`` prints: rows as data, and a plain-text form of them."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from syno_nni.text import columns, quantity

from .slots import Excluded, Slot

_NUMBERS = ('layers', 'MACs', 'share', 'params', 'ms', 'of time')


def slot_rows(slots: Iterable[Slot], excluded: Iterable[Excluded] = (),
              latency_ms: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """One row per layer: ``name, kind, sizes, stride, macs, share, params, latency_ms, excluded`` (the reason, or '').

    ``latency_ms`` maps layer names to measured latencies (:func:`~.measure_slots.layer_latencies`); the column is
    None where there is none.
    """
    times = latency_ms or {}
    rows = [{'name': s.name, 'kind': s.kind, 'sizes': _sizes(s.sizes), 'stride': _by(s.stride), 'macs': s.macs,
             'share': s.share, 'params': s.params, 'latency_ms': times.get(s.name), 'excluded': ''} for s in slots]
    rows += [{'name': e.name, 'kind': e.kind or e.module_type, 'sizes': _sizes(e.sizes), 'stride': '',
              'macs': e.macs, 'share': e.share, 'params': None, 'latency_ms': times.get(e.name), 'excluded': e.reason}
             for e in excluded]
    return rows


def format_slot_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of :func:`slot_rows` as text: the slots, the excluded layers by kind and reason, and a total."""
    slots = [r for r in rows if not r['excluded']]
    others = [r for r in rows if r['excluded']]
    whole = sum(r['latency_ms'] or 0.0 for r in rows)
    parts = []
    if slots:
        head = ['slot', 'kind', 'sizes', 'stride', 'MACs', 'share', 'params'] + ['ms', 'of time'] * (whole > 0)
        parts.append(_columns([head] + [
            [r['name'], r['kind'], r['sizes'], r['stride'], quantity(r['macs']), f'{r["share"]:.1%}',
             quantity(r['params']), *_time(r['latency_ms'], whole)] for r in slots]))
    if others:
        groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in others:
            groups.setdefault((row['kind'], row['excluded']), []).append(row)
        parts.append(_columns([['not a slot', 'kind', 'layers', 'MACs', 'share', 'why']] + [
            [_names([r['name'] for r in rows]), kind, str(len(rows)), quantity(sum(r['macs'] for r in rows)),
             f'{sum(r["share"] for r in rows):.1%}', reason] for (kind, reason), rows in groups.items()]))
    total = f'{len(slots)} slots hold {sum(r["share"] for r in slots):.1%} of the MACs'
    parts.append(f'{total}; {len(others)} layers are not slots.' if others else f'{total}.')
    return '\n\n'.join(parts)


def _names(names: Sequence[str]) -> str:
    return ', '.join(names) if len(names) < 3 else f'{names[0]} ... {names[-1]}'


def _time(latency_ms: float | None, whole_ms: float) -> list[str]:
    """The two columns of measured latencies, where there are any."""
    if not whole_ms:
        return []
    return ['', ''] if latency_ms is None else [f'{latency_ms:.3f}', f'{latency_ms / whole_ms:.1%}']


def _sizes(sizes: Mapping[str, int]) -> str:
    """The sizes that differ between slots: ``C_in=64 C_out=128 H=28``."""
    return ' '.join(f'{v}={n}' for v, n in sizes.items() if v in ('C_in', 'C_out', 'H', 'W', 'L', 'T', 'g')
                    or (v == 'N' and n > 1))


def _by(numbers: Sequence[int]) -> str:
    return 'x'.join(map(str, numbers))


def _columns(lines: Sequence[Sequence[str]]) -> str:
    return columns(lines, {i for i, head in enumerate(lines[0]) if head in _NUMBERS})
