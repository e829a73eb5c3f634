"""Building a program: values whose dimensions are labelled by coordinates, and the views between them."""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from syno_nni.operator.concrete import ConcreteOperator, extent
from syno_nni.operator.explosions import low_digits
from syno_nni.operator.expr import Coordinate, Iterator, MergeLeft, MergeRight, Shift, Split, Stride, Unfold, sibling

from .program import Program, Step
from .shifted_digits import shifted_digits

Dims = tuple[tuple[Coordinate, ...], ...]


class Unreachable(Exception):
    """The coordinates wanted do not lie below those that a value has: this way of lowering a stage does not exist."""


@dataclass(frozen=True)
class Value:
    """A register and, for each of its dimensions, the coordinates that index it, outer before inner."""
    register: int
    dims: Dims

    @property
    def labels(self) -> tuple[Coordinate, ...]:
        """All coordinates in the order of memory."""
        return tuple(label for dim in self.dims for label in dim)

    def dim(self, label: Coordinate) -> int:
        """The dimension that holds a coordinate."""
        return next(n for n, dim in enumerate(self.dims) if label in dim)

    def relabelled(self, old: Coordinate, *new: Coordinate) -> Value:
        """The same memory seen with one coordinate replaced by others."""
        dims = tuple(tuple(x for label in dim for x in (new if label == old else (label,))) for dim in self.dims)
        return Value(self.register, dims)


class Builder:
    """Steps under construction; cheap to fork, so that alternatives can share a beginning."""

    def __init__(self, op: ConcreteOperator) -> None:
        self.op = op
        self.shapes = (op.input_shape, *op.weight_shapes)
        self.steps: list[Step] = []

    def fork(self) -> Builder:
        """A copy to continue differently."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.steps = list(self.steps)
        return other

    def program(self, result: int) -> Program:
        return Program(self.shapes, tuple(self.steps), result)

    # steps
    def emit(self, kind: str, inputs: Sequence[int], arguments: Sequence[Any], shape: Sequence[int]) -> int:
        register = len(self.shapes) + len(self.steps)
        self.steps.append(Step(kind, tuple(inputs), register, tuple(arguments), tuple(shape)))
        return register

    def shape(self, dims: Iterable[Sequence[Coordinate]]) -> tuple[int, ...]:
        """The shape at the binding's batch size."""
        return tuple(math.prod(map(extent, dim)) for dim in dims)

    def free_shape(self, dims: Iterable[Sequence[Coordinate]]) -> tuple[int, ...]:
        """The shape with -1 for the dimension that holds the batch."""
        return tuple(-1 if self.op.batch in dim else math.prod(map(extent, dim)) for dim in dims)

    def shape_of(self, register: int) -> tuple[int, ...]:
        """The shape of a register at the binding's batch size."""
        return self.shapes[register] if register < len(self.shapes) else self.steps[register - len(self.shapes)].shape

    def load(self, tensor: int) -> Value:
        """The input (0) or a weight, without its dimensions of one element."""
        labels = (self.op.inputs, *self.op.weights)[tensor]
        dims = tuple((label,) for label in labels)
        value = Value(tensor, dims)
        return value if self.shape(dims) == self.shapes[tensor] else self.reshape(value, dims)

    def reshape(self, value: Value, dims: Dims) -> Value:
        """Other groups of the same coordinates in the same order."""
        return Value(self.emit('reshape', [value.register], [self.free_shape(dims)], self.shape(dims)), dims)

    # arrangement
    def arrange(self, value: Value, dims: Sequence[Sequence[Coordinate]]) -> Value:
        """The value with its coordinates in other dimensions; a permutation of all of them."""
        wanted = tuple(tuple(dim) for dim in dims)
        if value.dims == wanted:
            return value
        order = [label for dim in wanted for label in dim]
        if list(value.labels) != order:
            value = self.singles(value)
            permutation = tuple(value.labels.index(label) for label in order)
            singles = tuple((label,) for label in order)
            value = Value(self.emit('permute', [value.register], [permutation], self.shape(singles)), singles)
        return value if value.dims == wanted else self.reshape(value, wanted)

    def singles(self, value: Value) -> Value:
        """One dimension for each coordinate."""
        return self.arrange(value, [(label,) for label in value.labels])

    def alone(self, value: Value, *labels: Coordinate) -> Value:
        """The value with dimensions of their own for some coordinates; a reshape at most."""
        dims: list[tuple[Coordinate, ...]] = []
        for dim in value.dims:
            if not dim:
                dims.append(dim)
            rest: list[Coordinate] = []
            for label in dim:
                if label in labels:
                    dims += [tuple(rest)] * bool(rest) + [(label,)]
                    rest = []
                else:
                    rest.append(label)
            dims += [tuple(rest)] * bool(rest)
        return value if tuple(dims) == value.dims else self.reshape(value, tuple(dims))

    # views
    def undo(self, value: Value, label: Coordinate, targets: frozenset[Coordinate] = frozenset()) -> Value:
        """The value indexed by what ``label`` is computed from, instead of ``label``.

        Some primitives are undone two or three at a time, unless one of ``targets`` lies between.

        Raises:
            Unreachable: ``label`` is an iterator.
        """
        if isinstance(label, Iterator):
            raise Unreachable(label)
        if isinstance(label, Split):
            return value.relabelled(label, label.left, label.right)
        if isinstance(label, (MergeLeft, MergeRight)):
            return self._undo_half(value, label, targets)
        value = self.alone(value, label)
        at = value.dim(label)
        new: tuple[Coordinate, ...]
        if isinstance(label, Shift):
            kind, arguments, new = 'roll', (-label.offset, at), (label.of,)
        elif isinstance(label, Stride):
            kind, arguments, new = 'every', (at, extent(label) // extent(label.of)), (label.of,)
        else:
            assert isinstance(label, Unfold), label
            kind, arguments, new = 'windows', (at, extent(label.right)), (label.left, label.right)
        dims = (*value.dims[:at], *((n,) for n in new), *value.dims[at + 1:])
        return Value(self.emit(kind, [value.register], arguments, self.shape(dims)), dims)

    def _undo_half(self, value: Value, label: MergeLeft | MergeRight, targets: frozenset[Coordinate]) -> Value:
        other = sibling(label)
        of = label.of
        number = None if {of, *of.bottom[:1]} & targets else shifted_digits(label)
        if other not in value.labels:
            if isinstance(label, MergeRight) and (low := low_digits(label)) is not None:
                return value.relabelled(label, low)
            if isinstance(label, MergeLeft) and number:
                return self._carry(value, label, number.high, number.low, number.offset)
            value = self.expand(value, len(value.dims), other)
        left, right = (label, other) if isinstance(label, MergeLeft) else (other, label)
        if number:
            value = self.alone(value, left, right)
            arguments = (value.dim(right), value.dim(left), number.offset)
            moved = Value(self.emit('digits', [value.register], arguments, self.shape(value.dims)), value.dims)
            return moved.relabelled(left, number.high).relabelled(right, number.low)
        value = self.together(value, left, right)
        at = value.dim(left)
        dim = list(value.dims[at])
        dim[dim.index(left):dim.index(left) + 2] = [of]
        return Value(value.register, (*value.dims[:at], tuple(dim), *value.dims[at + 1:]))

    def _carry(self, value: Value, label: Coordinate, high: Coordinate, low: Coordinate, offset: int) -> Value:
        """High digits of a shifted number alone: one copy for each low digit, moved by what it carries."""
        value = self.alone(value, label)
        at = value.dim(label)
        dims = (*value.dims[:at], (low,), (high,), *value.dims[at + 1:])
        return Value(self.emit('carry', [value.register], (at, extent(low), offset), self.shape(dims)), dims)

    def together(self, value: Value, left: Coordinate, right: Coordinate) -> Value:
        """The value with ``right`` directly after ``left``, in one dimension."""
        labels = list(value.labels)
        if labels.index(right) != labels.index(left) + 1:
            labels.remove(right)
            labels.insert(labels.index(left) + 1, right)
            return self.arrange(value, [(left, right) if x == left else (x,) for x in labels if x != right])
        a, b = value.dim(left), value.dim(right)
        if a == b:
            return value
        dims = (*value.dims[:a], (*value.dims[a], *value.dims[b]), *value.dims[b + 1:])
        return self.reshape(value, dims)

    def expand(self, value: Value, at: int, label: Coordinate) -> Value:
        """A new dimension ``at``, along which nothing changes."""
        dims = (*value.dims[:at], (label,), *value.dims[at:])
        flat = self.emit('unsqueeze', [value.register], [at], self.shape((*value.dims[:at], (), *value.dims[at:])))
        return Value(self.emit('expand', [flat], [self.free_shape(dims)], self.shape(dims)), dims)

    def total(self, value: Value, labels: Iterable[Coordinate]) -> Value:
        """The value summed over some coordinates."""
        wanted = set(labels)
        labels = [label for label in value.labels if label in wanted]
        if not labels:
            return value
        value = self.alone(value, *labels)
        gone = tuple(value.dim(label) for label in labels)
        dims = tuple(dim for n, dim in enumerate(value.dims) if n not in gone)
        return Value(self.emit('sum', [value.register], [gone], self.shape(dims)), dims)
