"""Varied views of images for distillation: shifted crops and mirror images.

The student sees what the teacher sees, so any view is a good example of the function to be learned, also where a mirrored
image would have another label (Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022).
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_SHIFT = 8
"""Images are shifted by at most this part of their side."""


class Views:
    """Batches of images, each image shifted by some pixels and mirrored half of the time.

    Args:
        batches: ``(images, labels)``, images [images, channels, height, width]; a loader that shuffles does so anew each time.
        seed: of the views; those of the second pass differ from those of the first.
        mirror: whether images are mirrored.
    """

    def __init__(self, batches: Iterable[Any], *, seed: int = 0, mirror: bool = True) -> None:
        self.batches, self.mirror = batches, mirror
        self._generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.batches:
            yield self.of(images), labels

    def of(self, images: Tensor) -> Tensor:
        """A view of every image."""
        n, _, height, width = images.shape
        if self.mirror:
            flipped = torch.rand(n, 1, 1, 1, generator=self._generator) < 0.5
            images = torch.where(flipped, images.flip(3), images)
        pads = height // _SHIFT, width // _SHIFT
        if min(pads) < 1:
            return images
        padded = functional.pad(images, (pads[1], pads[1], pads[0], pads[0]), mode='replicate')
        tops, lefts = (torch.randint(2 * pad + 1, (n,), generator=self._generator).tolist() for pad in pads)
        return torch.stack([image[:, top:top + height, left:left + width]
                            for image, top, left in zip(padded, tops, lefts, strict=True)])
