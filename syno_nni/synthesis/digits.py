"""Digits: what Merges make of a coordinate.

Merging a coordinate x again and again writes it in a mixed radix. Every half of such a Merge is a run of digits of x:
``x // B`` is the digits from B up, ``x % B`` those below B, ``(x % C) // B`` those from B to C. Two halves are compared
by their base x and the boundaries of their run, however the Merges are nested.
"""
from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Shift, Split, Unfold
from syno_nni.operator.size import ONE, Size

Boundary = tuple[Coordinate, Size]


class Run(NamedTuple):
    """The digits of ``base`` from ``low`` up to ``high``; to the top if ``high`` is None."""

    base: Coordinate
    low: Size
    high: Size | None


def run_of(node: Coordinate) -> Run:
    """The run that a coordinate is; a coordinate that is no half of a Merge is all of its own digits."""
    if isinstance(node, MergeLeft):
        run = run_of(node.of)
        return Run(run.base, run.low * node.block, run.high)
    if isinstance(node, MergeRight):
        run = run_of(node.of)
        return Run(run.base, run.low, run.low * node.block)
    return Run(node, ONE, None)


def boundaries(nodes: Iterable[Coordinate]) -> frozenset[Boundary]:
    """Where Merges cut which base: as many as there are Merges in a tree of them."""
    found = set()
    for node in nodes:
        if isinstance(node, (MergeLeft, MergeRight)):
            run = run_of(node.of)
            found.add((run.base, run.low * node.block))
    return frozenset(found)


def flat(base: Coordinate, low: Size, high: Size | None) -> Coordinate:
    """A run of the digits of ``base`` with the fewest Merges."""
    node = base if high is None else MergeRight(base, high)
    return node if low.is_one else MergeLeft(node, low)


def low_digits(node: MergeRight) -> Coordinate | None:
    """``r`` where the coordinate is ``shift(l*|r| + r, d) % |r|``: adding d and wrapping at a multiple of the block moves
    the remainder by d, whatever else there is."""
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
    """Whether given runs of the same base cover the run of a coordinate."""
    wanted = run_of(node)
    runs = [r for r in map(run_of, given) if r.base == wanted.base]
    if isinstance(node, MergeRight) and isinstance(node.of, Shift):
        # A remainder after a shift is as good as the remainder before it.
        return determined(low_digits(node) or MergeRight(node.of.of, node.block), given)
    reached, left = {wanted.low}, [wanted.low]
    while left:
        at = left.pop()
        if at == wanted.high:
            return True
        for run in runs:
            if _at_most(run.low, at) and run.high not in reached:
                if run.high is None or (wanted.high is not None and _at_most(wanted.high, run.high)):
                    return True
                reached.add(run.high)
                left.append(run.high)
    return False


def _at_most(small: Size, large: Size) -> bool:
    """Whether one boundary lies below another, or at it, for every value of the variables."""
    return all(e >= 0 for _, e in (large / small).powers)
