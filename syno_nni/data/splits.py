"""The splits of a dataset."""
from __future__ import annotations

from dataclasses import dataclass

from torch.utils.data import Dataset


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
