"""What a layer does, as data: the calls that it makes, with shapes. Whatever gives this can be predicted (`cost_model`)."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import nn

from syno_nni.errors import MeasureError

Shape = tuple[int, ...]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Work:
    """One call on data.

    Attributes:
        kind: of step, as in `syno_nni.plan.kinds`, or ``pool``, ``bias``.
        reads: the shapes of what it reads.
        constant: for each of those, whether it is known ahead (a weight, or what is computed from weights alone).
        shape: of its result.
        arguments: what else the call takes.
        times: so many times the data of these shapes: the batch over that of the shapes.
    """
    kind: str
    reads: tuple[Shape, ...]
    constant: tuple[bool, ...]
    shape: Shape
    arguments: tuple[Any, ...] = ()
    times: float = 1.0


@runtime_checkable
class Worker(Protocol):
    """What says what it does; ``Plan``, ``SynthesizedLayer``, ``FusedLayer`` and ``FilledSlot`` do."""

    def work(self, shape: Sequence[int] | None = None) -> tuple[Work, ...]:
        """The calls for an input of this shape, batch included, with all that depends on weights alone done ahead; without
        one, for the sizes that it was made for."""


def work_of(module: nn.Module | Worker, shape: Sequence[int]) -> tuple[Work, ...]:
    """The calls of a layer for an input of ``shape``, batch included.

    Args:
        module: what has a method ``work``, a convolution (any groups, stride, dilation) or a linear layer.

    Raises:
        MeasureError: the module is of another class, or does not take the shape.
    """
    if isinstance(module, Worker):
        return module.work(shape)
    shape = tuple(shape)
    if isinstance(module, CONVOLUTIONS):
        return (_convolution(module, shape),)
    if isinstance(module, nn.Linear):
        if not shape or shape[-1] != module.in_features:
            raise _misfit(module, shape, f'last dimension {module.in_features}')
        kernel = (module.in_features, module.out_features)
        return (Work('matmul', (shape, kernel), (False, True), (*shape[:-1], module.out_features)),)
    raise MeasureError(f'cannot predict a {type(module).__name__}: wanted a convolution, a linear layer, or a module whose '
                       'method work() says what it does')


def _convolution(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, shape: Shape) -> Work:
    axes = len(module.kernel_size)
    if len(shape) != axes + 2 or shape[1] != module.in_channels:
        raise _misfit(module, shape, f'{axes + 2} dimensions, {module.in_channels} channels')
    kernel = tuple(module.weight.shape)
    if isinstance(module.padding, str):
        before = [0 if module.padding == 'valid' else d * (k - 1) for d, k in zip(module.dilation, module.kernel_size)]
    else:
        before = [2 * p for p in module.padding]
    sides = [(n + p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(
        shape[2:], before, module.dilation, module.kernel_size, module.stride)]
    if min(sides) < 1:
        raise _misfit(module, shape, 'a map that the kernel fits into')
    result = (shape[0], module.out_channels, *sides)
    return Work('conv', (shape, kernel), (False, True), result, (module.padding, module.groups))


def _misfit(module: nn.Module, shape: Shape, wanted: str) -> MeasureError:
    return MeasureError(f'a {type(module).__name__} does not take an input of shape {list(shape)}: wanted {wanted}')


def elements(shape: Sequence[int]) -> int:
    """How many numbers a tensor of this shape holds."""
    return math.prod(shape)
