#!/usr/bin/env python3
"""What searches by retrofit found: a row for every run directory, and the table of them.

    syno-nni search my_search.yml --run-dir runs/mine
    python benchmarks/found.py runs/mine --note 'CIFAR-10 as JPEG; ResNet-20, trained'
    python benchmarks/found.py --docs                  # the table only

A run tells all of its own: accuracy on the test images, latency in turns with the original, seconds, seeds, versions. Results:
results/found.json, and docs/measurements/found.md.
"""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness import DOCS, RESULTS, fill_in, read_results, write_results

from syno_nni.run.directory import load_run
from syno_nni.run.report import report_data

PATH = RESULTS / 'found.json'


def row(run: Path, note: str) -> dict[str, Any]:
    """The facts of a run."""
    state = load_run(run)
    data = report_data(state, run)
    kept = ('accuracy', 'test_accuracy', 'latency_ms', 'speedup', 'speedup_low', 'speedup_high', 'macs', 'params', 'noisy')
    winner, original = data['winner'] or {}, data['original'] or {}
    origins: dict[str, int] = {}
    for formula in {f for f in winner.get('sample', {}).values() if f != 'keep'}:
        scored = state.library.get(formula)
        origins[scored.origin if scored else '?'] = origins.get(scored.origin if scored else '?', 0) + 1
    return {'experiment': data['experiment'], 'note': note, 'seed': state.config['strategy']['seed'],
            'strategy': state.config['strategy']['name'], 'original': {k: original.get(k) for k in kept},
            'winner': {k: winner.get(k) for k in kept}, 'operators': origins,
            'filled': sum(f != 'keep' for f in winner.get('sample', {}).values()), 'slots': len(winner.get('sample', {})),
            'screened': max((s.screened for s in state.library.values()), default=0), 'scored': len(state.library),
            'trials': len(state.operators), 'minutes': round(state.elapsed_s / 60, 1),
            'latency': data['latency_conditions'], 'environment': state.environment,
            'formulas': sorted({f for f in winner.get('sample', {}).values() if f != 'keep'})}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    head = ('search', 'seed', 'minutes', 'screened, scored, trials', 'speedup (quartiles)', 'test accuracy', 'original',
            'slots filled', 'operators by origin')
    lines = [f'| {" | ".join(head)} |', '|---' * len(head) + '|']
    for r in rows:
        w, o = r['winner'], r['original']
        if not w.get('speedup'):
            continue
        noisy = ' noisy' if w.get('noisy') else ''
        lines.append(
            f'| {r["note"]} | {r["seed"]} | {r["minutes"]} | {r["screened"]}, {r["scored"]}, {r["trials"]} '
            f'| {w["speedup"]:.2f}x ({w["speedup_low"]:.2f}-{w["speedup_high"]:.2f}){noisy} | {100 * w["test_accuracy"]:.2f} % '
            f'| {100 * o["test_accuracy"]:.2f} % | {r["filled"]} of {r["slots"]} '
            f'| {", ".join(f"{n} {who}" for who, n in r["operators"].items())} |')
    return '\n'.join([*lines, '', *(f'{r["note"]}, seed {r["seed"]}: `{f}`' + '  ' for r in rows for f in r['formulas'])])


def main() -> None:
    """Add runs, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='*', type=Path)
    parser.add_argument('--note', default='')
    parser.add_argument('--docs', action='store_true', help='the table only')
    args = parser.parse_args()
    rows = read_results(PATH).get('rows', [])
    if not args.docs:
        rows += [row(run, args.note or run.name) for run in args.runs]
        write_results(PATH, 'python benchmarks/found.py RUN ...', {'rows': rows})
    fill_in(DOCS / 'measurements' / 'found.md', 'found', table(rows))


if __name__ == '__main__':
    main()
