"""The originals of the evidence: networks trained on CIFAR-10 to their plateau, with their learning curves.

    python benchmarks/originals.py --data CIFAR10_FOLDER             # one folder per class in train/ and test/
    python benchmarks/originals.py --data ... --models resnet18 --epochs 30 --seconds 600    # a slice; repeat to go on

SGD, one cycle to 0.1 over all epochs, batches of 128, weight decay 5e-4, label smoothing 0.1, crops shifted by up to an
eighth and mirror images, bfloat16 autocast; accuracies in float32. 5,000 of the 50,000 training images are for
validation (the curve); the test split is used once, at the end. Weights stay in runs/benchmarks. Results:
results/originals.json.
"""
from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cifar
import timm
import torch
from harness import RESULTS, SCRATCH, TimeSlice, Training, accuracy, in_memory, read_results, small_resnet, write_results
from torch import nn

PATH = RESULTS / 'originals.json'


def build(name: str) -> nn.Module:
    """``resnet18`` with a stem for small images (3x3, stride 1, no pooling); any other name is timm's."""
    return small_resnet((2, 2, 2, 2), 64) if name == 'resnet18' else timm.create_model(name, num_classes=10)


def weights_of(name: str, image: int) -> Path:
    """Where the trained weights are."""
    return SCRATCH / f'original-{name}-{image}.pt'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, required=True, help='folder with train/ and test/')
    parser.add_argument('--models', default='resnet18', help='names, separated by commas')
    parser.add_argument('--image', type=int, default=32, help='pixels of a side')
    parser.add_argument('--epochs', type=int, default=30)
    parser.add_argument('--seconds', type=float, default=1e9, help='stop after this time')
    options = parser.parse_args()
    train, validation, test = cifar.splits(options.data, options.image)
    slice_ = TimeSlice(options.seconds)
    for name in options.models.split(','):
        torch.manual_seed(0)
        model = build(name)
        training = Training(model, train, weights_of(name, options.image), epochs=options.epochs, seed=0, bfloat16=True,
                            shift=options.image // 8)
        key = f'{name}-{options.image}'
        while not training.finished:
            if slice_.over:
                print(f'{key}: step {training.step} of {training.steps}; to be continued')
                return 0
            training.run(slice_, epochs=1)
            results = read_results(PATH)
            row = results.setdefault(key, {'curve': []})
            row['curve'].append({'epoch': round(training.step / training.per_epoch, 2),
                                 'minutes': round(training.seconds / 60, 1),
                                 'validation': accuracy(model, in_memory(validation))})
            row |= {'epochs': options.epochs, 'params': sum(p.numel() for p in model.parameters())}
            if training.finished:
                row['test'] = accuracy(model, in_memory(test))
            write_results(PATH, 'python benchmarks/originals.py --data CIFAR10_FOLDER', results)
            print(time.strftime('%H:%M:%S'), key, row['curve'][-1], row.get('test', ''), flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
