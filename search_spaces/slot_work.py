"""What a filled slot does around its operator, as a cost model counts it."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from torch import nn

from syno_nni.errors import GraphError
from syno_nni.measure.work import Shape, Work
from syno_nni.plan.layer import SynthesizedLayer


class FilledSlot(Protocol):
    """What is read of :class:`~syno_nni.search_spaces.filled_slot.FilledSlot`."""
    layer: SynthesizedLayer
    pool: nn.Module | None
    bias: nn.Parameter | None
    layout: str
    stride: tuple[int, ...]
    offset: tuple[int, ...] | None
    input_size: tuple[int, ...]
    floor: bool
    in_channels: int
    out_channels: int

    @property
    def roles(self) -> tuple[str, str]:
        """The axes of the operator and of the layer."""


def slot_work(slot: FilledSlot, shape: Sequence[int]) -> tuple[Work, ...]:
    """Pooling or striding, moved axes, the operator, the bias, for an input of ``shape``, batch included.

    Raises:
        GraphError: the input has another number of channels or dimensions.
        SizeError: the operator's formula does not allow the size.
    """
    inner, outer = slot.roles
    first = outer[1:2] == 'C'
    x = tuple(shape)
    if len(x) < 2 or x[1 if first else -1] != slot.in_channels or (first and len(x) != len(outer)):
        raise GraphError(f'a slot of {slot.in_channels} channels on {slot.layout} does not take an input of shape {list(x)}')
    steps: list[Work] = []
    if slot.pool is not None:
        steps.append(_data('pool', x, (*x[:2], *_pooled(slot, x[2:])), slot.stride))
    elif slot.offset is not None:
        steps += _whole(slot, x, 'S' in inner)
    x = steps[-1].shape if steps else x
    if inner == outer:
        steps += slot.layer.work(x)
    else:
        steps += _moved(slot, x, first, inner)
    if slot.bias is not None:
        steps.append(_data('bias', steps[-1].shape if steps else x, steps[-1].shape if steps else x))
    return tuple(steps)


def _data(kind: str, before: Shape, after: Shape, *arguments: object) -> Work:
    return Work(kind, (before,), (False,), after, arguments)


def _pooled(slot: FilledSlot, sides: Shape) -> Shape:
    down = slot.floor and sides != slot.input_size
    return tuple(n // s if down else -(-n // s) for n, s in zip(sides, slot.stride, strict=True))


def _whole(slot: FilledSlot, x: Shape, sees_map: bool) -> list[Work]:
    """As `FilledSlot.forward` makes the map that the operator strides over."""
    if slot.floor:
        x = (*x[:2], *(n // s * s for n, s in zip(x[2:], slot.stride, strict=True)))
    steps: list[Work] = []
    if not sees_map:
        for axis, (a, s) in enumerate(zip(slot.offset or (), slot.stride, strict=True), start=2):
            after = (*x[:axis], len(range(a, x[axis], s)), *x[axis + 1:])
            steps.append(_data('every', x, after, axis, s))
            x = after
        return steps
    padded = (*x[:2], *(n + -n % s for n, s in zip(x[2:], slot.stride, strict=True)))
    return [_data('pad', x, padded, len(x) - 1, 0, 0)] if padded != x else [_data('narrow', x, x, 0, 0, x[0])]


def _moved(slot: FilledSlot, x: Shape, first: bool, inner: str) -> list[Work]:
    """The operator with its axes otherwise than the layer's: channels move only where one has them last."""
    batch, axes = x[0], x[2:] if first else x[1:-1]
    channels = slot.in_channels
    if inner == 'NC':
        own: Shape = (batch * math.prod(axes), channels)
    else:
        middle = (math.prod(axes),) if inner.count('S') == 1 else axes
        own = (batch, channels, *middle) if inner.startswith('NCS') else (batch, *middle, channels)
    there = inner.startswith('NCS')
    steps: list[Work] = []
    if there != first:
        last = (batch, *axes, channels)
        order = (0, *range(2, len(x)), 1)
        steps.append(_data('permute', x, last, order) if first else _data(
            'permute', last, (batch, channels, *axes), (0, len(x) - 1, *range(1, len(x) - 1))))
    steps += slot.layer.work(own)
    if there != first:
        out = slot.out_channels
        steps.append(_data('permute', (batch, *axes, out), (batch, out, *axes), (0, len(x) - 1, *range(1, len(x) - 1)))
                     if first else _data('permute', (batch, out, *axes), (batch, *axes, out), (0, *range(2, len(x)), 1)))
    return steps
