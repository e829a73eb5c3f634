"""Accuracy on Fashion-MNIST: originals and retrofits trained from scratch by the same recipe.

    python benchmarks/accuracy.py                    # all rows; hours on two cores at the default width
    python benchmarks/accuracy.py --seconds 150      # a slice of it; repeat until it says that all is done
    python benchmarks/accuracy.py --models 'resnet18*' --width 16 --train 5000 --epochs 2

Models are ResNets for 32 pixels (3x3 stem, no pooling behind it). SGD, one-cycle, mirror images; no choice is made on
the test split, which is used once, at the end. Trainings keep checkpoints and go on where they stopped. Results:
results/accuracy.json, table: docs/accuracy.md.
"""
from __future__ import annotations

import argparse
import fnmatch
import statistics
import sys
import warnings
from typing import Any

import timm
import torch
from harness import DOCS, RESULTS, SCRATCH, TimeSlice, Training, accuracy, fashion_mnist, in_memory, read_results, write_results
from torch import nn

from syno_nni import model_zoo
from syno_nni.search_spaces.retrofit import retrofit

PATH = RESULTS / 'accuracy.json'
ROWS = {f'{base}/{filling}': (base, filling) for base in ('resnet18_cifar', 'resnet34_cifar')
        for filling in ('original', 'syno_resnet_07754', 'syno_resnet_07795')}


def build(base: str, filling: str, width: int, groups: int) -> nn.Module:
    model = timm.create_model(base, width=width, num_classes=10)
    if filling == 'original':
        return model
    return retrofit(model, model_zoo.load(filling).operator, (1, 3, 32, 32), kinds=['conv3x3'], coefficients={'g': groups})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', default='*', help='row names, such as resnet18_cifar/*')
    parser.add_argument('--width', type=int, default=32, help='channels of the first stage')
    parser.add_argument('--groups', type=int, default=16, help='the size g of the operators')
    parser.add_argument('--train', type=int, default=20_000)
    parser.add_argument('--epochs', type=int, default=5)
    parser.add_argument('--seeds', type=int, default=2)
    parser.add_argument('--seconds', type=float, default=1e9, help='stop after this time')
    options = parser.parse_args()
    settings = {k: getattr(options, k) for k in ('width', 'groups', 'train', 'epochs')}
    results = read_results(PATH)
    if results.get('settings') != settings:
        results = {'settings': settings, 'rows': {}}
    slice_ = TimeSlice(options.seconds)
    data = fashion_mnist(options.train, 2_000)
    # Seeds in the outer loop: every row has one before any has two.
    for seed in range(options.seeds):
        for name in fnmatch.filter(ROWS, options.models):
            row = results['rows'].setdefault(name, {})
            if str(seed) in row:
                continue
            torch.manual_seed(seed)
            model = build(*ROWS[name], options.width, options.groups)
            state = '-'.join(map(str, (name.replace('/', '-'), *settings.values(), seed)))
            training = Training(model, data.train, SCRATCH / f'accuracy-{state}.pt', epochs=options.epochs, seed=seed)
            if not training.run(slice_):
                print(f'{name}, seed {seed}: step {training.step} of {training.steps}; to be continued')
                return 0
            row[str(seed)] = {'test': accuracy(model, in_memory(data.test)), 'validation': accuracy(model, in_memory(data.val)),
                              'params': sum(p.numel() for p in model.parameters()), 'minutes': round(training.seconds / 60, 1)}
            print(name, seed, row[str(seed)], flush=True)
            write_results(PATH, 'python benchmarks/accuracy.py', results)
            (DOCS / 'accuracy.md').write_text(document(results), encoding='utf-8')
    print('all done')
    return 0


def document(results: dict[str, Any]) -> str:
    s = results['settings']
    lines = ['# Accuracy', '', 'Written by `benchmarks/accuracy.py`: original and retrofits trained from scratch by the same',
             f'recipe on {s["train"]} images of Fashion-MNIST (32 px) for {s["epochs"]} epochs, width {s["width"]}, g = '
             f'{s["groups"]}; all 3x3', 'slots filled. Test split, mean of the seeds (each seed behind it).', '',
             '| model | filling | params | accuracy % | against the original |', '|---|---|---|---|---|']
    for name, row in results['rows'].items():
        if not row:
            continue
        base, filling = ROWS[name]
        values = [r['test'] for r in row.values()]
        against = [row[k]['test'] - r['test'] for k, r in results['rows'].get(f'{base}/original', {}).items() if k in row]
        difference = f'{statistics.mean(against):+.2f}' if against and filling != 'original' else ''
        lines.append(f'| {base} | {filling} | {next(iter(row.values()))["params"]} | {statistics.mean(values):.2f} '
                     f'({", ".join(f"{v:.2f}" for v in values)}) | {difference} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    sys.exit(main())
