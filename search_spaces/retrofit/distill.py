"""A short training of a retrofitted model towards the model it came from.

Three losses are added, each where its weight is above 0:

=========  ===========================================================================================================
labels     cross entropy against the labels (batches of ``(input, label)``)
logits     mean squared error between the outputs of both models, as in "Do Deep Nets Really Need to be Deep?" (Ba and
           Caruana, 2014): unlike a temperature it needs no tuning
layers     mean over the slots and their calls of ``|student - teacher|^2 / |teacher|^2``, both on their own activations
           ("FitNets", Romero et al., 2015, without its extra layer: a slot keeps the shape of the layer it replaces)
=========  ===========================================================================================================
"""
from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from tqdm import tqdm

from syno_nni.errors import SlotError
from syno_nni.modes import evaluating, fine_tuning, with_gradients
from syno_nni.search_spaces.trace import eagerly, unwrapped

from .batches import call, labels_of
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


@with_gradients()
def distill(original: nn.Module, result: nn.Module, batches: Iterable[Any], *, steps: int,
            losses: Losses | None = None, learning_rate: float = 0.02, momentum: float = 0.9,
            weight_decay: float = 5e-4, label_smoothing: float = 0.1, clip_gradient: float = 5.0, warm_up: float = 0.0,
            progress: str = '') -> list[float]:
    """Train ``result`` in place for ``steps`` batches by SGD with a cosine schedule; ``original`` stays as it is.

    Args:
        original: the teacher; run in evaluation mode.
        result: what :func:`~syno_nni.search_spaces.retrofit.retrofit.retrofit` made of it, warm-started or not. Given in
            training mode, parts of it in evaluation mode are frozen and stay so; normalisations whose parameters are all
            frozen keep their statistics in any case.
        batches: ``(input, label)`` pairs, or inputs alone where the labels' loss has weight 0 (:mod:`.batches`); repeated
            as needed.
        steps: optimizer steps.
        losses: what to train on (default: half labels, half logits).
        learning_rate: at the start, or at its peak.
        warm_up: part of the steps in which the learning rate rises to its peak (one cycle; Smith and Topin, 2018).
        progress: title of a progress bar; '' for none.

    Returns:
        The loss at every step.

    Raises:
        SlotError: there is no batch, a batch has no labels but their loss is wanted, the models return nothing that the
            wanted losses are of, or ``result`` has no filled slot but the layers' loss is wanted.
    """
    losses = losses or Losses()
    teacher, student = unwrapped(original), unwrapped(result)
    names = list(filled_slots(student)) if losses.layers else []
    if losses.layers and not names:
        raise SlotError(f'{type(student).__name__} has no filled slot to compare layers of: retrofit it first')
    optimizer = torch.optim.SGD(result.parameters(), learning_rate, momentum, weight_decay=weight_decay, nesterov=momentum > 0)
    schedule: LRScheduler = CosineAnnealingLR(optimizer, steps)
    if warm_up and steps > 2:
        schedule = OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=warm_up)
    history = []
    with (evaluating(original), fine_tuning(student), _outputs_of(teacher, names) as wanted,
          _outputs_of(student, names) as got):
        for batch in tqdm(itertools.islice(_forever(batches), steps), progress, steps, disable=not progress or None,
                          leave=False):
            wanted.clear()
            got.clear()
            terms = []
            with _with_hooks(result, names):
                output = call(result, batch)
            target: Any = None
            if losses.logits or names:
                with torch.no_grad(), _with_hooks(original, names):
                    target = call(original, batch)
            if losses.labels:
                labels = labels_of(batch)
                if labels is None:
                    raise SlotError('these batches have no labels: pass (input, label) pairs or losses.labels=0')
                terms.append(losses.labels * functional.cross_entropy(_logits(output), labels,
                                                                      label_smoothing=label_smoothing))
            if losses.logits:
                errors = [functional.mse_loss(a, b) for a, b in _pairs(output, target)]
                terms.append(losses.logits * torch.stack(errors).mean())
            if names:
                _must_be_trained(student, got)
                errors = [relative_error(a, b) for name in names
                          for a, b in zip(got.get(name, ()), wanted.get(name, ()), strict=False)]
                terms.append(losses.layers * torch.stack(errors).mean())
            loss = torch.stack(terms).sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(result.parameters(), clip_gradient)
            optimizer.step()
            schedule.step()
            history.append(float(loss.detach()))
    return history


def _must_be_trained(model: nn.Module, outputs: Mapping[str, list[Tensor]]) -> None:
    """Activation checkpoints of the old kind run a block without gradients first, and hooks see that run only.

    Raises:
        SlotError: the loss of a layer would have no gradient.
    """
    for name, values in outputs.items():
        if any(p.requires_grad for p in model.get_submodule(name).parameters()) and not all(v.requires_grad for v in values):
            raise SlotError(f'no gradient reaches the output of {name}, so its loss would train nothing: checkpoint '
                            'activations with use_reentrant=False, or pass losses.layers=0')


def _logits(output: Any) -> Tensor:
    """The class scores in what a model returns.

    Raises:
        SlotError: it is not told which tensor they are.
    """
    if isinstance(output, Tensor):
        return output
    names = ('logits', 'out')
    for name in names:
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    raise SlotError(f'the model returns a {type(output).__name__} without {" or ".join(names)}, so what the labels are of '
                    'is not known: pass losses.labels=0, or a module that returns the logits alone')


def _pairs(got: Any, wanted: Any) -> list[tuple[Tensor, Tensor]]:
    """The floating-point tensors that both models return, side by side.

    A model may return more in training mode (auxiliary classifiers, behind the logits), or under further names.

    Raises:
        SlotError: they have none in common, or of different shapes.
    """
    pairs = [(a, b) for a, b in _side_by_side(got, wanted) if a.is_floating_point()]
    for a, b in pairs:
        if a.shape != b.shape:
            raise SlotError(f'the models return tensors of different shapes, {list(a.shape)} and {list(b.shape)}')
    if not pairs:
        raise SlotError(f'the models return {type(got).__name__} and {type(wanted).__name__}, with no tensors to compare: '
                        'pass losses.logits=0')
    return pairs


def _side_by_side(got: Any, wanted: Any) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(got, Tensor) and isinstance(wanted, Tensor):
        yield got, wanted
    elif isinstance(got, Mapping) and isinstance(wanted, Mapping):
        for key in got:
            if key in wanted:
                yield from _side_by_side(got[key], wanted[key])
    elif isinstance(got, (tuple, list)) and isinstance(wanted, (tuple, list)):
        for a, b in zip(got, wanted, strict=False):
            yield from _side_by_side(a, b)
    elif isinstance(got, (tuple, list)) and got and isinstance(wanted, Tensor):
        yield from _side_by_side(got[0], wanted)


@contextmanager
def _with_hooks(model: nn.Module, names: list[str]) -> Iterator[None]:
    """Where hooks are to see layers, compiled parts run as they were written: their code knows no later hooks."""
    if names:
        with eagerly(model):
            yield
    else:
        yield


def relative_error(got: Tensor, wanted: Tensor) -> Tensor:
    """``|got - wanted|^2 / |wanted|^2``, a scalar."""
    return (got - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)


@contextmanager
def _outputs_of(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, list[Tensor]]]:
    """What the named modules return, call by call, while the context lasts."""
    seen: dict[str, list[Tensor]] = {}
    handles = [model.get_submodule(name).register_forward_hook(
        lambda module, inputs, output, name=name: seen.setdefault(name, []).append(output)) for name in names]
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
