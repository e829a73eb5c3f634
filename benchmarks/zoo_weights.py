"""Trains the zoo's small model with weights, beside its original: a retrofit that ``pretrained=True`` loads.

    python benchmarks/zoo_weights.py                  # about seven minutes of one core
    python benchmarks/zoo_weights.py --seconds 150    # a slice of it; repeat until it says that all is done

Fashion-MNIST at 32 px, both models from scratch by the recipe of benchmarks/accuracy.py in float32. Writes the weights of
the first seed and the accuracies of all into model_zoo/models/.
"""
from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import models
import timm
import torch
from harness import SCRATCH, TimeSlice, Training, accuracy, fashion_mnist, in_memory
from safetensors.torch import save_file

from syno_nni import model_zoo

NAME = 'resnet18_cifar_w16_syno_07754'
TRAIN, EPOCHS, SEEDS = 10_000, 3, 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=1e9, help='stop after this time')
    slice_ = TimeSlice(parser.parse_args().seconds)
    entry = model_zoo.load_retrofit(NAME)
    data = fashion_mnist(TRAIN, 2_000)
    test = in_memory(data.test)
    found: dict[str, list[float]] = {'retrofit': [], 'original': []}
    for seed in range(SEEDS):
        for which in found:
            torch.manual_seed(seed)
            model = timm.create_model(NAME) if which == 'retrofit' else timm.create_model(entry.base, **entry.base_args)
            path = SCRATCH / f'{NAME}-{which}-{TRAIN}-{EPOCHS}-{seed}.pt'
            if not Training(model, data.train, path, epochs=EPOCHS, seed=seed).run(slice_):
                print(f'{which}, seed {seed}: to be continued')
                return 0
            found[which].append(accuracy(model, test) / 100)
            print(f'{which}, seed {seed}: {found[which][-1]:.4f}', flush=True)
            if which == 'retrofit' and not seed:
                save_file(model.state_dict(), Path(__file__).parents[1] / 'model_zoo' / 'models' / entry.weights)
    models.replace_claims(NAME, 'accuracy', [{
        'dataset': 'fashion-mnist', 'split': 'test', 'seeds': list(range(SEEDS)), 'accuracy': found['retrofit'],
        'baseline_accuracy': found['original'],
        'recipe': f'Both from scratch, {TRAIN} images at 32 px, {EPOCHS} epochs. The weights are those of seed 0.'}])
    print('all done')
    return 0


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    sys.exit(main())
