"""The kinds of steps: for each, how it runs, its multiply-adds and its estimated seconds, in one row of `KINDS`.

To add a kind, write its call, add its row, and emit it where the lowering can use it
(`Builder.emit`, or the ways of `contraction.Contraction`); tests/syno_nni/plan/test_layer.py then checks every plan that
has it against the definition.

The seconds order plans; they do not predict latencies.
"""
from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .machine import Machine

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One step as the cost of it needs it.

    Attributes:
        shapes: of what it reads, at the binding's batch size.
        shape: of its result.
        arguments: what else it takes.
        first: whether the first thing that it reads is the operator's input itself.
    """
    shapes: tuple[Shape, ...]
    shape: Shape
    arguments: tuple[Any, ...]
    first: bool

    @property
    def moved(self) -> int:
        """Bytes of the first thing read, and of the result."""
        return 4 * math.prod(self.shapes[0]) + 4 * math.prod(self.shape)


Multiplies = Callable[[Call], int]
Seconds = Callable[[Call, int, Machine], float]


@dataclass(frozen=True)
class Kind:
    """A kind of step.

    Attributes:
        run: the inputs' tensors and the arguments to the result; PyTorch calls that compile and export.
        seconds: the estimate, from the call, its multiply-adds and the machine.
        multiply_adds: 0 for what only moves data.
    """
    run: Callable[..., Tensor]
    seconds: Seconds
    multiply_adds: Multiplies = lambda call: 0


# ---- the calls ----

def _roll(x: Tensor, shift: int, dim: int) -> Tensor:
    """``x.roll(shift, dim)`` as slices joined: runtimes keep their inner layouts through these, not through a roll."""
    length = x.shape[dim]
    start = -shift % length
    return torch.cat([x.narrow(dim, start, length - start), x.narrow(dim, 0, start)], dim)


def _conv(x: Tensor, kernel: Tensor, padding: tuple[int, ...], groups: int, stride: tuple[int, ...] | int = 1) -> Tensor:
    call = (F.conv1d, F.conv2d, F.conv3d)[len(padding) - 1]
    return call(x, kernel, None, stride, padding, 1, groups)


def _box(x: Tensor, window: int) -> Tensor:
    """The sum over zero-padded windows of dimension 2 of 4: a depthwise convolution, far quicker than pooling."""
    channels = x.shape[1]
    kernel = torch.ones((), dtype=x.dtype, device=x.device).expand(channels, 1, window, 1)
    return F.conv2d(x, kernel, None, 1, (window // 2, 0), 1, channels)


def _shear(x: Tensor, dim: int, window_dim: int, window: int) -> Tensor:
    """``y[..., j, ..., p] = x[..., j, ..., p + j - window // 2]``, zero outside; j runs over ``window_dim``."""
    length = x.shape[dim]
    padded = _pad(x, dim, window // 2, window - 1 - window // 2)
    return torch.cat([padded.narrow(window_dim, j, 1).narrow(dim, j, length) for j in range(window)], window_dim)


def _shear_sum(x: Tensor, dim: int, window_dim: int, window: int) -> Tensor:
    """`_shear`, summed over the window."""
    length = x.shape[dim]
    padded = _pad(x, dim, window // 2, window - 1 - window // 2)
    at = dim - (window_dim < dim)
    result = padded.select(window_dim, 0).narrow(at, 0, length)
    for j in range(1, window):
        result = result + padded.select(window_dim, j).narrow(at, j, length)
    return result


def _digits(x: Tensor, digit: int, rest: int, offset: int) -> Tensor:
    """A cyclic shift by ``offset`` of a number whose low digit is dimension ``digit`` and whose rest ``rest``."""
    base = x.shape[digit]
    planes = []
    for r in range(base):
        carry, at = divmod(r + offset, base)
        plane = x.narrow(digit, at, 1)
        planes.append(_roll(plane, -carry, rest) if carry % x.shape[rest] else plane)
    return torch.cat(planes, digit)


def _digit_sum(x: Tensor, digit: int, rest: int, offset: int) -> Tensor:
    """`_digits`, summed over the new low digit."""
    planes = []
    for r in range(x.shape[digit]):
        carry, at = divmod(r + offset, x.shape[digit])
        plane = x.select(digit, at)
        planes.append(_roll(plane, -carry, rest - (digit < rest)) if carry % x.shape[rest] else plane)
    return _added(planes)


def _carry(x: Tensor, dim: int, base: int, offset: int) -> Tensor:
    """``y[..., r, l, ...] = x[..., (l + (r + offset) // base) % n, ...]``: a new dimension r before ``dim``."""
    planes = []
    for carry, low in _carries(base, offset, x.shape[dim]):
        plane = (_roll(x, -carry, dim) if carry else x).unsqueeze(dim)
        planes.append(plane.expand(*plane.shape[:dim], low, *plane.shape[dim + 1:]))
    return torch.cat(planes, dim)


def _carry_sum(x: Tensor, dim: int, base: int, offset: int) -> Tensor:
    """`_carry`, summed over r."""
    planes = []
    for carry, low in _carries(base, offset, x.shape[dim]):
        plane = _roll(x, -carry, dim) if carry else x
        planes.append(plane * low if low != 1 else plane)
    return _added(planes)


def _added(planes: Iterable[Tensor]) -> Tensor:
    return reduce(operator.add, planes)


def _carries(base: int, offset: int, length: int) -> list[tuple[int, int]]:
    """What the low digits carry, in their order, and how many of them carry it."""
    carry, rest = divmod(offset, base)
    return [(c % length, n) for c, n in ((carry, base - rest), (carry + 1, rest)) if n]


def _wrap(x: Tensor, dim: int, start: int, extra: int) -> Tensor:
    """One way around a cyclic dimension from ``start``, and ``extra`` elements more."""
    length = x.shape[dim]
    pieces = [x.narrow(dim, start, length - start)] if start else [x]
    return torch.cat([*pieces, x.narrow(dim, 0, start + extra)], dim)


def _taps(x: Tensor, dim: int, offset: int) -> Tensor:
    """A kernel over the low digit of a shifted number as one over the carry: what carries, and what does not."""
    base = x.shape[dim]
    return torch.cat([x.narrow(dim, offset, base - offset).sum(dim, keepdim=True),
                      x.narrow(dim, 0, offset).sum(dim, keepdim=True)], dim)


def _pad(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    return F.pad(x, [0, 0] * (x.dim() - dim - 1) + [before, after])


def _windows(x: Tensor, dim: int, window: int) -> Tensor:
    """A new dimension after ``dim``: the zero-padded window around every element."""
    return _pad(x, dim, window // 2, window - 1 - window // 2).unfold(dim, window, 1).movedim(-1, dim + 1)


def _one_hot(x: Tensor, dim: int) -> Tensor:
    """A new last dimension that equals dimension ``dim``: ``y[..., j, ..., k] = x[..., j, ...] if j == k else 0``."""
    return x.movedim(dim, -1).diag_embed().movedim(-2, dim)


# ---- multiply-adds ----

def _one_each(call: Call) -> int:
    return math.prod(call.shape)


def _all_read(call: Call) -> int:
    return math.prod(call.shapes[0])


def _conv_macs(call: Call) -> int:
    return math.prod(call.shape) * math.prod(call.shapes[1][1:])


def _matmul_macs(call: Call) -> int:
    return math.prod(call.shape) * call.shapes[0][-1]


def _einsum_macs(call: Call) -> int:
    left, _ = call.arguments[0].split('->')
    extents = {letter: n for term, shape in zip(left.split(','), call.shapes) for letter, n in zip(term, shape)}
    return math.prod(extents.values())


# ---- seconds ----

def _view(call: Call, work: int, machine: Machine) -> float:
    return 0.3 * machine.call


def _elementwise(call: Call, work: int, machine: Machine) -> float:
    return machine.call + call.moved / machine.copy


def _permuted(call: Call, work: int, machine: Machine) -> float:
    """What follows makes it contiguous."""
    inner = call.arguments[0][-1] == len(call.shape) - 1
    return machine.call + call.moved / (machine.copy if inner else machine.scatter)


def _expanded(call: Call, work: int, machine: Machine) -> float:
    """As for a permutation."""
    return machine.call + 4 * math.prod(call.shape) / machine.copy


def _product(call: Call, work: int, machine: Machine) -> float:
    """A matrix product, or an einsum."""
    kernel = 4 * math.prod(call.shapes[1 if len(call.shapes) > 1 and call.first else 0]) / machine.load
    rows, columns = call.shape[-2:] if len(call.shape) > 1 else (1, call.shape[-1])
    rate = machine.dense * _filled(columns, machine.lanes) * _filled(rows, 4) * _filled(call.shapes[0][-1], 4)
    return machine.call + call.moved / machine.copy + kernel + work / rate


def _windows_summed(call: Call, work: int, machine: Machine) -> float:
    return 4 * machine.call + call.moved / machine.copy + work / (0.1 * machine.dense)


def _summed(innermost: Callable[[Call], int]) -> Seconds:
    """A sum along dimensions of which ``innermost`` is the last: along that of memory it is slower."""
    def seconds(call: Call, work: int, machine: Machine) -> float:
        inner = innermost(call) == len(call.shapes[0]) - 1
        return machine.call + (4 if inner else 1.5) * call.moved / machine.scatter * (0.7 if inner else 1)
    return seconds


def _passes(times: float, inner: Callable[[Call], bool] = lambda call: False) -> Seconds:
    """A call that only moves data and goes over it so many times; ``inner`` tells whether it changes how rows lie."""
    def seconds(call: Call, work: int, machine: Machine) -> float:
        rows = math.prod(call.shape[:-1]) * 4e-9  # short rows cost more to start than to copy
        rate = machine.scatter if inner(call) else machine.copy
        return 2 * machine.call + rows + times * call.moved / rate
    return seconds


def _convolved(call: Call, work: int, machine: Machine) -> float:
    kernel, groups = call.shapes[1], call.arguments[1]
    start = 4 * machine.call + call.moved / machine.copy
    outer, inner = kernel[0] // groups, kernel[1]
    if groups > 1 and outer == inner == 1:
        return start + work / (0.1 * machine.dense)
    rate = machine.dense * _filled(outer, machine.lanes) * max(_filled(inner, machine.lanes), 0.5)
    if groups > 1:
        rate *= 0.5 if outer < machine.lanes else 0.9
    if len(kernel) == 5:
        rate *= 0.5
    return start + (4 * math.prod(kernel) / machine.load + work / rate)


def _filled(extent: int, lanes: int) -> float:
    """How much of the vector lanes an extent fills."""
    return extent / (math.ceil(extent / lanes) * lanes)


KINDS: dict[str, Kind] = {
    # views
    'reshape': Kind(lambda x, shape: x.reshape(shape), _view),
    'unsqueeze': Kind(lambda x, dim: x.unsqueeze(dim), _view),
    'narrow': Kind(lambda x, dim, start, length: x.narrow(dim, start, length), _view),
    'every': Kind(lambda x, dim, step: x[(slice(None),) * dim + (slice(None, None, step),)], _view),
    'permute': Kind(lambda x, order: x.permute(order), _permuted),
    'expand': Kind(lambda x, shape: x.expand(shape), _expanded),
    # copies
    'roll': Kind(_roll, _passes(1.0)),
    'wrap': Kind(_wrap, _passes(1.0)),
    'pad': Kind(_pad, _passes(1.2)),
    'carry': Kind(_carry, _passes(1.2)),
    'digits': Kind(_digits, _passes(1.8, lambda call: call.arguments[0] == len(call.shape) - 1)),
    'shear': Kind(_shear, _passes(2.0)),
    'windows': Kind(_windows, _passes(2.0, lambda call: True)),
    'one_hot': Kind(_one_hot, _elementwise),
    # sums
    'sum': Kind(lambda x, dims: x.sum(dims), _summed(lambda call: max(call.arguments[0])), _all_read),
    'total': Kind(lambda x, dim: x.sum(dim, keepdim=True), _elementwise),
    'taps': Kind(_taps, _elementwise),
    'digit_sum': Kind(_digit_sum, _summed(lambda call: call.arguments[0])),
    'carry_sum': Kind(_carry_sum, _passes(2.5)),
    'shear_sum': Kind(_shear_sum, _passes(2.5), _all_read),
    'box': Kind(_box, _windows_summed, lambda call: math.prod(call.shape) * call.arguments[0]),
    # products
    'scale': Kind(lambda x, factor: x * factor, _elementwise),
    'mul': Kind(lambda x, y: x * y, _elementwise, _one_each),
    'einsum': Kind(lambda *a: torch.einsum(a[-1], *a[:-1]), _product, _einsum_macs),
    'matmul': Kind(lambda x, y: x @ y, _product, _matmul_macs),
    'conv': Kind(_conv, _convolved, _conv_macs),
}
