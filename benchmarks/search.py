"""Strategies compared on synthetic landscapes: best-so-far curves over several seeds, in minutes and without training.

    python benchmarks/search.py            # what is missing in benchmarks/results/search.json, then plot and docs/search.md
    python benchmarks/search.py --report   # plot and table only

Every seed has a landscape of its own (`syno_nni.strategies.landscape`). A curve is the objective *without noise* of the
operator that the noisy measurements put first, after each trial. Times are simulated: seconds that training would take.
"""
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from harness import DOCS, TimeSlice, fill_in, resumed, write_results
from harness import RESULTS as STORED
from nni.runtime.log import silence_stdout

from syno_nni.strategies import make_strategy
from syno_nni.strategies.landscape import SyntheticLandscape
from syno_nni.strategies.simulation import SimulatedEngine, SimulatedTrial, simulated_space

matplotlib.use('Agg')

RESULTS = STORED / 'search.json'
BINDINGS = [{'N': 1, 'C_in': i, 'C_out': o, 'H': h, 'k_1': 3, 'k_2': 7, 's': 2, 'g': 8}
            for i, o, h in ((64, 64, 16), (64, 128, 8), (128, 128, 8))]
SPACE = {'preset': 'conv2d', 'bindings': BINDINGS, 'macs_ratio': [0.15, 0.9]}
SEEDS, TRIALS, RANDOM_TRIALS, WORKERS = 8, 100, 300, 2
NAMES = {'random': 'random', 'evolution': 'evolution', 'mcts': 'tree search', 'nni': "NNI's RegularizedEvolution"}


def search(name: str, seed: int, trials: int, workers: int = WORKERS, **class_args: Any) -> list[SimulatedTrial]:
    """Trials of one simulated search, in the order in which they ended."""
    engine = SimulatedEngine(SyntheticLandscape(BINDINGS, seed), trials, workers)
    if name == 'nni':
        silence_stdout()
        from nni.nas.strategy import RegularizedEvolution
        strategy = RegularizedEvolution(population_size=20, sample_size=5, mutation_prob=1.0, seed=seed)
    else:
        strategy = make_strategy(name, seed=seed, baseline=False, concurrency=workers, **class_args)
    strategy(simulated_space(SPACE), engine)
    return engine.finished


def curve(trials: Sequence[SimulatedTrial]) -> list[float]:
    """What the best one by measurement is worth without noise, after each trial."""
    best, values = None, []
    for trial in trials:
        if trial.result.error is None and (
                best is None or trial.result.metrics['default'] > best.metrics['default']):
            best = trial.result
        values.append(round(best.value, 5) if best else 0.0)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--report', action='store_true', help='plot and table only')
    parser.add_argument('--again', action='store_true', help='run all, also what is stored: after a change of a strategy')
    parser.add_argument('--seconds', type=float, default=170, help='stop after about so long (default: %(default)s)')
    args = parser.parse_args()
    settings = {'space': SPACE, 'workers': WORKERS, 'trials': TRIALS, 'random_trials': RANDOM_TRIALS}
    results = resumed(RESULTS, settings, again=args.again, runs={})
    slice_ = TimeSlice(args.seconds)
    missing = [] if args.report else [(name, seed) for seed in range(SEEDS) for name in NAMES
                                      if f'{name}/{seed}' not in results['runs']]
    for name, seed in missing:
        if slice_.over:
            print('to be continued')
            break
        cpu = time.process_time()
        found = search(name, seed, RANDOM_TRIALS if name == 'random' else TRIALS)
        run = {'curve': curve(found), 'simulated_s': round(found[-1].at_s), 'cpu_s': round(time.process_time() - cpu, 1)}
        results['runs'][f'{name}/{seed}'] = run
        print(f'{name}, seed {seed}: {run["curve"][TRIALS - 1]:.4f} in {run["cpu_s"]} s', flush=True)
        write_results(RESULTS, 'python benchmarks/search.py', results)
    report(results)


def report(results: dict[str, Any]) -> None:
    """Write ``docs/search.md``'s table and the plot."""
    seeds = [seed for seed in range(SEEDS) if all(f'{name}/{seed}' in results['runs'] for name in NAMES)]
    if len(seeds) < 2:
        print('too few seeds for a report')
        return
    curves = {name: [results['runs'][f'{name}/{seed}']['curve'] for seed in seeds] for name in NAMES}
    plot(curves, DOCS / 'images' / 'search.png')
    table = '\n'.join(rows(curves))
    fill_in(DOCS / 'search.md', 'strategies', table)
    print(f'{len(seeds)} seeds\n{table}')


def rows(curves: dict[str, list[list[float]]]) -> list[str]:
    """The table: objective after 25, 50 and 100 trials, wins over random, and what random needs for as much."""
    lines = ['| strategy | after 25 trials | 50 | 100 | gain over random at 100 | seeds won | random needs |',
             '|---|---|---|---|---|---|---|']
    for name, label in NAMES.items():
        ends = [c[TRIALS - 1] for c in curves[name]]
        cells = [_mean_sd([c[n - 1] for c in curves[name]]) for n in (25, 50, TRIALS)]
        if name == 'random':
            lines.append(f'| {label} | {" | ".join(cells)} | – | – | {TRIALS} trials |')
            continue
        gains = [e - r[TRIALS - 1] for e, r in zip(ends, curves['random'])]
        typical = statistics.mean(ends)
        mean = [statistics.mean(values) for values in zip(*curves['random'])]
        needed = next((n for n, value in enumerate(mean, 1) if value >= typical), None)
        lines.append(f'| {label} | {" | ".join(cells)} | {_mean_sd(gains, sign="+")} | {sum(g > 0 for g in gains)} of '
                     f'{len(gains)} | {f"{needed} trials" if needed else f"more than {RANDOM_TRIALS} trials"} |')
    return lines


def _mean_sd(values: Sequence[float], sign: str = '') -> str:
    return f'{statistics.mean(values):{sign}.3f} ± {statistics.stdev(values):.3f}'


def plot(curves: dict[str, list[list[float]]], path: Path) -> None:
    """Mean best-so-far curves with the standard error of the mean."""
    import matplotlib.pyplot as plt
    import numpy as np
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for (name, label), colour in zip(NAMES.items(), ('#8a919c', '#d9822b', '#1f6fb2', '#5b8c5a')):
        values = np.array([c[:TRIALS] for c in curves[name]])
        mean, error = values.mean(0), values.std(0, ddof=1) / len(values) ** 0.5
        x = np.arange(1, TRIALS + 1)
        axes.plot(x, mean, label=label, color=colour)
        axes.fill_between(x, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel='trials', ylabel='objective of the best so far', xlim=(1, TRIALS),
             ylim=(min(c[9] for c in curves['random']), None))
    axes.legend(frameon=False, loc='lower right')
    axes.spines[['top', 'right']].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == '__main__':
    main()
