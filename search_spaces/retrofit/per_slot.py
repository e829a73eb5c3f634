"""Per-slot choice in one call: measure, estimate what is lost, solve for a budget."""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from syno_nni.errors import SlotError
from syno_nni.operator import Operator
from syno_nni.search_spaces.coefficients import unfit
from syno_nni.search_spaces.slots import Slot, group_slots

from .knapsack import Assignment, Option, one_for_all, options_from, solve
from .measure_slots import Timer, slot_errors, slot_latencies, slot_losses


@dataclass(frozen=True)
class Budget:
    """What a choice must keep: one of the three.

    ``latency_ms`` and ``latency_ratio`` (of the original) are of the whole model, ``loss`` is in the unit of the
    estimate: points of the score, or (without a score) the relative error of the slots' outputs, weighted by MACs.
    """
    latency_ms: float | None = None
    latency_ratio: float | None = None
    loss: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """``8ms``, ``60%`` (of the original latency) or ``loss=1.5``.

        Raises:
            SlotError: it is none of these.
        """
        match = re.fullmatch(r'\s*(loss\s*=\s*)?(\d+(?:\.\d*)?|\.\d+)\s*(ms|%)?\s*', text)
        if not match or bool(match[1]) == bool(match[3]):
            raise SlotError(f'a budget is a latency such as 8ms or 60% (of the original), or loss=1.5; got {text!r:.40}')
        number = float(match[2])
        if match[1]:
            return cls(loss=number)
        return cls(latency_ms=number) if match[3] == 'ms' else cls(latency_ratio=number / 100)


@dataclass(frozen=True)
class Choice:
    """An assignment with what it was chosen from. Latencies in ms, of the slots alone."""
    assignment: Assignment
    groups: dict[str, list[Slot]]
    options: dict[str, list[Option]]

    @property
    def rivals(self) -> list[Assignment]:
        """One operator for all groups, and keeping all."""
        return one_for_all(self.options)


def choose_per_slot(model: nn.Module, slots: Sequence[Slot], operators: Sequence[Operator], budget: Budget, *,
                    model_ms: float | None = None, group_by: str = 'shape', batches: Sequence[Any] | None = None,
                    score: Callable[[nn.Module], float] | None = None, timer: Timer | None = None) -> Choice:
    """The best operator (or the original layer) for every group of slots, within a budget.

    Args:
        model: with the weights whose loss counts.
        slots: of :func:`~.slots.find_slots`.
        operators: to choose from; each is an option where it fits.
        budget: what to keep.
        model_ms: latency of the whole model, needed for budgets of latency, in the runtime that ``timer`` uses.
        group_by: see :func:`~.slots.group_slots`.
        batches: inputs to warm-start on.
        score: accuracy in points, say; without it the error of the slots' outputs is the loss.
        timer: times a layer against another.

    Raises:
        SlotError: no assignment keeps the budget, no operator fits anywhere, or ``model_ms`` is missing.
    """
    groups = group_slots(slots, group_by)
    usable = [op for op in operators if any(not unfit(op, slot) for slot in slots)]
    if not usable:
        raise SlotError(f'none of the {len(operators)} operators fits one of the {len(slots)} slots')
    latencies = slot_latencies(model, groups, usable, timer=timer)
    losses = (slot_errors(model, groups, usable, batches=batches) if score is None else
              slot_losses(model, groups, usable, score, batches=batches))
    options = options_from(latencies, losses)
    return Choice(solve(options, **_limits(budget, options, model_ms)), groups, options)


def _limits(budget: Budget, options: Mapping[str, Sequence[Option]], model_ms: float | None) -> dict[str, float]:
    if budget.loss is not None:
        return {'max_loss': budget.loss}
    if model_ms is None:
        raise SlotError('a budget of latency needs model_ms, the latency of the whole model')
    kept = sum(group[0].latency_ms for group in options.values())
    wanted = budget.latency_ms if budget.latency_ms is not None else (budget.latency_ratio or 0) * model_ms
    # What is no slot stays as it is. Layers alone can take longer than within the model; then all time is theirs.
    rest = max(model_ms - kept, 0.0)
    return {'max_latency_ms': (wanted - rest) * (1 if kept <= model_ms else kept / model_ms)}
