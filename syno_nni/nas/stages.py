"""Evaluation in stages, cheap ones first: a candidate that fails one is not worth the next.

======= ======================================================================================================
size    MACs and parameters against the limits of the objective; before a trial is started, where NNI allows
latency the measured latency against the limits of the objective
proxy   a score of the untrained model, and a short training, compared with the original model's
train   the full training, stopped when it falls behind the original model's learning curve
======= ======================================================================================================
"""
from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from syno_nni.errors import SynoError
from syno_nni.modes import training
from syno_nni.run.candidate import Failure, Miss
from syno_nni.run.records import OutcomeKind

from .time_limit import TrialTimeout

_LEAST = 0.01

STAGES = ('size', 'latency', 'proxy', 'train')


class Rejected(Exception):
    """A candidate is not worth any further work: no failure, but a result."""

    def __init__(self, reason: str) -> None:
        # A Miss says by how far, too.
        super().__init__(reason)
        self.reason = reason


class Diverged(SynoError):
    """A model gives outputs that are no finite numbers, of which accuracy and loss say nothing."""


_KINDS = {TrialTimeout: OutcomeKind.TIMEOUT, Diverged: OutcomeKind.INVALID_METRIC}
# Whatever else ends an evaluation is an exception.


@dataclass(frozen=True)
class Reference:
    """What the original model reached: validation accuracy (0 to 1) of the short training, if there was one, and after
    each epoch of the full one."""
    proxy_accuracy: float | None = None
    curve: Sequence[float] = ()
    accuracy: float | None = None
    """In the end."""

    def check_proxy(self, accuracy: float, margin: float | None) -> None:
        """Raise :class:`Rejected` when the short training fell behind by more than ``margin`` (None: never)."""
        if margin is not None and self.proxy_accuracy is not None and accuracy < self.proxy_accuracy - margin:
            raise Rejected(Miss(f'accuracy {accuracy:.4f} after the short training, the original model has '
                                f'{self.proxy_accuracy:.4f} (evaluation.stopBelow {margin:g})',
                                _shortfall(accuracy, self.proxy_accuracy - margin)))

    def behind(self, epoch: int, accuracy: float, margin: float | None) -> Miss | None:
        """Why to stop after ``epoch`` (counted from 0), or None."""
        if margin is None or epoch >= len(self.curve) or accuracy >= self.curve[epoch] - margin:
            return None
        return Miss(f'accuracy {accuracy:.4f} after epoch {epoch + 1}, the original model had {self.curve[epoch]:.4f} '
                    f'(evaluation.stopBelow {margin:g})', _shortfall(accuracy, self.curve[epoch] - margin))


def _shortfall(accuracy: float, wanted: float) -> float:
    """How far an accuracy is below the wanted one, in doublings; one of 0 is as bad as one of 1 %."""
    return math.log2(max(wanted, _LEAST) / max(accuracy, _LEAST))


class StageLog:
    """The metrics known so far, with the seconds that each stage took, and the stage that is going on."""

    def __init__(self) -> None:
        self.metrics: dict[str, Any] = {}
        self.stage = STAGES[0]

    @contextmanager
    def running(self, stage: str) -> Iterator[dict[str, Any]]:
        """Time a stage; yields the metrics, to be added to."""
        self.stage, started = stage, time.monotonic()
        try:
            yield self.metrics
        finally:
            self.metrics[f'{stage}_seconds'] = round(time.monotonic() - started, 2)

    def failure(self, error: Exception) -> Failure:
        """What to report when ``error`` ends the evaluation."""
        if isinstance(error, Rejected):
            return Failure.rejection(error.reason, self.stage, self.metrics)
        kind = next((kind for known, kind in _KINDS.items() if isinstance(error, known)), OutcomeKind.EXCEPTION)
        return Failure.of(kind, f'{type(error).__name__}: {error}', self.metrics)


def gradient_norm(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """A score without training: the norm of the loss's gradient at one batch, over all parameters (Abdelfattah et al.,
    "Zero-cost proxies for lightweight NAS", ICLR 2021). Leaves no gradients behind.

    Raises:
        Diverged: it is no finite number.
    """
    with training(model), torch.enable_grad():
        loss = nn.functional.cross_entropy(model(x), y)
        gradients = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    norm = float(torch.stack([g.norm() for g in gradients if g is not None]).norm())
    if not math.isfinite(norm):
        raise Diverged(f'the gradient of the untrained model has the norm {norm} (loss {loss.item()}): the model gives outputs '
                       'that are no finite numbers')
    return norm
