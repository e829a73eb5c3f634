"""The splits of a dataset."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Subset


@dataclass(frozen=True)
class Splits:
    """The three splits of a dataset. ``source`` says in words where the images come from."""
    train: Dataset
    val: Dataset
    test: Dataset
    num_classes: int
    channels: int
    image_size: int
    source: str

    def summary(self) -> str:
        """One line: sizes, classes and source."""
        sizes = ' / '.join(str(len(split)) for split in (self.train, self.val, self.test))  # type: ignore[arg-type]
        return (f'{self.source}: {sizes} train / val / test images, {self.num_classes} classes, '
                f'{self.channels}x{self.image_size}x{self.image_size}')


def halved(splits: Splits, seed: int) -> Splits:
    """The splits with half of the test images for validation, and the others to test with."""
    order = np.random.RandomState(seed).permutation(len(splits.test)).tolist()  # type: ignore[arg-type]
    half = len(order) // 2
    return replace(splits, val=Subset(splits.test, order[:half]), test=Subset(splits.test, order[half:]))


def first(dataset: Any, wanted: int | None, seed: int) -> Dataset:
    """So many items drawn from a dataset; all where there are no more."""
    if wanted is None or wanted >= len(dataset):
        return dataset
    return Subset(dataset, np.random.RandomState(seed).permutation(len(dataset))[:wanted].tolist())
