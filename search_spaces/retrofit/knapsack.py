"""Which operator for which slot: the best assignment under a latency or accuracy-loss budget.

Every slot group has options: keeping its layers, or an operator, each with a measured latency and an estimated
accuracy loss (what the model loses when only this group changes). Both add up over the groups, so the choice is a
multiple-choice knapsack. :func:`pareto` solves it exactly for all budgets at once by dynamic programming over
non-dominated partial sums; latencies count in steps of ``RESOLUTION_MS``, far below what a clock can tell, which
bounds the number of sums.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from syno_nni.errors import SlotError
from syno_nni.operator import Operator
from syno_nni.search_spaces.slots import Slot

KEEP = 'keep'
RESOLUTION_MS = 1e-4


@dataclass(frozen=True)
class Option:
    """One way to fill a slot group: ``'keep'`` or an operator's id, the group's latency then, and the accuracy lost.

    ``loss`` is in the unit of the budget (points of accuracy, say); it may be negative where an operator helps.
    """
    name: str
    latency_ms: float
    loss: float = 0.0


@dataclass(frozen=True)
class Assignment:
    """A choice for every group, with the summed latency of the groups (``latency_ms``) and the summed loss."""
    choices: dict[str, str]
    latency_ms: float
    loss: float

    def mapping(self, groups: Mapping[str, Sequence[Slot]], operators: Mapping[str, Operator],
                ) -> dict[str, Operator | str]:
        """What :func:`~syno_nni.search_spaces.retrofit.retrofit.retrofit` takes: slot name to operator or ``'keep'``."""
        return {slot.name: KEEP if name == KEEP else operators[name]
                for group, name in self.choices.items() for slot in groups[group]}


def options_from(latencies_ms: Mapping[str, Mapping[str, float]], losses: Mapping[str, Mapping[str, float]],
                 ) -> dict[str, list[Option]]:
    """Options per group from tables ``{group: {'keep' or operator id: value}}``.

    Keeping loses nothing. An operator that lacks a latency or a loss in a group (it did not fit, or failed) is no
    option there.

    Raises:
        SlotError: a group has no latency for keeping its layers.
    """
    options: dict[str, list[Option]] = {}
    for group, times in latencies_ms.items():
        if KEEP not in times:
            raise SlotError(f'group {group!r} has no latency for {KEEP!r}: the original layers must be measured too')
        known = losses.get(group, {})
        options[group] = [Option(KEEP, times[KEEP])] + [
            Option(name, ms, known[name]) for name, ms in times.items() if name != KEEP and name in known]
    return options


def solve(options: Mapping[str, Sequence[Option]], *, max_latency_ms: float | None = None,
          max_loss: float | None = None) -> Assignment:
    """The best assignment within a budget; exact.

    With ``max_latency_ms`` the one that loses least (and of those the fastest); with ``max_loss`` the fastest one
    (and of those the one that loses least); with both, the fastest that keeps both.

    Raises:
        SlotError: no budget is given, or no assignment keeps it; the message says what is reachable.
    """
    if max_latency_ms is None and max_loss is None:
        raise SlotError('give a budget: max_latency_ms, max_loss or both')
    front = pareto(options)
    within = [a for a in front if (max_latency_ms is None or a.latency_ms <= max_latency_ms + RESOLUTION_MS / 2)
              and (max_loss is None or a.loss <= max_loss + 1e-12)]
    if not within:
        fastest, safest = front[0], front[-1]
        raise SlotError(f'no assignment keeps the budget (latency {max_latency_ms} ms, loss {max_loss}): the fastest '
                        f'takes {fastest.latency_ms:.4g} ms at loss {fastest.loss:.4g}, the safest '
                        f'{safest.latency_ms:.4g} ms at loss {safest.loss:.4g}')
    return within[-1] if max_loss is None else within[0]


def pareto(options: Mapping[str, Sequence[Option]]) -> list[Assignment]:
    """All assignments that no other beats in both latency and loss, from the fastest to the one that loses least.

    Raises:
        SlotError: there is no group, a group has no option, or a latency or loss is not a finite number.
    """
    _check(options)
    steps = np.zeros(1, dtype=np.int64)
    loss = np.zeros(1)
    trail: list[tuple[np.ndarray, np.ndarray]] = []
    for group in options.values():
        own = np.array([round(o.latency_ms / RESOLUTION_MS) for o in group], dtype=np.int64)
        all_steps = (steps[:, None] + own).ravel()
        all_loss = (loss[:, None] + np.array([o.loss for o in group])).ravel()
        kept = _non_dominated(all_steps, all_loss)
        steps, loss = all_steps[kept], all_loss[kept]
        trail.append((kept // len(group), kept % len(group)))
    result = []
    for position in range(len(steps)):
        chosen: list[Option] = []
        at = position
        for group, (before, choice) in zip(reversed([*options.values()]), reversed(trail), strict=True):
            chosen.append(group[choice[at]])
            at = before[at]
        chosen.reverse()
        result.append(Assignment(dict(zip(options, (o.name for o in chosen), strict=True)),
                                 math.fsum(o.latency_ms for o in chosen), math.fsum(o.loss for o in chosen)))
    return result


def one_for_all(options: Mapping[str, Sequence[Option]]) -> list[Assignment]:
    """What the assignment competes with: each operator in every group that it is an option for, and all kept."""
    names = dict.fromkeys(o.name for group in options.values() for o in group)
    result = []
    for name in names:
        chosen = {}
        for group, items in options.items():
            by_name = {o.name: o for o in items}
            chosen[group] = by_name.get(name) or by_name[KEEP]
        result.append(Assignment({g: o.name for g, o in chosen.items()},
                                 math.fsum(o.latency_ms for o in chosen.values()),
                                 math.fsum(o.loss for o in chosen.values())))
    return result


def _non_dominated(steps: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Indices of the points that no other point beats, by increasing steps (and so by decreasing loss)."""
    order = np.lexsort((loss, steps))
    best_before = np.minimum.accumulate(np.concatenate(([np.inf], loss[order][:-1])))
    return order[loss[order] < best_before]


def _check(options: Mapping[str, Sequence[Option]]) -> None:
    if not options:
        raise SlotError('there is no slot group to choose operators for')
    for group, items in options.items():
        if not any(o.name == KEEP for o in items):
            raise SlotError(f'group {group!r} lacks the option {KEEP!r}')
        for option in items:
            if not (math.isfinite(option.latency_ms) and option.latency_ms >= 0 and math.isfinite(option.loss)):
                raise SlotError(f'group {group!r}, {option.name}: latency {option.latency_ms} ms and loss '
                                f'{option.loss} must be finite, and the latency not negative')
