"""What the benchmarks share: results that say where they come from, time slices, and small-image training."""
from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from syno_nni.atomic import write_whole
from syno_nni.data.datasets import Splits, load_data
from syno_nni.environment import environment
from syno_nni.run.config import DataConfig

RESULTS = Path(__file__).parent / 'results'
DOCS = Path(__file__).parent.parent / 'docs'
SCRATCH = Path(__file__).parent.parent / 'runs' / 'benchmarks'
"""Checkpoints of unfinished trainings; not part of the results."""


class TimeSlice:
    """A budget of seconds: benchmarks stop between two parts when it is used up, and go on in the next call."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.deadline


def read_results(path: Path) -> dict[str, Any]:
    """What an earlier call has stored, or nothing."""
    return json.loads(path.read_text()) if path.exists() else {}


def resumed(path: Path, settings: dict[str, Any], *, again: bool, **empty: Any) -> dict[str, Any]:
    """The results to go on from: those stored for ``settings``, or none and what is in ``empty``.

    Raises:
        SystemExit: those stored are of other settings, and ``again`` does not say that they may go.
    """
    results = read_results(path)
    if results.get('settings') == settings and not again:
        return results
    if results and not again:
        raise SystemExit(f'{path} holds results of other settings: {results.get("settings")}; --again replaces them')
    return {'settings': settings, **empty}


def write_results(path: Path, command: str, results: dict[str, Any]) -> None:
    """Store results with the command, host and versions, as a whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    data = {**results, 'command': command, 'environment': environment(), 'threads': torch.get_num_threads()}
    write_whole(path, json.dumps(data, indent=1) + '\n')


def fill_in(path: Path, name: str, table: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->`` in a document."""
    text = path.read_text(encoding='utf-8')
    start, end = f'<!-- {name} -->', f'<!-- /{name} -->'
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f'{path} lacks the marks {start} and {end}')
    path.write_text(f'{before}{start}\n{table.strip()}\n{end}{after}', encoding='utf-8')


# --- Fashion-MNIST -------------------------------------------------------------------------------------------------

def fashion_mnist(train: int, val: int, seed: int = 0, image: int = 32) -> Splits:
    """``train`` and ``val`` images of 3 x image x image (32 is padded, more is resized), and the 10000 of the test split."""
    return load_data(DataConfig(name='fashion-mnist', image_size=image, train_samples=train, val_samples=val, seed=seed))


def in_memory(dataset: Any, size: int = 500) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A split as batches made once."""
    return list(DataLoader(dataset, size))


@torch.no_grad()
def accuracy(model: nn.Module, batches: Any) -> float:
    """Percent of right answers over ``(input, label)`` batches."""
    model.eval()
    right = total = 0
    for x, y in batches:
        right += int((model(x).argmax(1) == y).sum())
        total += len(y)
    return 100 * right / total


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor,
               bfloat16: bool = False) -> float:
    """One step on smoothed cross entropy with clipped gradients; returns the loss."""
    with torch.autocast('cpu', torch.bfloat16, enabled=bfloat16):
        loss = functional.cross_entropy(model(x), y, label_smoothing=0.1)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    return float(loss.detach())


class Training:
    """SGD with a one-cycle schedule over ``epochs``, in a seeded order of batches, that can stop and go on.

    The state (weights, optimizer, position) is kept in ``path``; the same seed gives the same batches however often it
    stops. ``bfloat16`` computes by autocast, images channels last. ``shift``: crops move by up to so many pixels.
    """

    def __init__(self, model: nn.Module, data: Any, path: Path, *, epochs: int, seed: int, learning_rate: float = 0.1,
                 batch_size: int = 128, weight_decay: float = 5e-4, bfloat16: bool = False, shift: int = 0) -> None:
        self.model, self.data, self.path, self.bfloat16 = model, data, path, bfloat16
        self.layout = torch.channels_last if bfloat16 else torch.contiguous_format
        model.to(memory_format=self.layout)
        self.batch_size, self.seed, self.shift = batch_size, seed, shift
        self.per_epoch = len(data) // batch_size
        self.steps = epochs * self.per_epoch
        self.optimizer = torch.optim.SGD(model.parameters(), learning_rate, 0.9, weight_decay=weight_decay, nesterov=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, learning_rate, self.steps, pct_start=0.2)
        self.step, self.seconds = 0, 0.0
        if path.exists():
            state = torch.load(path, weights_only=True)
            model.load_state_dict(state['model'])
            self.optimizer.load_state_dict(state['optimizer'])
            self.schedule.load_state_dict(state['schedule'])
            self.step, self.seconds = state['step'], state['seconds']

    @property
    def finished(self) -> bool:
        return self.step >= self.steps

    def run(self, slice_: TimeSlice, epochs: float = math.inf) -> bool:
        """Train until the end, for ``epochs``, or until the slice is over; returns whether it has finished."""
        started = time.monotonic()
        until = min(self.steps, self.step + epochs * self.per_epoch)
        self.model.train()
        order: list[int] = []
        while self.step < until and not slice_.over:
            epoch, at = divmod(self.step, self.per_epoch)
            if at == 0 or not order:
                generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
                order = torch.randperm(len(self.data), generator=generator).tolist()
            chosen = self.data.__getitems__(order[at * self.batch_size:(at + 1) * self.batch_size])
            x, y = torch.stack([image for image, _ in chosen]), torch.stack([label for _, label in chosen])
            # Mirror images: half of the batch, the same half for every model.
            random = torch.Generator().manual_seed(self.step)
            flip = torch.rand(len(x), generator=random) < 0.5
            x = torch.where(flip[:, None, None, None], x.flip(3), x)
            if self.shift:
                x = shifted(x, self.shift, random)
            x = x.to(memory_format=self.layout)
            train_step(self.model, self.optimizer, x, y, self.bfloat16)
            self.schedule.step()
            self.step += 1
        self.seconds += time.monotonic() - started
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix('.part')
        torch.save({'model': self.model.state_dict(), 'optimizer': self.optimizer.state_dict(), 'step': self.step,
                    'schedule': self.schedule.state_dict(), 'seconds': self.seconds}, temporary)
        os.replace(temporary, self.path)
        return self.finished


def shifted(x: torch.Tensor, most: int, random: torch.Generator) -> torch.Tensor:
    """Images ``[n, c, h, w]``, each moved by up to ``most`` pixels either way; zeros come in."""
    n, _, height, width = x.shape
    padded = functional.pad(x, [most] * 4)
    top, left = torch.randint(0, 2 * most + 1, (2, n), generator=random)
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    return padded[torch.arange(n)[:, None, None, None], torch.arange(x.shape[1])[None, :, None, None], rows, columns]


def small_resnet(blocks: tuple[int, ...], width: int) -> nn.Module:
    """timm's ResNet for small images: a 3x3 stem of stride 1 with no pooling behind it, ``width`` channels to begin with.

    ``width=64`` and blocks (2, 2, 2, 2) are the channels and blocks of ResNet-18.
    """
    from timm.models.resnet import BasicBlock, ResNet
    model = ResNet(BasicBlock, blocks, num_classes=10, channels=tuple(width * 2 ** i for i in range(4)))
    model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model
