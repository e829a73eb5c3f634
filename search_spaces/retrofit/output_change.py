"""What an error in one slot costs at the output of the model: the score of Puzzle (Bercovich et al., ICML 2025).

One slot is replaced, the rest is the original's; the change is the mean Kullback-Leibler divergence, in nats per image, from
the original's class probabilities. Scale and offset of every channel behind the slot are fitted first: normalisation and a
short training would take care of these, so they are no loss.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from syno_nni.errors import SlotError
from syno_nni.modes import evaluating
from syno_nni.search_spaces.filled_slot import FilledSlot
from syno_nni.search_spaces.layout import Layout


class OutputChange:
    """Scores operators in single slots of a model.

    Args:
        model: with its trained weights; left as it is.
        images: what it is run on, [images, channels, height, width]; a hundred or two are enough.

    Raises:
        SlotError: the model does not return one tensor of scores per image.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.model, self.images = model, images
        with torch.inference_mode(), evaluating(model):
            scores = model(images)
        if not isinstance(scores, Tensor) or scores.ndim != 2:
            raise SlotError(f'the change of the output is measured on class scores [images, classes], got '
                            f'{list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__}')
        self._wanted = functional.log_softmax(scores.float(), 1)

    def of(self, name: str, filled: FilledSlot) -> float:
        """The divergence with ``filled`` in the place of the layer of this name, at least 0."""
        axis = 1 if Layout.named(filled.layout).channels_first else -1

        def replaced(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            return _matched(filled(inputs[0]), output, axis)

        handle = self.model.get_submodule(name).register_forward_hook(replaced)
        try:
            with torch.inference_mode(), evaluating(self.model, filled):
                got = functional.log_softmax(self.model(self.images).float(), 1)
        finally:
            handle.remove()
        change = functional.kl_div(got, self._wanted, log_target=True, reduction='batchmean')
        return max(float(change), 0.0)


def _matched(got: Tensor, wanted: Tensor, axis: int) -> Tensor:
    """``got`` with scale and offset of every channel such that it is nearest to ``wanted``."""
    dims = [d for d in range(got.ndim) if d != axis % got.ndim]
    mean, target = got.mean(dims, keepdim=True), wanted.mean(dims, keepdim=True)
    centred = got - mean
    scale = (centred * (wanted - target)).sum(dims, keepdim=True) / centred.square().sum(dims, keepdim=True).clamp_min(1e-12)
    return centred * scale + target
