"""A short training of a retrofitted model towards the model it came from.

Three losses are added, each where its weight is above 0:

=========  ===========================================================================================================
labels     cross entropy against the labels (batches of ``(input, label)``)
logits     mean squared error between the outputs of both models, as in "Do Deep Nets Really Need to be Deep?" (Ba and
           Caruana, 2014): unlike a temperature it needs no tuning
layers     mean over the slots of ``|student - teacher|^2 / |teacher|^2``, both on their own activations ("FitNets",
           Romero et al., 2015, without its extra layer: a slot keeps the shape of the layer it replaces)
=========  ===========================================================================================================
"""
from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from syno_nni.errors import SlotError
from syno_nni.modes import evaluating, training

from .retrofit import filled_slots


@dataclass(frozen=True)
class Losses:
    """Weights of the three losses; 0 leaves one out."""
    labels: float = 0.5
    logits: float = 0.5
    layers: float = 0.0

    def __post_init__(self) -> None:
        if min(self.labels, self.logits, self.layers) < 0 or not self.labels + self.logits + self.layers > 0:
            raise SlotError(f'weights of losses must be at least 0, one of them more, got labels {self.labels}, logits '
                            f'{self.logits}, layers {self.layers}')


def distill(original: nn.Module, result: nn.Module, batches: Iterable[Any], *, steps: int,
            losses: Losses | None = None, learning_rate: float = 0.02, momentum: float = 0.9,
            weight_decay: float = 5e-4, label_smoothing: float = 0.1, clip_gradient: float = 5.0) -> list[float]:
    """Train ``result`` in place for ``steps`` batches by SGD with a cosine schedule; ``original`` stays as it is.

    Args:
        original: the teacher; run in evaluation mode.
        result: what :func:`~syno_nni.search_spaces.retrofit.retrofit.retrofit` made of it, warm-started or not.
        batches: ``(input, label)`` pairs, or inputs alone where the labels' loss has weight 0; repeated as needed.
        steps: optimizer steps.
        losses: what to train on (default: half labels, half logits).
        learning_rate: at the start.

    Returns:
        The loss at every step.

    Raises:
        SlotError: there is no batch, a batch has no labels but their loss is wanted, or ``result`` has no filled slot
            but the layers' loss is wanted.
    """
    losses = losses or Losses()
    names = list(filled_slots(result)) if losses.layers else []
    if losses.layers and not names:
        raise SlotError(f'{type(result).__name__} has no filled slot to compare layers of: retrofit it first')
    optimizer = torch.optim.SGD(result.parameters(), learning_rate, momentum, weight_decay=weight_decay, nesterov=momentum > 0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history = []
    with (evaluating(original), training(result), _outputs_of(original, names) as wanted,
          _outputs_of(result, names) as got):
        for batch in itertools.islice(_forever(batches), steps):
            x, labels = batch if isinstance(batch, (tuple, list)) else (batch, None)
            output = result(x)
            target: Any = None
            if losses.logits or names:
                with torch.no_grad():
                    target = original(x)
            loss = x.new_zeros(())
            if losses.labels:
                if labels is None:
                    raise SlotError('these batches have no labels: pass (input, label) pairs or losses.labels=0')
                loss = loss + losses.labels * functional.cross_entropy(output, labels,
                                                                       label_smoothing=label_smoothing)
            if losses.logits:
                loss = loss + losses.logits * functional.mse_loss(output, target)
            if names:
                errors = [relative_error(got[name], wanted[name]) for name in names]
                loss = loss + losses.layers * torch.stack(errors).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(result.parameters(), clip_gradient)
            optimizer.step()
            schedule.step()
            history.append(float(loss.detach()))
    return history


def relative_error(got: Tensor, wanted: Tensor) -> Tensor:
    """``|got - wanted|^2 / |wanted|^2``, a scalar."""
    return (got - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)


@contextmanager
def _outputs_of(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """What the named modules last returned, while the context lasts."""
    seen: dict[str, Tensor] = {}
    handles = [model.get_submodule(name).register_forward_hook(
        lambda module, inputs, output, name=name: seen.__setitem__(name, output)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _forever(batches: Iterable[Any]) -> Iterator[Any]:
    """``batches`` over and over (a loader shuffles anew each time)."""
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise SlotError('there is no batch to train on')
