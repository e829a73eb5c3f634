"""One operator for all slots against a choice per group of slots, on a ResNet-34 trained on Fashion-MNIST.

    python benchmarks/per_slot.py                  # about half an hour of one core, the training included
    python benchmarks/per_slot.py --seconds 150    # a slice of it; repeat until it says that all is done

Groups are the shapes of the 3x3 slots. Every operator is measured in every group: latency in turns with the original
layer, and what is lost (the sensitivity) as the squared relative error of the layers as linear maps after a fit to
their kernels, weighted by their shares of the MACs. Latencies and errors of groups add up; the solver takes the fastest
assignment that loses no more than a uniform one does. Then whole models are measured: latency in turns with the original, and
accuracy on the test split right after that fit and after the same short distillation. Latencies are those of 224 pixels;
training and accuracy take smaller images, through the same layers. Results: results/per_slot.json, table:
docs/measurements/per_slot.md.
"""
from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

import timm
import torch
from harness import DOCS, RESULTS, SCRATCH, TimeSlice, Training, accuracy, fashion_mnist, in_memory, resumed, write_results
from torch import nn
from torch.utils.data import DataLoader

from syno_nni import model_zoo
from syno_nni.measure.latency import measure_pair
from syno_nni.operator import Operator, classics
from syno_nni.search_spaces.retrofit.distill import distill
from syno_nni.search_spaces.retrofit.knapsack import KEEP, Assignment, one_for_all, options_from, solve
from syno_nni.search_spaces.retrofit.measure_slots import slot_errors, slot_latencies
from syno_nni.search_spaces.retrofit.retrofit import retrofit
from syno_nni.search_spaces.retrofit.warm_start import fit_kernels, recalibrate_batch_norm
from syno_nni.search_spaces.slots import Slot, find_slots, group_slots

PATH = RESULTS / 'per_slot.json'
LATENCY_SHAPE = (1, 3, 224, 224)


def operators() -> dict[str, Operator]:
    names = ('syno_resnet_07754', 'syno_resnet_07795')
    return {**{name: model_zoo.load(name).operator for name in names},
            'grouped convolution': Operator.parse(
                'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in/s^2, i:k_1, j:k_1] in[n, (o//(C_out/s^2))*(C_in/s^2) + c, '
                'unfold(h, i), unfold(w, j)] * w1[o//(C_out/s^2), o%(C_out/s^2), c, i, j]'),
            'low rank': classics.low_rank()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='resnet34')
    parser.add_argument('--width', type=int, default=32, help='channels of the first stage')
    parser.add_argument('--image', type=int, default=48, help='pixels of a side, for training and accuracy')
    parser.add_argument('--groups', type=int, default=8, help='the size g of the operators')
    parser.add_argument('--train', type=int, default=20_000)
    parser.add_argument('--epochs', type=int, default=2)
    parser.add_argument('--tune-steps', type=int, default=60)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--again', action='store_true', help='drop what is stored')
    parser.add_argument('--seconds', type=float, default=1e9, help='stop after this time')
    options = parser.parse_args()
    settings = {k: v for k, v in vars(options).items() if k not in ('seconds', 'again')}
    results = resumed(PATH, settings, again=options.again)
    print('all done' if run(options, results, TimeSlice(options.seconds)) else 'to be continued')
    return 0


def run(options: argparse.Namespace, results: dict[str, Any], slice_: TimeSlice) -> bool:
    data = fashion_mnist(options.train, 2_000, options.seed, options.image)
    torch.manual_seed(options.seed)
    model = timm.create_model(options.model, channels=tuple(options.width << n for n in range(4)), num_classes=10)
    name = '-'.join(str(getattr(options, k)) for k in ('model', 'width', 'image', 'train', 'epochs', 'seed'))
    if not Training(model, data.train, SCRATCH / f'per_slot-{name}.pt', epochs=options.epochs, seed=options.seed,
                    bfloat16=True).run(slice_):
        return False
    model.eval()
    test = in_memory(data.test)[:6]  # the first 3000
    order = torch.Generator().manual_seed(options.seed)
    batches = list(DataLoader(data.train, 128, shuffle=True, drop_last=True, generator=order))[:options.tune_steps]
    fit_on = [x[:64] for x, _ in batches[:2]]
    slots, _ = find_slots(model, LATENCY_SHAPE, kinds='conv3x3', coefficients={'g': options.groups})
    groups = group_slots(slots, 'shape')
    ops = operators()
    results.setdefault('accuracy', accuracy(model, test))
    tables = results.setdefault('groups', {})
    for group, members in groups.items():
        if group in tables:
            continue
        if slice_.over:
            return False
        one = {group: members}
        tables[group] = {'slots': len(members), 'latency_ms': slot_latencies(model, one, ops.values())[group],
                         'error': slot_errors(model, one, ops.values(), sweeps=2)[group]}
        print(group, tables[group], flush=True)
        write_results(PATH, 'python benchmarks/per_slot.py', results)
    choices = chosen(results, ops)
    rows = results.setdefault('rows', {})
    for name, choice in choices.items():
        if name in rows:
            continue
        if slice_.over:
            return False
        rows[name] = evaluate(model, choice, groups, ops, batches, fit_on, test, options)
        print(name, rows[name], flush=True)
        write_results(PATH, 'python benchmarks/per_slot.py', results)
    (DOCS / 'measurements' / 'per_slot.md').write_text(document(results), encoding='utf-8')
    return True


def chosen(results: dict[str, Any], ops: dict[str, Operator]) -> dict[str, Assignment]:
    """Every operator in all groups, and beside each the solver's fastest choice at no more loss than it has."""
    tables = results['groups']
    options = options_from({g: t['latency_ms'] for g, t in tables.items()}, {g: t['error'] for g, t in tables.items()})
    names = {op.id: name for name, op in ops.items()}
    choices: dict[str, Assignment] = {}
    for uniform in one_for_all(options):
        used = set(uniform.choices.values())
        if used == {KEEP}:
            continue
        name = names[next(iter(used - {KEEP}))]
        choices[f'{name} everywhere'] = uniform
        choices[f'per slot, no more loss than {name}'] = solve(options, max_loss=uniform.loss)
    return choices


def evaluate(model: nn.Module, choice: Assignment, groups: dict[str, list[Slot]], ops: dict[str, Operator], batches: list[Any],
             fit_on: list[Any], test: list[Any], options: argparse.Namespace) -> dict[str, Any]:
    from timm.utils.model import reparameterize_model
    row: dict[str, Any] = {'estimated_ms': choice.latency_ms, 'estimated_loss': choice.loss, 'choices': choice.choices}
    mapping = choice.mapping(groups, {op.id: op for op in ops.values()})
    if set(mapping.values()) == {KEEP}:
        return row | {'speedup': 1.0, 'speedup_low': 1.0, 'speedup_high': 1.0, 'noisy': False}
    torch.manual_seed(options.seed)
    large = retrofit(model, mapping, slots=[slot for group in groups.values() for slot in group])
    pair = measure_pair(reparameterize_model(large), model, torch.randn(LATENCY_SHAPE), seconds=4.0)
    row |= {'speedup': pair.speedup, 'speedup_low': pair.speedup_low, 'speedup_high': pair.speedup_high, 'noisy': pair.noisy}
    # The same layers on the smaller maps of the images that there are.
    small, _ = find_slots(model, (1, 3, options.image, options.image), kinds='conv3x3', coefficients={'g': options.groups},
                          min_map=1)
    result = retrofit(model, mapping, slots=small)
    fit_kernels(model, result, sweeps=2)
    recalibrate_batch_norm(result, fit_on)
    row['accuracy_before'] = accuracy(result, test)
    distill(model, result, batches, steps=options.tune_steps)
    return row | {'accuracy_after': accuracy(result, test)}


def document(results: dict[str, Any]) -> str:
    s, rows = results['settings'], results['rows']
    lines = ['# One operator for all, or a choice per slot', '',
             f'Written by `benchmarks/per_slot.py`: {s["model"]} of width {s["width"]}, trained on {s["train"]} images of',
             f'Fashion-MNIST at {s["image"]} px for {s["epochs"]} epochs ({results["accuracy"]:.1f} % of 3000 test images). '
             'Latency: 224 px,', 'eager, batch 1. One seed. Loss: squared relative error of the layers as linear maps after a '
             'fit to', 'their kernels, weighted by MACs. Speedup: whole model, in turns with the original. Accuracy: after '
             'that fit → after',
             f'{s["tune_steps"]} steps of distillation.', '',
             '| choice | slots, ms (sum of layers) | loss | speedup of the model | accuracy % |', '|---|---|---|---|---|']
    for name, r in rows.items():
        after = f'{r["accuracy_before"]:.1f} → {r["accuracy_after"]:.1f}' if 'accuracy_after' in r else 'the original'
        lines.append(f'| {name} | {r["estimated_ms"]:.3f} | {r["estimated_loss"]:.3f} | {r["speedup"]:.2f} '
                     f'({r["speedup_low"]:.2f}-{r["speedup_high"]:.2f}){" noisy" * r["noisy"]} | {after} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    sys.exit(main())
