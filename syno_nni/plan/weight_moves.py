"""Moves from data to weights: what would have to be done to the data, done to the kernel instead, ahead of inference.

The data may be indexed by the high digits ``X = shift(c*B + r, d) // B`` of a shifted number, that is, by c or by its
neighbour, depending on r. Rather than copying the data once for each r,

* where the stage sums c, and the kernel has c and r: summing over c is summing over X, with the kernel moved along
  accordingly (X becomes an ordinary input channel);
* where the stage sums r, and the kernel has r: r becomes the low digit ``shift(c*B + r, d) % B`` in the kernel, and the
  two halves meet in a cyclic axis of two taps.
"""
from __future__ import annotations

from collections.abc import Callable

from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Sum, sibling

from .builder import Builder, Value
from .shifted_digits import ShiftedDigits, shifted_digits

FIRST_FRESH = 1000  # reductions made here are numbered from here


def moved_to_weight(builder: Builder, value: Value, kernel: Value,
                summable: Callable[[Coordinate], bool]) -> tuple[Value, Value] | None:
    """Data and kernel after all moves that apply; None where none does.

    ``summable`` tells whether the stage may sum over a coordinate.
    """
    nodes = {node for label in value.labels for node in label.walk()}
    found = False
    for label in sorted((n for n in nodes if isinstance(n, MergeLeft)), key=lambda n: n.depth):
        number = shifted_digits(label)
        if number is None or sibling(label) in nodes:
            continue
        high, low = number.high, number.low
        others = {node for other in value.labels if other != label for node in other.walk()}
        if label in value.labels and summable(high) and high not in others:
            changed = _high_digit_summed(builder, value, kernel, label, number)
            if changed:
                value, kernel = changed
                found = True
        elif low in kernel.labels and summable(low) and not _below(high, kernel):
            kernel = _low_digit_summed(builder, kernel, label, number)
            found = True
    return (value, kernel) if found else None


def _high_digit_summed(builder: Builder, value: Value, kernel: Value, label: MergeLeft,
                       number: ShiftedDigits) -> tuple[Value, Value] | None:
    high, low, offset, base = number.high, number.low, number.offset, number.base
    if high not in kernel.labels:
        return None
    reached = reach(builder, kernel, low)
    if reached is None or high not in reached.labels:
        return None
    others = [(x,) for x in reached.labels if x not in (high, low)]
    kernel = builder.arrange(reached, [*others, (high, low)])
    shape, at = builder.shape(kernel.dims), len(others)
    kernel = Value(builder.emit('roll', [kernel.register], (offset, at), shape), kernel.dims)
    kernel = builder.singles(kernel)
    if offset % base:
        rolled = builder.emit('roll', [kernel.register], (-(offset % base), at + 1), builder.shape(kernel.dims))
        kernel = Value(rolled, kernel.dims)
    fresh = Sum(FIRST_FRESH + len(builder.steps), high.size)
    return value.relabelled(label, fresh), kernel.relabelled(high, fresh)


def _low_digit_summed(builder: Builder, kernel: Value, label: MergeLeft, number: ShiftedDigits) -> Value:
    low, offset, base = number.low, number.offset, number.base
    kernel = builder.alone(kernel, low)
    if offset % base:
        at = kernel.dim(low)
        rolled = builder.emit('roll', [kernel.register], (offset % base, at), builder.shape(kernel.dims))
        kernel = Value(rolled, kernel.dims)
    return kernel.relabelled(low, sibling(label))


def reach(builder: Builder, value: Value, node: Coordinate) -> Value | None:
    """The value with ``node`` among its coordinates, made from those below it; None where they are not there."""
    if node in value.labels:
        return value
    if not isinstance(node, (MergeLeft, MergeRight)) or sibling(node) in value.labels:
        return None
    below = reach(builder, value, node.of)
    if below is None:
        return None
    left, right = (node, sibling(node)) if isinstance(node, MergeLeft) else (sibling(node), node)
    return builder.singles(below.relabelled(node.of, left, right))


def _below(node: Coordinate, value: Value) -> bool:
    return any(node in label.walk() for label in value.labels)
