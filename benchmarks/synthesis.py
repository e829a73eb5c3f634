#!/usr/bin/env python3
"""Synthesis: throughput, what bounds it, how it grows, how diverse samples are, how tight the shape distance is, and what
redundancy is left; results in benchmarks/results/synthesis.json, tables in docs/synthesis.md.

    python benchmarks/synthesis.py throughput growth diversity startup profile distance     # each under three minutes
    python benchmarks/synthesis.py redundancy --preset linear --max-steps 5
    python benchmarks/synthesis.py docs                                                     # writes the tables only

Times are CPU times of one process. The setting is that of the published ResNet-18 search: its seven slots, MACs from 0.15
to 0.9 of the convolutions replaced, limits of the preset `conv2d`.
"""
from __future__ import annotations

import argparse
import cProfile
import json
import platform
import pstats
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'benchmarks' / 'results' / 'synthesis.json'
PAGE = ROOT / 'docs' / 'synthesis.md'
MARK = '<!-- tables below are written by benchmarks/synthesis.py -->'
ANCHOR = {'distinct_per_s': 0.54, 'succeed': 0.0059, 'repeats': 0.80, 'memory_mb': 1100, 'median_primitives': 5}


def published_space(**changes: Any) -> Any:
    import syno_nni as sn
    from syno_nni.synthesis.presets import PRESETS
    settings = {'bindings': PRESETS['conv2d'].bindings, 'macs_ratio': (0.15, 0.9), **changes}
    return sn.OperatorSpace.preset('conv2d', **settings)


def draw(space: Any, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Completes the root for so many CPU seconds. An attempt is one random walk; `complete` makes several."""
    completer = space.completer(np.random.default_rng(seed))
    start = time.process_time()
    seen: Counter[str] = Counter()
    curve = []
    calls = failed = 0
    while (spent := time.process_time() - start) < seconds:
        op = completer.complete(space.root, thorough=False)
        calls += 1
        if op is None:
            failed += 1
            continue
        seen[op.id] += 1
        if spent > (len(curve) + 1) * seconds / 6:
            curve.append([round(spent, 1), len(seen), sum(seen.values())])
    spent = time.process_time() - start
    total = sum(seen.values())
    return {'seconds': spent, 'distinct': len(seen), 'drawn': total, 'distinct_per_s': len(seen) / spent,
            'repeats': 1 - len(seen) / max(1, total), 'walks_succeed': completer.successes / max(1, completer.walks),
            'complete_succeeds': 1 - failed / calls, 'curve': curve}


def throughput(options: argparse.Namespace) -> dict[str, Any]:
    found = [draw(published_space(), options.seconds, seed) for seed in range(3)]
    return {'runs': found, 'memory_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def growth(options: argparse.Namespace) -> dict[str, Any]:
    """Distinct operators per second while one setting changes."""
    import syno_nni as sn
    from syno_nni.synthesis.presets import PRESETS
    preset = PRESETS['conv2d']
    rows: dict[str, Any] = {'steps': {}, 'variables': {}, 'slots': {}, 'complexity': {}}

    def measured(space: Any) -> dict[str, Any]:
        found = draw(space, options.seconds / 5)
        kept = {k: found[k] for k in ('distinct_per_s', 'repeats', 'walks_succeed')}
        return {**kept, 'drawn_per_s': found['drawn'] / found['seconds']}

    for limit in (6, 8, 10, 12, 14):
        rows['steps'][limit] = measured(published_space(steps=limit))
    for names in (('k_1',), ('k_1', 's'), ('k_1', 's', 'g'), ('k_1', 's', 'g', 'k_2')):
        variables = [v for v in preset.variables if v.primary or v.name in names]
        space = sn.OperatorSpace(preset.inputs, preset.outputs, variables, bindings=preset.bindings, tied=preset.tied,
                                 unordered_inputs=preset.unordered_inputs, unordered_outputs=preset.unordered_outputs,
                                 layer=sn.Operator.parse(preset.layer), macs_ratio=(0.15, 0.9))
        rows['variables'][len(variables)] = measured(space)
    for count in (1, 3, 7, 21):
        slots = [{**b, 'N': 1 + n // 7} for n, b in enumerate(preset.bindings * 3)][:count]
        rows['slots'][count] = measured(published_space(bindings=slots))
    for knob in (0.0, 0.65, 1.0):
        rows['complexity'][knob] = measured(published_space(complexity=knob))
    return rows


def counted(op: Any) -> int:
    """Primitives as the original counts them: reductions, views, one Share for each weight index, Expands."""
    from syno_nni.synthesis.construction import dropped, primitives
    reached = {leaf for c in op.inputs for leaf in c.iterators()}
    expands = len(dropped(op)) + sum(s not in reached for s in op.sums())
    return len(op.reductions) + sum(primitives(op).values()) + sum(map(len, op.weights)) + expands


def diversity(options: argparse.Namespace) -> dict[str, Any]:
    """What samples are like, by the knob."""
    from syno_nni.operator.cost import receptive_field
    from syno_nni.synthesis.construction import primitives, steps
    small = {'N': 1, 'C_in': 64, 'C_out': 64, 'H': 14, 'k_1': 3, 'k_2': 7, 's': 2, 'g': 32}
    rows: dict[str, Any] = {}
    for knob in (0.0, 0.65, 1.0):
        space = published_space(complexity=knob)
        rng = np.random.default_rng(1)
        ops = list({op.id: op for op in (space.sample(rng) for _ in range(options.samples))}.values())
        counts = [counted(op) for op in ops]
        kinds = [primitives(op) for op in ops]
        complex_ones = [9 <= n <= 20 and k['unfold'] > 0 and len(op.weights) <= 2 for n, k, op in zip(counts, kinds, ops)]
        fields = Counter('x'.join(map(str, sorted(receptive_field(op, small)[0][2:]))) for op in ops[:200])
        macs = [space.macs_over_layer(op) for op in ops]
        rows[str(knob)] = {
            'samples': options.samples, 'distinct': len(ops), 'steps': Counter(map(steps, ops)),
            'primitives': {'median': float(np.median(counts)), 'least': min(counts), 'most': max(counts)},
            'weights': Counter(len(op.weights) for op in ops), 'reductions': Counter(len(op.reductions) for op in ops),
            'use': {k: float(np.mean([row[k] > 0 for row in kinds])) for k in kinds[0]},
            'macs': [float(v) for v in np.quantile(macs, (0.0, 0.25, 0.5, 0.75, 1.0))],
            'fields': dict(fields.most_common(8)), 'as_complex_as_published': float(np.mean(complex_ones))}
    return rows


def startup(options: argparse.Namespace) -> dict[str, Any]:
    """Import time in a new process, beside that of numpy alone, and whether torch or nni come in."""
    def seconds(code: str) -> list[float]:
        script = f'import time; t = time.process_time(); {code}; print(time.process_time() - t)'
        run = [sys.executable, '-c', script]
        return sorted(float(subprocess.run(run, capture_output=True, text=True, check=True).stdout) for _ in range(7))

    script = 'import sys, syno_nni.synthesis; print(sorted({"torch", "nni"} & set(sys.modules)))'
    heavy = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True).stdout.strip()
    return {'import': seconds('import syno_nni.synthesis'), 'numpy': seconds('import numpy'), 'heavy_modules': heavy}


def profile(options: argparse.Namespace) -> dict[str, Any]:
    """Shares of time by phase and by module; the profiler makes small functions look dearer than they are."""
    space = published_space()
    completer = space.completer(np.random.default_rng(0))
    for _ in range(500):  # what is remembered later counts little
        completer.complete(space.root, thorough=False)
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(500):
        completer.complete(space.root, thorough=False)
    profiler.disable()
    stats = pstats.Stats(profiler).stats
    total = sum(row[2] for row in stats.values())
    modules: Counter[str] = Counter()
    phases: dict[str, float] = {}
    names = {('completion.py', '_reduce'): 'reductions', ('completion.py', '_view'): 'views and ways to the input',
             ('spreading.py', 'draw'): 'weights drawn', ('budgets.py', 'macs_over_layer'): 'MACs',
             ('tree.py', 'finish'): 'canonical form and limits'}
    for (path, _, function), (_, _, own, cumulative, _) in stats.items():
        file = Path(path)
        modules[f'{file.parent.name}/{file.name}' if 'syno_nni' in path else 'Python and numpy'] += own / total
        if (file.name, function) in names:
            phases[names[file.name, function]] = cumulative / total
    return {'phases': phases, 'modules': dict(modules.most_common(8))}


def distance(options: argparse.Namespace) -> dict[str, Any]:
    """The bound against the true distance, on every state of the small spaces of the tests."""
    sys.path.insert(0, str(ROOT))
    from tests.syno_nni.synthesis.test_enumeration import distances, space_of
    rows = {}
    for name, limit in (('linear', 5), ('conv1d', 4)):
        pairs = [(b, t) for b, t in distances(space_of(name, steps=limit, weights=2), limit) if t < 99]
        rows[f'{name}, at most {limit} steps'] = {
            'states': len(pairs), 'exceeded': sum(b > t for b, t in pairs), 'equal': float(np.mean([b == t for b, t in pairs])),
            'short_by': Counter(t - b for b, t in pairs)}
    return rows


def redundancy(options: argparse.Namespace) -> dict[str, Any]:
    """Operators that describe the same family among all of a tiny space."""
    from syno_nni.synthesis import semantics
    space = semantics.tiny_space(options.preset)
    start = time.process_time()
    ops = list(space.enumerate(options.max_steps))
    listing = time.process_time() - start
    found = semantics.redundancy(ops, space.bindings)
    row = {'operators': found.operators, 'duplicates': found.duplicates, 'enumerate_s': listing, 'compare_s': found.seconds,
           'groups': [[str(op) for op in group] for group in found.groups[:20]]}
    return {f'{options.preset}, at most {options.max_steps} steps': row}


PARTS = {f.__name__: f for f in (throughput, growth, diversity, startup, profile, distance, redundancy)}


# ---- the page ----

def table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)


def tables(results: dict[str, Any]) -> str:
    parts = []
    if 'throughput' in results:
        runs = results['throughput']['runs']
        rates = sorted(r['distinct_per_s'] for r in runs)
        parts.append('## Throughput\n\n' + table(['', 'here', 'original (C++, two workers)'], [
            ['distinct valid operators per second', f'{rates[len(rates) // 2]:.0f} ({rates[0]:.0f} to {rates[-1]:.0f})',
             ANCHOR['distinct_per_s']],
            ['`complete` succeeds', f'{min(r["complete_succeeds"] for r in runs):.1%}', ''],
            ['single random walks succeed', f'{runs[0]["walks_succeed"]:.0%}', f'{ANCHOR["succeed"]:.1%}'],
            [f'repeats within {runs[0]["seconds"]:.0f} s', f'{runs[0]["repeats"]:.0%}', f'{ANCHOR["repeats"]:.0%}'],
            ['memory', f'{results["throughput"]["memory_mb"]} MB', f'{ANCHOR["memory_mb"]} MB']]))
        parts.append('Over time: ' + ', '.join(f'{d} distinct of {n} after {t} s' for t, d, n in runs[0]['curve']) + '.')
    if 'startup' in results:
        row = results['startup']
        parts.append(f'Importing `syno_nni.synthesis` takes {row["import"][3]:.2f} s (of which numpy alone '
                     f'{row["numpy"][3]:.2f} s), without torch or nni.')
    if 'profile' in results:
        row = results['profile']
        parts.append('### Where the time goes\n\n' + table(['phase', 'share'], [[k, f'{v:.0%}'] for k, v in sorted(
            row['phases'].items(), key=lambda item: -item[1])]))
        parts.append('By module: ' + ', '.join(f'`{k}` {v:.0%}' for k, v in row['modules'].items()) + '.')
    if 'growth' in results:
        rows = [[f'{what} = {value}', f'{r["distinct_per_s"]:.0f}', f'{r["drawn_per_s"]:.0f}', f'{r["repeats"]:.0%}',
                 f'{r["walks_succeed"]:.0%}'] for what, each in results['growth'].items() for value, r in each.items()]
        parts.append('### Growth\n\nShort runs from a cold start: compare within the table only.')
        parts.append(table(['setting', 'distinct/s', 'drawn/s', 'repeats', 'walks succeed'], rows))
    if 'diversity' in results:
        each = results['diversity']

        def shares(counts: dict[str, int]) -> str:
            total = sum(counts.values())
            return ', '.join(f'{k}: {v / total:.0%}' for k, v in sorted(counts.items(), key=lambda item: int(item[0])))

        rows = [['as complex as the published ones (9-20 primitives, Unfold, one or two weights)',
                 *(f'{r["as_complex_as_published"]:.0%}' for r in each.values())],
                ['primitives, median (least to most); original 5 (2 to 10)',
                 *('{median:.0f} ({least} to {most})'.format(**r['primitives']) for r in each.values())],
                ['distinct among the samples', *(f'{r["distinct"]} of {r["samples"]}' for r in each.values())],
                ['steps', *(shares(r['steps']) for r in each.values())],
                ['weights', *(shares(r['weights']) for r in each.values())],
                ['reductions', *(shares(r['reductions']) for r in each.values())],
                ['use a primitive', *(', '.join(f'{k} {v:.0%}' for k, v in r['use'].items()) for r in each.values())],
                ['MACs ratio, quartiles', *(' / '.join(f'{v:.2f}' for v in r['macs']) for r in each.values())],
                ['receptive fields at 14x14, most frequent', *(', '.join(f'{k} ({v})' for k, v in r['fields'].items())
                                                               for r in each.values())]]
        parts.append('## Diversity\n\n' + table(['', *(f'`complexity={k}`' for k in each)], rows))
    if 'distance' in results:
        rows = [[k, r['states'], r['exceeded'], f'{r["equal"]:.1%}',
                 ', '.join(f'{d}: {n}' for d, n in sorted(r['short_by'].items()))] for k, r in results['distance'].items()]
        head = ['space', 'states', 'bound exceeds', 'bound is exact', 'short by (states)']
        parts.append('## Shape distance\n\n' + table(head, rows))
    if 'redundancy' in results:
        rows = [[k, r['operators'], r['duplicates'], f'{r["enumerate_s"]:.0f}', f'{r["compare_s"]:.0f}']
                for k, r in sorted(results['redundancy'].items())]
        head = ['tiny space', 'operators', 'semantic duplicates', 'listed in s', 'compared in s']
        parts.append('## Redundancy that is left\n\n' + table(head, rows))
        for name, r in sorted(results['redundancy'].items()):
            if r['groups']:
                shown = '\n'.join('\n'.join(f'    {text}' for text in group) + '\n' for group in r['groups'][:4])
                parts.append(f'Groups that are left in {name} (some):\n\n{shown}')
    host = results.get('host', {})
    parts.append(f'Measured on {host.get("cpu")}, Python {host.get("python")}, numpy {host.get("numpy")}, one process, CPU '
                 f'time.')
    return '\n\n'.join(parts) + '\n'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('parts', nargs='+', choices=[*PARTS, 'docs'])
    parser.add_argument('--seconds', type=float, default=30.0, help='CPU seconds of a throughput run')
    parser.add_argument('--samples', type=int, default=600)
    parser.add_argument('--preset', default='linear')
    parser.add_argument('--max-steps', type=int, default=4)
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in options.parts:
        if part == 'docs':
            continue
        found = PARTS[part](options)
        results[part] = {**results.get(part, {}), **found} if part == 'redundancy' else found
        results['host'] = {'cpu': cpu(), 'python': platform.python_version(), 'numpy': np.__version__}
        results.setdefault('commands', {})[part] = ' '.join(['python benchmarks/synthesis.py', *sys.argv[1:]])
        results = json.loads(json.dumps(results))
        RESULTS.write_text(json.dumps(results, indent=1) + '\n')
        print(part, json.dumps(results[part])[:1500])
    if PAGE.exists():
        PAGE.write_text(PAGE.read_text().partition(MARK)[0] + MARK + '\n\n' + tables(results))
    return 0


def cpu() -> str:
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.partition(':')[2].strip()
    return platform.processor()


if __name__ == '__main__':
    sys.exit(main())
