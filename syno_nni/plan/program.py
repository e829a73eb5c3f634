"""Programs: straight-line lists of library calls on numbered registers.

Register 0 is the input, 1 to n the weights; every step writes the next register. A program is plain data, so it can be
printed, costed, compared, folded and run; running it is a loop that `torch.compile` and the exporters unroll.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One library call.

    Attributes:
        kind: a key of `CALLS`.
        inputs: the registers that it reads.
        output: the register that it writes.
        arguments: what else the call takes.
        shape: of its result, at the binding's batch size.
    """
    kind: str
    inputs: tuple[int, ...]
    output: int
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        inside = ', '.join([*(f'%{r}' for r in self.inputs), *map(str, self.arguments)])
        return f'%{self.output} = {self.kind}({inside})  # {list(self.shape)}'


@dataclass(frozen=True)
class Program:
    """Steps from the input and the weights to the output.

    Attributes:
        shapes: of the input and the weights, at the binding's batch size.
        steps: in order; step i writes register ``len(shapes) + i``.
        result: the register that holds the output.
    """
    shapes: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    result: int
    last_uses: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # For every step the registers that nothing reads after it: memory to give back.
        seen = {self.result}
        uses = []
        for step in reversed(self.steps):
            done = tuple(dict.fromkeys(r for r in (*step.inputs, step.output) if r not in seen))
            seen |= set(done)
            uses.append(done)
        object.__setattr__(self, 'last_uses', tuple(reversed(uses)))

    def __call__(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Runs the program."""
        registers: dict[int, Tensor] = dict(enumerate((x, *weights)))
        for step, done in zip(self.steps, self.last_uses):
            registers[step.output] = CALLS[step.kind](*(registers[r] for r in step.inputs), *step.arguments)
            for register in done:
                del registers[register]
        return registers[self.result]

    def shape(self, register: int) -> tuple[int, ...]:
        """The shape of a register at the binding's batch size."""
        return self.shapes[register] if register < len(self.shapes) else self.steps[register - len(self.shapes)].shape

    def constant_registers(self) -> set[int]:
        """The registers that depend on weights alone."""
        constant = set(range(1, len(self.shapes)))
        for step in self.steps:
            if all(r in constant for r in step.inputs):
                constant.add(step.output)
        return constant

    def split(self) -> tuple[Program, Program, tuple[int, ...]]:
        """The part on weights alone, the rest, and the registers of the former that are the weights of the latter."""
        constant = self.constant_registers()
        live = [s for s in self.steps if s.output not in constant]
        kept = tuple(dict.fromkeys(r for s in live for r in s.inputs if r in constant))
        number = {0: 0, **{r: n for n, r in enumerate(kept, 1)}}
        for step in live:
            number[step.output] = len(number)
        steps = tuple(replace(s, inputs=tuple(number[r] for r in s.inputs), output=number[s.output]) for s in live)
        rest = Program((self.shapes[0], *(self.shape(r) for r in kept)), steps, number.get(self.result, 0))
        return replace(self, steps=tuple(s for s in self.steps if s.output in constant)), rest, kept

    def constants(self, weights: Sequence[Tensor], wanted: Sequence[int]) -> list[Tensor]:
        """The values of registers that depend on weights alone."""
        registers: dict[int, Tensor] = dict(enumerate(weights, 1))
        for step in self.steps:
            if all(r in registers for r in step.inputs):
                registers[step.output] = CALLS[step.kind](*(registers[r] for r in step.inputs), *step.arguments)
        return [registers[r] for r in wanted]

    def __str__(self) -> str:
        return '\n'.join(map(str, self.steps))


def multiply_adds(program: Program, step: Step) -> int:
    """The multiply-adds of one step; 0 for those that only move data."""
    out = math.prod(step.shape)
    shapes = [program.shape(r) for r in step.inputs]
    if step.kind == 'conv':
        return out * math.prod(shapes[1][1:])
    if step.kind == 'matmul':
        return out * shapes[0][-1]
    if step.kind == 'einsum':
        left, _ = step.arguments[0].split('->')
        sizes = {letter: n for term, shape in zip(left.split(','), shapes) for letter, n in zip(term, shape)}
        return math.prod(sizes.values())
    if step.kind == 'box':
        return out * step.arguments[0]
    if step.kind in ('sum', 'shear_sum'):
        return math.prod(shapes[0])
    return out if step.kind in ('mul', 'add') else 0


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
    result = None
    for r in range(x.shape[digit]):
        carry, at = divmod(r + offset, x.shape[digit])
        plane = x.select(digit, at)
        if carry % x.shape[rest]:
            plane = _roll(plane, -carry, rest - (digit < rest))
        result = plane if result is None else result + plane
    return result


def _carry(x: Tensor, dim: int, base: int, offset: int) -> Tensor:
    """``y[..., r, l, ...] = x[..., (l + (r + offset) // base) % n, ...]``: a new dimension r before ``dim``."""
    planes = []
    for carry, low in _carries(base, offset, x.shape[dim]):
        plane = (_roll(x, -carry, dim) if carry else x).unsqueeze(dim)
        planes.append(plane.expand(*plane.shape[:dim], low, *plane.shape[dim + 1:]))
    return torch.cat(planes, dim)


def _carry_sum(x: Tensor, dim: int, base: int, offset: int) -> Tensor:
    """`_carry`, summed over r."""
    result = None
    for carry, low in _carries(base, offset, x.shape[dim]):
        plane = _roll(x, -carry, dim) if carry else x
        plane = plane * low if low != 1 else plane
        result = plane if result is None else result + plane
    return result


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


CALLS: dict[str, Callable[..., Tensor]] = {
    'reshape': lambda x, shape: x.reshape(shape),
    'permute': lambda x, order: x.permute(order),
    'expand': lambda x, shape: x.expand(shape),
    'unsqueeze': lambda x, dim: x.unsqueeze(dim),
    'roll': _roll,
    'every': lambda x, dim, step: x[(slice(None),) * dim + (slice(None, None, step),)],
    'narrow': lambda x, dim, start, length: x.narrow(dim, start, length),
    'pad': _pad,
    'windows': _windows,
    'shear': _shear,
    'shear_sum': _shear_sum,
    'digits': _digits,
    'digit_sum': _digit_sum,
    'carry': _carry,
    'carry_sum': _carry_sum,
    'wrap': _wrap,
    'taps': _taps,
    'one_hot': _one_hot,
    'sum': lambda x, dims: x.sum(dims),
    'total': lambda x, dim: x.sum(dim, keepdim=True),
    'box': _box,
    'scale': lambda x, factor: x * factor,
    'mul': lambda x, y: x * y,
    'einsum': lambda *a: torch.einsum(a[-1], *a[:-1]),
    'matmul': lambda x, y: x @ y,
    'conv': _conv,
}
