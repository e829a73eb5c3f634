"""Digits of shifted numbers: the halves of a Merge over a Shift over a Split with the same block."""
from __future__ import annotations

from syno_nni.operator.concrete import extent
from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Shift, Split


def digit_shift(label: Coordinate) -> bool:
    """Whether a coordinate is a half of ``shift(l*B + r, offset)`` with B its block: a digit of a shifted number."""
    if not isinstance(label, (MergeLeft, MergeRight)):
        return False
    of = label.of
    return isinstance(of, Shift) and isinstance(of.of, Split) and of.of.right.size == label.block


def digits(label: MergeLeft) -> tuple[Coordinate, Coordinate, int, int]:
    """High digit, low digit, offset and base of a label that is a ``digit_shift``."""
    shift = label.of
    assert isinstance(shift, Shift) and isinstance(shift.of, Split)
    return shift.of.left, shift.of.right, shift.offset, extent(shift.of.right)
