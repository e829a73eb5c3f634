"""Digits of shifted numbers: the halves of a Merge over a Shift over a Split with the same block."""
from __future__ import annotations

from dataclasses import dataclass

from syno_nni.operator.concrete import extent
from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Shift, Split


@dataclass(frozen=True)
class ShiftedDigits:
    """What is shifted in ``shift(high*base + low, offset)``, of which a coordinate is the high or the low digit."""
    high: Coordinate
    low: Coordinate
    offset: int

    @property
    def base(self) -> int:
        return extent(self.low)


def shifted_digits(label: Coordinate) -> ShiftedDigits | None:
    """The number of which a coordinate is a digit; None where it is no digit of a shifted number."""
    if not isinstance(label, (MergeLeft, MergeRight)):
        return None
    of = label.of
    if isinstance(of, Shift) and isinstance(of.of, Split) and of.of.right.size == label.block:
        return ShiftedDigits(of.of.left, of.of.right, of.offset)
    return None
