"""What a warm start is worth: accuracy right after retrofitting and after a short fine-tune, against fresh weights.

    python benchmarks/warm_start.py                         # about 15 minutes on 2 cores
    python benchmarks/warm_start.py --train 2000 --epochs 1 --tune-steps 20

A ResNet-18 of half the width, with a 3x3 stem, is trained on Fashion-MNIST at 32 px. Each operator then fills all its
3x3 slots four times: with fresh weights, with weights fitted to the kernels, with weights fitted to activations, and
with the latter followed by fine-tuning on the outputs of the original (distillation). All fine-tunes take the same
steps on the same batches. Accuracies are on the validation split. Results go to results/warm_start.json.
"""
from __future__ import annotations

import argparse
import fnmatch
import json
import platform
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from syno_nni import classics
from syno_nni.config import DataConfig
from syno_nni.data import load_data
from syno_nni.operator import Operator
from syno_nni.search_spaces.retrofit import retrofit
from syno_nni.search_spaces.warm_start import fit_kernels, recalibrate_batch_norm, warm_start

RESULTS = Path(__file__).parent / 'results' / 'warm_start.json'
OPERATORS = {
    # One weight: the fit to the kernel is the optimum.
    'grouped convolution': classics.grouped_conv2d(),
    'column of a convolution': Operator.parse(
        'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1] in[n, c, unfold(h, i), w] * w1[o, c, i]'),
    # Two weights: they take turns.
    'depthwise separable': classics.depthwise_separable(),
    'low rank': classics.low_rank(),
    'operator 2 (published)': classics.operator_2(),
}


def baseline(width: int) -> nn.Module:
    """timm's ResNet-18 for small images: a 3x3 stem of stride 1 and no pooling behind it, ``width`` channels."""
    channels = tuple(width * 2 ** i for i in range(4))
    model = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=10, channels=channels)
    model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def train(model: nn.Module, batches: list[Any], steps: int, lr: float, teacher: nn.Module | None = None) -> None:
    """SGD over ``steps`` batches, cosine schedule; with a teacher, half of the loss is the distance to its logits."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        x, y = batches[step % len(batches)]
        logits = model(x)
        loss = functional.cross_entropy(logits, y, label_smoothing=0.1)
        if teacher is not None:
            with torch.no_grad():
                target = teacher.eval()(x)
            loss = 0.5 * loss + 0.5 * functional.mse_loss(logits, target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader) -> float:
    """In percent."""
    model.eval()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in loader)
    return 100 * right / len(loader.dataset)


def run(options: argparse.Namespace) -> dict[str, Any]:
    data = load_data(DataConfig(name='fashion-mnist', train_samples=options.train, val_samples=options.val,
                                batch_size=128))
    generator = torch.Generator().manual_seed(options.seed)
    batches = list(DataLoader(data.train, 128, shuffle=True, drop_last=True, generator=generator))
    validation = DataLoader(data.val, 500)
    torch.manual_seed(options.seed)
    original = baseline(options.width)
    train(original, batches, options.epochs * len(batches), 0.05)
    result: dict[str, Any] = {'baseline_accuracy': accuracy(original, validation), 'operators': {}}
    print(f'baseline {result["baseline_accuracy"]:.2f} %', flush=True)
    fit_on = [x[:64] for x, _ in batches[:2]]
    for name in fnmatch.filter(OPERATORS, options.operators):
        op = OPERATORS[name]
        row: dict[str, Any] = {'formula': str(op)}

        def fresh(op: Operator = op) -> nn.Module:
            torch.manual_seed(options.seed)
            return retrofit(original, op, (1, 3, 32, 32))

        models = {'fresh': fresh(), 'kernels': fresh(), 'activations': fresh()}
        row['params_ratio'] = (sum(p.numel() for p in models['fresh'].parameters())
                               / sum(p.numel() for p in original.parameters()))
        recalibrate_batch_norm(models['fresh'], fit_on)
        started = time.monotonic()
        errors = fit_kernels(original, models['kernels'])
        row['kernel_error'] = sum(errors.values()) / len(errors)
        row['kernel_seconds'] = round(time.monotonic() - started, 1)
        recalibrate_batch_norm(models['kernels'], fit_on)
        started = time.monotonic()
        errors = warm_start(original, models['activations'], fit_on)
        row['activation_error'] = sum(errors.values()) / len(errors)
        row['activation_seconds'] = round(time.monotonic() - started, 1)
        models['distilled'] = fresh()
        models['distilled'].load_state_dict(models['activations'].state_dict())
        for start, model in models.items():
            teacher = original if start == 'distilled' else None
            before = accuracy(model, validation)
            train(model, batches, options.tune_steps, 0.02, teacher)
            row[start] = {'before': before, 'after': accuracy(model, validation)}
        result['operators'][name] = row
        print(name, json.dumps(row), flush=True)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--width', type=int, default=32, help='channels of the first stage')
    parser.add_argument('--train', type=int, default=6_000, help='training images')
    parser.add_argument('--val', type=int, default=1_000, help='validation images')
    parser.add_argument('--epochs', type=int, default=3, help='of the baseline')
    parser.add_argument('--tune-steps', type=int, default=46, help='batches of 128 per fine-tune')
    parser.add_argument('--operators', default='*', help='name pattern')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=RESULTS)
    options = parser.parse_args()
    started = time.monotonic()
    result = run(options)
    settings = {k: v for k, v in vars(options).items() if k != 'out'}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps({
        'command': 'python benchmarks/warm_start.py', **settings, 'python': platform.python_version(),
        'torch': torch.__version__, 'timm': timm.__version__, 'threads': torch.get_num_threads(),
        'minutes': round((time.monotonic() - started) / 60, 1), **result}, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    sys.exit(main())
