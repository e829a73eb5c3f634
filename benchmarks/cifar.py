"""CIFAR-10 for the benchmarks: a folder of images decoded once, and augmented batches."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from harness import SCRATCH

from syno_nni.data import DataConfig, ImageArray
from syno_nni.data.datasets import _carve
from syno_nni.data.image_folder import ClassFolder, open_image

VALIDATION = 5000


def arrays(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The images (bytes, ``[n, 3, 32, 32]``) and labels of ``train`` and ``test`` below ``folder``, kept in one file."""
    cache = SCRATCH / 'cifar10.npz'
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        config = DataConfig(name='imagefolder', path=str(folder))
        found = {}
        for part in ('train', 'test'):
            files = ClassFolder(folder / part, config)
            found[f'{part}_images'] = np.stack([np.asarray(open_image(path, 'RGB')).transpose(2, 0, 1)
                                                for path, _ in files.samples])
            found[f'{part}_labels'] = np.array(files.targets)
        np.savez(cache, **found)
    with np.load(cache) as stored:
        return {part: (stored[f'{part}_images'], stored[f'{part}_labels']) for part in ('train', 'test')}


def splits(folder: Path, image: int = 32) -> tuple[ImageArray, ImageArray, ImageArray]:
    """Training (45,000), validation (5,000) and test images (10,000), normalized by the training split."""
    data = arrays(folder)
    images, labels = data['train']
    rest, held_out = _carve(labels, VALIDATION, 0)
    sample = images[rest].astype(np.float32) / 255
    statistics = tuple(torch.from_numpy(f(sample, axis=(0, 2, 3))).view(-1, 1, 1) for f in (np.mean, np.std))
    config = DataConfig(name='cifar10', path=str(folder), image_size=image)
    return (ImageArray(images[rest], labels[rest], config, statistics),
            ImageArray(images[held_out], labels[held_out], config, statistics),
            ImageArray(*data['test'], config, statistics))
