"""What a warm start is worth: accuracy right after retrofitting and after a short fine-tune, against fresh weights.

    python benchmarks/warm_start.py                 # about 15 minutes of one core
    python benchmarks/warm_start.py --seconds 150   # a slice of it; repeat until it says that all is done

A ResNet-18 of a quarter of the width, with a 3x3 stem, is trained on Fashion-MNIST at 32 px. Each operator then fills
all its 3x3 slots, and the model starts in five ways. All fine-tunes take the same steps on the same batches. Accuracies
are on the validation split. Results: results/warm_start.json, and the table of docs/retrofit.md.
"""
from __future__ import annotations

import argparse
import sys
import time
import warnings
from typing import Any

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
    resumed,
    small_resnet,
    write_results,
)
from torch import nn
from torch.utils.data import DataLoader

from syno_nni import model_zoo
from syno_nni.operator import Operator, classics
from syno_nni.search_spaces.retrofit.distill import Losses, distill
from syno_nni.search_spaces.retrofit.retrofit import retrofit
from syno_nni.search_spaces.retrofit.warm_start import fit_kernels, recalibrate_batch_norm, warm_start

PATH = RESULTS / 'warm_start.json'
OPERATORS = {
    # One weight: the fit to the kernel is the optimum.
    'grouped convolution': classics.grouped_conv2d,
    'column of a convolution': lambda: Operator.parse(
        'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1] in[n, c, unfold(h, i), w] * w1[o, c, i]'),
    # Two weights: they take turns.
    'depthwise separable': classics.depthwise_separable,
    'low rank': classics.low_rank,
    'syno_resnet_07754': lambda: model_zoo.load('syno_resnet_07754').operator,
}
LABELS = Losses(labels=1, logits=0)
STARTS: dict[str, tuple[str, Losses]] = {
    # How the weights start, and what the fine-tune is trained on.
    'fresh': ('fresh', LABELS),
    'kernels': ('kernels', LABELS),
    'activations': ('activations', LABELS),
    'logits': ('activations', Losses(labels=0.5, logits=0.5)),
    'logits and layers': ('activations', Losses(labels=0.5, logits=0.5, layers=1.0)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--width', type=int, default=16, help='channels of the first stage')
    parser.add_argument('--groups', type=int, default=8, help='the size g of the operators')
    parser.add_argument('--train', type=int, default=10_000, help='training images')
    parser.add_argument('--val', type=int, default=2_000, help='validation images')
    parser.add_argument('--epochs', type=int, default=4, help='of the original')
    parser.add_argument('--tune-steps', type=int, default=40, help='batches of 128 per fine-tune')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--again', action='store_true', help='drop what is stored')
    parser.add_argument('--seconds', type=float, default=1e9, help='stop after this time')
    options = parser.parse_args()
    slice_ = TimeSlice(options.seconds)
    settings = {k: v for k, v in vars(options).items() if k not in ('seconds', 'again')}
    results = resumed(PATH, settings, again=options.again, rows={})
    done = run(options, results, slice_)
    print('all done' if done else 'to be continued')
    return 0


def run(options: argparse.Namespace, results: dict[str, Any], slice_: TimeSlice) -> bool:
    data = fashion_mnist(options.train, options.val, options.seed)
    validation = in_memory(data.val)
    torch.manual_seed(options.seed)
    original = small_resnet((2, 2, 2, 2), options.width)
    name = '-'.join(str(getattr(options, k)) for k in ('width', 'train', 'epochs', 'seed'))
    if not Training(original, data.train, SCRATCH / f'warm_start-{name}.pt', epochs=options.epochs, seed=options.seed,
                    ).run(slice_):
        return False
    results['original'] = accuracy(original, validation)
    print(f'original {results["original"]:.2f} %', flush=True)
    order = torch.Generator().manual_seed(options.seed)
    batches = list(DataLoader(data.train, 128, shuffle=True, drop_last=True, generator=order))[:options.tune_steps]
    for name, make in OPERATORS.items():
        rows = results['rows'].setdefault(name, {'formula': str(make())})
        for start in STARTS:
            if start in rows:
                continue
            if slice_.over:
                return False
            rows[start] = one(original, make(), start, batches, validation, options)
            print(name, start, rows[start], flush=True)
            write_results(PATH, 'python benchmarks/warm_start.py', results)
    fill_in(DOCS / 'retrofit.md', 'warm start', table(results))
    return True


def one(original: nn.Module, op: Operator, start: str, batches: list[Any], validation: list[Any],
        options: argparse.Namespace) -> dict[str, float]:
    """Accuracy in percent before and after the fine-tune, and the mean relative error left in the slots."""
    weights, losses = STARTS[start]
    fit_on = [x[:64] for x, _ in batches[:2]]
    torch.manual_seed(options.seed)
    model = retrofit(original, op, (1, 3, 32, 32), coefficients={'g': options.groups})
    errors: dict[str, float] = {}
    began = time.monotonic()
    if weights == 'activations':
        errors = warm_start(original, model, fit_on)
    else:
        errors = fit_kernels(original, model) if weights == 'kernels' else {}
        recalibrate_batch_norm(model, fit_on)
    row = {'seconds': round(time.monotonic() - began, 1), 'before': accuracy(model, validation)}
    if errors:
        row['error'] = round(sum(errors.values()) / len(errors), 4)
    distill(original, model, batches, steps=options.tune_steps, losses=losses, learning_rate=0.02)
    return row | {'after': accuracy(model, validation)}


def table(results: dict[str, Any]) -> str:
    heads = ['fresh weights', 'kernels', 'activations', '... + logits', '... + logits and layers']
    s = results['settings']
    lines = [f'| operator in all 3x3 slots | {" | ".join(heads)} |', '|---|---|---|---|---|---|']
    for name, rows in results['rows'].items():
        cells = [f'{rows[k]["before"]:.1f} → {rows[k]["after"]:.1f}' if k in rows else '' for k in STARTS]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join([*lines, '', f'Validation accuracy in percent, right after retrofitting → after {s["tune_steps"]} '
                      f'steps of 128 images; the original has {results["original"]:.1f} % after '
                      f'{s["epochs"] * (s["train"] // 128)} steps. ResNet-18 of a quarter of the width on Fashion-MNIST '
                      '(32 px), one seed. Fitting needs 128 images without labels. `python benchmarks/warm_start.py`.'])


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    sys.exit(main())
