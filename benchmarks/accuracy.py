"""Accuracy on Fashion-MNIST: the five published families and their retrofits, trained from scratch by one recipe.

    python benchmarks/accuracy.py                    # all rows; some hours on two cores
    python benchmarks/accuracy.py --seconds 150      # a slice of it; repeat until it says that all is done
    python benchmarks/accuracy.py --models 'resnet18*' --train 5000 --epochs 2 --again
    python benchmarks/accuracy.py --claims           # write the measured accuracies into the zoo's descriptions

The models are timm's and the zoo's own, at full width; only their image is smaller. SGD, one-cycle, mirror images,
bfloat16 autocast; accuracies are computed in float32. No choice is made on the test split, which is used once, at the
end. Trainings keep checkpoints and go on where they stopped. Results: results/accuracy.json, tables:
docs/measurements/accuracy.md and README.md.
"""
from __future__ import annotations

import argparse
import fnmatch
import math
import statistics
import sys
import warnings
from typing import Any

import models
import timm
import torch
from harness import (
    DOCS,
    RESULTS,
    SCRATCH,
    TimeSlice,
    Training,
    accuracy,
    fashion_mnist,
    fill_in,
    in_memory,
    read_results,
    resumed,
    write_results,
)
from torch import nn

from syno_nni import model_zoo

PATH = RESULTS / 'accuracy.json'
RETROFITS = ('resnet18_syno_07754', 'resnet34_syno_07754', 'densenet121_syno_07961_g4', 'resnext29_2x64d_syno_07970_g4',
             'tf_efficientnetv2_s_syno_07754_g4')
"""The fastest retrofit of each family by docs/measurements/latency.md."""
TOLERANCE = 1.0
"""Points of accuracy that a retrofit may lose."""


def base_of(name: str) -> str:
    """The architecture of a retrofit, and of itself an architecture."""
    return model_zoo.load_retrofit(name).base if name in model_zoo.retrofit_names() else name


def build(name: str, image: int) -> nn.Module:
    if base_of(name) == name:
        return timm.create_model(name, num_classes=10)
    return timm.create_model(name, num_classes=10, img_size=image)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', default='*', help='name patterns, separated by commas')
    parser.add_argument('--image', type=int, default=48, help='pixels of a side')
    parser.add_argument('--train', type=int, default=20_000)
    parser.add_argument('--epochs', type=int, default=2)
    parser.add_argument('--seeds', type=int, default=2)
    parser.add_argument('--seconds', type=float, default=1e9, help='stop after this time')
    parser.add_argument('--again', action='store_true', help='drop what is stored')
    parser.add_argument('--claims', action='store_true', help="write what is measured into the zoo's descriptions and stop")
    options = parser.parse_args()
    if options.claims:
        write_claims(read_results(PATH))
        return 0
    settings = {k: getattr(options, k) for k in ('image', 'train', 'epochs')}
    results = resumed(PATH, settings, again=options.again, rows={})
    slice_ = TimeSlice(options.seconds)
    data = fashion_mnist(options.train, 2_000, image=options.image)
    names = [name for retrofit in RETROFITS for name in (base_of(retrofit), retrofit) if models.matches(name, options.models)]
    # Seeds in the outer loop: every row has one before any has two.
    for seed in range(options.seeds):
        for name in names:
            if str(seed) in results['rows'].get(name, {}):
                continue
            torch.manual_seed(seed)
            model = build(name, options.image)
            state = '-'.join(map(str, (name, *settings.values(), seed)))
            training = Training(model, data.train, SCRATCH / f'accuracy-{state}.pt', epochs=options.epochs, seed=seed,
                                bfloat16=True)
            if not training.run(slice_):
                print(f'{name}, seed {seed}: step {training.step} of {training.steps}; to be continued')
                return 0
            row = {'test': accuracy(model, in_memory(data.test)), 'validation': accuracy(model, in_memory(data.val)),
                   'params': sum(p.numel() for p in model.parameters()), 'minutes': round(training.seconds / 60, 1)}
            print(name, seed, row, flush=True)
            # Another process may train other models meanwhile.
            stored = read_results(PATH)
            results = stored if stored.get('settings') == settings else results
            results['rows'].setdefault(name, {})[str(seed)] = row
            write_results(PATH, 'python benchmarks/accuracy.py', results)
            report(results)
    report(results)
    print('all done')
    return 0


def report(results: dict[str, Any]) -> None:
    """Write docs/measurements/accuracy.md and the README's table."""
    (DOCS / 'measurements' / 'accuracy.md').write_text(document(results), encoding='utf-8')
    fill_in(DOCS.parent / 'README.md', 'gains', summary(results))


def summary(results: dict[str, Any]) -> str:
    """A line per family: what it gains, and what it loses."""
    speedups = models.gains(read_results(models.PATH).get('rows', {}))
    lines = ['| model | retrofit | speedup | accuracy | original | parameters |', '|---|---|---|---|---|---|']
    for name in RETROFITS:
        row, original = results['rows'].get(name), results['rows'].get(base_of(name))
        if row and original and name in speedups:
            ours, theirs = (statistics.mean(r['test'] for r in rows.values()) for rows in (row, original))
            params = [next(iter(rows.values()))['params'] / 1e6 for rows in (row, original)]
            lines.append(f'| {base_of(name)} | `{name}` | {speedups[name].speedup:.2f}x | {ours:.1f} % | {theirs:.1f} % | '
                         f'{params[0]:.1f} M of {params[1]:.1f} M |')
    return '\n'.join(lines)


def loss_of(results: dict[str, Any], name: str) -> list[float]:
    """Points of test accuracy lost against the original, for each seed that both have."""
    row, original = results['rows'].get(name, {}), results['rows'].get(base_of(name), {})
    return [original[seed]['test'] - row[seed]['test'] for seed in row if seed in original]


def document(results: dict[str, Any]) -> str:
    """The table: accuracy of both, and the speedup of docs/measurements/latency.md beside it."""
    s = results['settings']
    speedups = models.gains(read_results(models.PATH).get('rows', {}))
    lines = ['# Accuracy', '', 'Original and retrofit trained from scratch by the same recipe: '
             f'{s["train"]} images of Fashion-MNIST at {s["image"]} px,', f'{s["epochs"]} epochs, batches of 128, SGD with a '
             'one-cycle schedule, mirror images, full width. Test split, mean of the seeds',
             '(each behind it). Speedup: 224 px, batch 1, against the original in its own best runtime (`latency.md`). '
             'Written by', '`benchmarks/accuracy.py`.', '',
             '| model | params | accuracy % | points lost | speedup |', '|---|---|---|---|---|']
    within = []
    for name in sorted(results['rows'], key=lambda name: [base_of(r) for r in RETROFITS].index(base_of(name))):
        row = results['rows'][name]
        values = [r['test'] for r in row.values()]
        lost, speedup = '', ''
        if base_of(name) != name and loss_of(results, name):
            points = statistics.mean(loss_of(results, name))
            lost = f'{points:.2f}'
            if name in speedups:
                speedup = f'{speedups[name].speedup:.2f}x, {speedups[name].runtime}'
                # What loses too much is no gain: the original stays.
                within.append(speedups[name].speedup if points <= TOLERANCE else 1.0)
        lines.append(f'| {name} | {next(iter(row.values()))["params"] / 1e6:.2f} M | {statistics.mean(values):.2f} '
                     f'({", ".join(f"{v:.2f}" for v in values)}) | {lost} | {speedup} |')
    if within:
        lines += ['', f'Geometric mean of the speedups: **{math.prod(within) ** (1 / len(within)):.2f}x** over {len(within)} '
                  f'families, 1.00x where more than {TOLERANCE:g} point is lost.']
    return '\n'.join(lines) + '\n'


def write_claims(results: dict[str, Any]) -> None:
    """What was measured becomes what the zoo claims, with its conditions."""
    s = results['settings']
    for name in fnmatch.filter(results['rows'], '*_syno_*'):
        row, original = results['rows'][name], results['rows'].get(base_of(name), {})
        seeds = [seed for seed in row if seed in original]
        if seeds:
            models.replace_claims(name, 'accuracy', [{
                'dataset': 'fashion-mnist', 'split': 'test', 'seeds': [int(seed) for seed in seeds],
                'accuracy': [row[seed]['test'] / 100 for seed in seeds],
                'baseline_accuracy': [original[seed]['test'] / 100 for seed in seeds],
                'recipe': f'Both from scratch, {s["train"]} images at {s["image"]} px, {s["epochs"]} epochs.'}])


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    sys.exit(main())
