#!/usr/bin/env python3
"""Multiply-adds of the published operators: ours beside the original's count, written to docs/measurements/macs.md.

    python benchmarks/macs.py [folder of published operators] [--out docs/measurements/macs.md]
"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import syno_nni as sn
from syno_nni.operator.cost import polynomial

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / 'shared' / 'data' / 'published_operators'
HEAD = """# Multiply-adds: ours and the original's

Summed over each operator's slots at the batch size of the publication (128), in 10^9. Written by `benchmarks/macs.py`.

Ours is the cheapest contraction order (`syno_nni.operator.orders`): a stage that contracts two tensors costs one multiply-add
for each element of the union of their coordinates, a sum without a product one for each element summed, and views are
free. The original adds the number of elements of the input and of every weight, explodes windows where they are first
used, and reduces in a materialised order of its own; that is why ours is never larger.

| operator | ours | original | ours / original | 3x3 convolution / ours | polynomial at the first slot |
|---|---|---|---|---|---|
"""


def row(folder: Path) -> str:
    """One line of the table."""
    facts = json.loads((folder / 'facts.json').read_text())
    op = sn.load_graph_dot(folder / 'graph.dot')
    slots = facts['slots']
    ours, theirs = (sum(v) for v in ([op.macs(s['sizes']) for s in slots], [s['published_macs'] for s in slots]))
    dense = sum(s['N'] * s['C_in'] * s['C_out'] * s['H'] ** 2 * 9 for s in (slot['sizes'] for slot in slots))
    return (f'| {folder.name} | {ours / 1e9:.3f} | {theirs / 1e9:.3f} | {ours / theirs:.3f} | {dense / ours:.2f} | '
            f'`{polynomial(op, slots[0]["sizes"])}` |')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', nargs='?', type=Path, default=DATA)
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'measurements' / 'macs.md')
    options = parser.parse_args()
    if not options.folder.is_dir():
        print(f'no published operators in {options.folder}: nothing to do')
        return 0
    rows = [row(folder) for folder in sorted(options.folder.iterdir()) if (folder / 'facts.json').exists()]
    options.out.write_text(HEAD + '\n'.join(rows) + '\n')
    print('\n'.join(rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
