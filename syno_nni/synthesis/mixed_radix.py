"""Mixed radix: the digits that Merges make of a coordinate.

Merging a coordinate x again and again writes it in a mixed radix. Every half of such a Merge is a range of digits of x:
``x // B`` is the digits from B up, ``x % B`` those below B, ``(x % C) // B`` those from B to C. Two halves are compared
by their base x and the boundaries of their range, however the Merges are nested.
"""
from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Shift, Split, Unfold
from syno_nni.operator.size import ONE, Size

Boundary = tuple[Coordinate, Size]


class DigitRange(NamedTuple):
    """The digits of ``base`` from ``low`` up to ``high``; to the top if ``high`` is None."""

    base: Coordinate
    low: Size
    high: Size | None


def digit_range(node: Coordinate) -> DigitRange:
    """The digits that a coordinate is; a coordinate that is no half of a Merge is all of its own digits."""
    if isinstance(node, MergeLeft):
        digits = digit_range(node.of)
        return DigitRange(digits.base, digits.low * node.block, digits.high)
    if isinstance(node, MergeRight):
        digits = digit_range(node.of)
        return DigitRange(digits.base, digits.low, digits.low * node.block)
    return DigitRange(node, ONE, None)


def boundaries(nodes: Iterable[Coordinate]) -> frozenset[Boundary]:
    """Where Merges cut which base: as many as there are Merges in a tree of them."""
    found = set()
    for node in nodes:
        if isinstance(node, (MergeLeft, MergeRight)):
            digits = digit_range(node.of)
            found.add((digits.base, digits.low * node.block))
    return frozenset(found)


def flat_merges(base: Coordinate, low: Size, high: Size | None) -> Coordinate:
    """A range of the digits of ``base`` as a coordinate with the fewest Merges."""
    node = base if high is None else MergeRight(base, high)
    return node if low.is_one else MergeLeft(node, low)


def unshifted_remainder(node: MergeRight) -> Coordinate | None:
    """``r`` where the coordinate is ``shift(l*|r| + r, d) % |r|``: adding d and wrapping at a multiple of the block moves
    the remainder by d, whatever else there is. The two are not equal, but each determines the other."""
    inner = node.of
    while isinstance(inner, Shift):
        inner = inner.of
    return inner.right if isinstance(inner, Split) and inner.right.size == node.block else None


def determined(node: Coordinate, given: Collection[Coordinate]) -> bool:
    """Whether the values of ``given`` fix the value of a coordinate (as far as index identities tell)."""
    if node in given or _covered(node, given):
        return True
    return bool(node.bottom) and not isinstance(node, Unfold) and all(determined(c, given) for c in node.bottom)


def _covered(node: Coordinate, given: Collection[Coordinate]) -> bool:
    """Whether given digits of the same base cover those of a coordinate."""
    wanted = digit_range(node)
    ranges = [r for r in map(digit_range, given) if r.base == wanted.base]
    if isinstance(node, MergeRight) and isinstance(node.of, Shift):
        # A remainder after a shift is as good as the remainder before it.
        return determined(unshifted_remainder(node) or MergeRight(node.of.of, node.block), given)
    covered, left = {wanted.low}, [wanted.low]
    while left:
        at = left.pop()
        if at == wanted.high:
            return True
        for each in ranges:
            if _at_most(each.low, at) and each.high not in covered:
                if each.high is None or (wanted.high is not None and _at_most(wanted.high, each.high)):
                    return True
                covered.add(each.high)
                left.append(each.high)
    return False


def _at_most(small: Size, large: Size) -> bool:
    """Whether one boundary lies below another, or at it, for every value of the variables."""
    return all(e >= 0 for _, e in (large / small).powers)


__all__ = ['Boundary', 'DigitRange', 'boundaries', 'determined', 'digit_range', 'flat_merges', 'unshifted_remainder']
