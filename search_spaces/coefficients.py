"""Coefficients for one operator in one slot: the binding's own values, or others at which the operator fits.

:func:`~.slots.find_slots` gives all slots of a model the same ``g``, ``s``, ``k_1`` and ``k_2`` without knowing the
operator. One that divides ``C_out/g/s``, say, then has no room in 48 channels at ``g`` = 16 although 8 would do.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import lru_cache

from syno_nni.errors import SlotError
from syno_nni.operator import Operator

from .filled_slot import operator_sizes
from .slots import COEFFICIENTS, Slot

Fit = Callable[[Operator, Slot], Slot]
"""Gives a slot the coefficients that an operator gets in it; raises SlotError where it does not fit."""
CHOICES: dict[str, tuple[int, ...]] = {'k_1': (3, 5, 7), 'k_2': (7, 5, 3), 's': (2, 4, 3, 5, 7)}
"""Values that are tried in place of a default, in this order."""


def fitting(op: Operator, slot: Slot, given: Collection[str] = ()) -> Slot:
    """The slot with coefficients at which the operator fits: its own where they do, else the nearest that do.

    ``g`` is tried downwards first, then upwards to the usual limit; other coefficients change where they have their
    default value and ``g`` alone does not help.

    Args:
        op: the operator.
        slot: as :func:`~.slots.find_slots` bound it.
        given: coefficients that were asked for: they keep their value, but ``g``, a limit, may be lower.

    Raises:
        SlotError: no value fits; the reason is that at the slot's own values.
    """
    values = _fitting(op, tuple(slot.sizes.items()), slot.layout, frozenset(given))
    if isinstance(values, str):
        raise SlotError(values)
    return slot if values == slot.sizes else replace(slot, sizes=dict(values))


def as_bound(op: Operator, slot: Slot) -> Slot:
    """The slot as it is.

    Raises:
        SlotError: the operator does not fit its coefficients.
    """
    operator_sizes(op, slot.sizes, slot.layout)
    return slot


def unfit(op: Operator, slot: Slot, given: Collection[str] = ()) -> str:
    """Why the operator cannot fill the slot with any coefficients, or '' when it can. Builds nothing."""
    try:
        fitting(op, slot, given)
    except SlotError as error:
        return str(error)
    return ''


@lru_cache(maxsize=4096)
def _fitting(op: Operator, sizes: tuple[tuple[str, int], ...], layout: str, given: frozenset[str]) -> dict[str, int] | str:
    """The binding, or why there is none."""
    reason = ''
    for values in _bindings(op, dict(sizes), given):
        try:
            operator_sizes(op, values, layout)
        except SlotError as error:
            reason = reason or str(error)
        else:
            return values
    return reason


def _bindings(op: Operator, sizes: dict[str, int], given: frozenset[str]) -> Iterator[dict[str, int]]:
    """The slot's own binding, then others, those that change ``g`` alone first."""
    free = {v: _values(v, sizes, given) for v in ('k_2', 'k_1', 's', 'g') if v in op.variables and v in sizes}
    for values in itertools.product(*free.values()):
        yield {**sizes, **dict(zip(free, values, strict=True))}


def _values(variable: str, sizes: dict[str, int], given: frozenset[str]) -> list[int]:
    own = sizes[variable]
    if variable == 'g':
        channels = math.gcd(*(sizes[v] for v in ('C_in', 'C_out') if v in sizes))
        top = own if 'g' in given else max(own, COEFFICIENTS['g'])
        others = [*range(min(own - 1, channels), 0, -1), *range(own + 1, min(top, channels) + 1)]
        return [own, *(g for g in others if channels % g == 0)]
    if variable in given or own != COEFFICIENTS[variable]:
        return [own]
    return [own, *(n for n in CHOICES[variable] if n != own)]
