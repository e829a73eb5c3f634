"""Views: which primitives may be applied to the live coordinates of a state.

A view is refused where the limits or the heuristics forbid it, and where a canonicalization rule would undo it whatever
steps follow. Views are remembered by what they are made of, so that equal coordinates are mostly identical objects.

`LISTED` and `DRAWN` are the place to add a primitive to the construction: one row says which primitive it is, how all of
its views are listed, and how a random one is drawn.
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from collections.abc import Iterator as Iter
from dataclasses import dataclass

from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold
from syno_nni.operator.size import Size

from .construction import MERGE, SHIFT, SPLIT, STRIDE, UNFOLD, Primitive, State, View
from .membership import node_complaint
from .randomness import Random
from .signature import Signature

MAX_KNOWN = 200_000


class Views:
    """The views of one space."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._known: dict[Hashable, View | None] = {}
        self.strides = tuple(Size([(v.name, 1)]) for v in signature.domain.usable() if not v.primary)

    def left(self, state: State, primitive: Primitive) -> bool:
        """Whether the count limits leave room for one more primitive of a kind."""
        limit: int = getattr(self.signature.limits, primitive.limit)
        return limit < 0 or state.count(primitive.node) < limit

    def all(self, state: State) -> Iter[View]:
        """Every view that may be applied, in a fixed order, whatever the shape distance says."""
        for kind in LISTED:
            if self.left(state, kind.primitive):
                yield from (view for view in kind.every(self, state.live) if view is not None)

    # ---- one view: None where it is refused ----

    def split(self, left: Coordinate, right: Coordinate) -> View | None:
        key = (Split, left, right)
        if key not in self._known:
            self._remember(key, None if isinstance(left, Split) or _halves(left, right) else View(
                SPLIT.name, (left, right), (Split(left, right),)))
        return self._known[key]

    def unfold(self, left: Coordinate, window: Coordinate) -> View | None:
        key = (Unfold, left, window)
        if key not in self._known:
            self._remember(key, View(UNFOLD.name, (left, window), (Unfold(left, window),)))
        return self._known[key]

    def merge(self, node: Coordinate, block: Size) -> View | None:
        key = (MergeLeft, node, block)
        if key not in self._known:
            undone = isinstance(node, (Sum, MergeLeft)) or self._commutes(node, block)
            self._remember(key, None if undone else _merge(node, block))
        return self._known[key]

    def halves(self, node: Coordinate, block: Size) -> tuple[Coordinate, ...]:
        """The halves of a Merge that only weights use; none where it is refused."""
        if isinstance(node, (Sum, Split, Shift, Stride)):
            return ()  # as an index of a weight, they are as good as what they are made of
        key = (MergeRight, node, block)
        if key not in self._known:
            self._remember(key, _merge(node, block))
        view = self._known[key]
        return () if view is None else view.new

    def shift(self, node: Coordinate) -> View | None:
        key = (Shift, node)
        if key not in self._known:
            unordered = isinstance(node, Out) and node.index in self.signature.unordered_outputs
            undone = unordered or isinstance(node, (Sum, Shift))
            self._remember(key, None if undone else View(SHIFT.name, (node,), (Shift(node, 1),)))
        return self._known[key]

    def stride(self, node: Coordinate, step: Size) -> View | None:
        key = (Stride, node, step)
        if key not in self._known:
            undone = isinstance(node, (Sum, Stride, Unfold))
            self._remember(key, None if undone else View(STRIDE.name, (node,), (Stride(node, step),)))
        return self._known[key]

    def _remember(self, key: Hashable, view: View | None) -> None:
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        if view is not None and any(node_complaint(self.signature, n) is not None for n in view.new):
            view = None
        self._known[key] = view

    def _commutes(self, node: Coordinate, block: Size) -> bool:
        """Whether a Merge of a Split is a Split of Merges or nothing at all (rule merge-of-split)."""
        if not isinstance(node, Split):
            return False
        inner = node.right.size
        divides = self.signature.context.divides
        return block == inner or divides(block, inner) or divides(inner, block)


def _merge(node: Coordinate, block: Size) -> View:
    return View(MERGE.name, (node,), (MergeLeft(node, block), MergeRight(node, block)))


def _halves(left: Coordinate, right: Coordinate) -> bool:
    """Whether a Split of the two would undo a Merge."""
    return (isinstance(left, MergeLeft) and isinstance(right, MergeRight) and left.of == right.of
            and left.block == right.block)


# ---- kinds of views ----

Live = tuple[Coordinate, ...]


@dataclass(frozen=True, eq=False)
class ViewKind:
    """How views of one kind are found among live coordinates; None stands for one that is refused.

    Attributes:
        primitive: what the view applies.
        chance: how often the kind is drawn, relative to the others that are possible.
        every: all views, in a fixed order.
        draw: a random one.
    """

    primitive: Primitive
    chance: float
    every: Callable[[Views, Live], Iter[View | None]]
    draw: Callable[[Views, Live, Random], View | None]


def _splits(views: Views, live: Live) -> Iter[View | None]:
    return (views.split(a, b) for a, b in itertools.permutations(live, 2))


def _draw_split(views: Views, live: Live, random: Random) -> View | None:
    first, second = random.choice(live), random.choice(live)
    return None if first is second else views.split(first, second)


def _unfolds(views: Views, live: Live) -> Iter[View | None]:
    window = views.signature.domain.window
    return (views.unfold(a, b) for b in live if window(b.size) for a in live if a is not b)


def _draw_unfold(views: Views, live: Live, random: Random) -> View | None:
    first, second = random.choice(live), random.choice(live)
    return None if first is second else views.unfold(first, second)


def _draw_convolution(views: Views, live: Live, random: Random) -> View | None:
    """A window that is a reduction by itself, along a dimension of the output that has an order: what convolutions do."""
    along = [c for c in live if views.signature.banned(c.size)]
    windows = [c for c in live if isinstance(c, Sum) and views.signature.domain.window(c.size)]
    return views.unfold(random.choice(along), random.choice(windows)) if along and windows else None


def _merges(views: Views, live: Live) -> Iter[View | None]:
    return (views.merge(a, block) for a in live for block in views.signature.domain.blocks(a.size))


def _draw_merge(views: Views, live: Live, random: Random) -> View | None:
    node = random.choice(live)
    blocks = views.signature.domain.blocks(node.size)
    return views.merge(node, random.choice(blocks)) if blocks else None


def _shifts(views: Views, live: Live) -> Iter[View | None]:
    return map(views.shift, live)


def _draw_shift(views: Views, live: Live, random: Random) -> View | None:
    return views.shift(random.choice(live))


def _strides(views: Views, live: Live) -> Iter[View | None]:
    return (views.stride(a, step) for a in live for step in views.strides)


def _draw_stride(views: Views, live: Live, random: Random) -> View | None:
    node = random.choice(live)
    return views.stride(node, random.choice(views.strides)) if views.strides else None


_SPLIT = ViewKind(SPLIT, 2.5, _splits, _draw_split)
_UNFOLD = ViewKind(UNFOLD, 1.0, _unfolds, _draw_unfold)
_CONVOLUTION = ViewKind(UNFOLD, 6.0, _unfolds, _draw_convolution)
_MERGE = ViewKind(MERGE, 1.2, _merges, _draw_merge)
_SHIFT = ViewKind(SHIFT, 0.7, _shifts, _draw_shift)
_STRIDE = ViewKind(STRIDE, 0.7, _strides, _draw_stride)

# Each view is listed once; a kind may be drawn in several ways. What a seed gives depends on both orders: append.
LISTED = (_SPLIT, _UNFOLD, _MERGE, _SHIFT, _STRIDE)
DRAWN = (_CONVOLUTION, _SPLIT, _UNFOLD, _SHIFT, _STRIDE, _MERGE)

__all__ = ['DRAWN', 'LISTED', 'ViewKind', 'Views']
