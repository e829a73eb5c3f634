"""Views: which primitives may be applied to the live coordinates of a state.

A view is refused where the limits or the heuristics forbid it, and where a canonicalization rule would undo it whatever
steps follow. Views are remembered by what they are made of, so that equal coordinates are mostly identical objects.
"""
from __future__ import annotations

import itertools
from collections.abc import Hashable
from collections.abc import Iterator as Iter
from typing import TYPE_CHECKING

from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold
from syno_nni.operator.size import Size

from .construction import State, View
from .membership import node_complaint

if TYPE_CHECKING:
    from .space import OperatorSpace

MAX_KNOWN = 200_000
KINDS = ('Split', 'Unfold', 'Merge', 'Shift', 'Stride')
_COUNTED: dict[str, type[Coordinate]] = {'Split': Split, 'Unfold': Unfold, 'Merge': MergeLeft, 'Shift': Shift,
                                         'Stride': Stride}


class Views:
    """The views of one space."""

    def __init__(self, space: OperatorSpace) -> None:
        self.space = space
        self._known: dict[Hashable, View | None] = {}
        self._blocks: dict[Coordinate, tuple[Size, ...]] = {}
        self.strides = tuple(Size([(v.name, 1)]) for v in space.domain.usable() if not v.primary)

    def left(self, state: State, kind: str) -> bool:
        """Whether the count limits leave room for one more primitive of a kind."""
        limit: int = getattr(self.space.limits, kind.lower() + 's')
        return limit < 0 or state.count(_COUNTED[kind]) < limit

    def all(self, state: State) -> Iter[View]:
        """Every view that may be applied, in a fixed order, whatever the shape distance says."""
        for kind in KINDS:
            if self.left(state, kind):
                yield from self.of_kind(state, kind)

    def of_kind(self, state: State, kind: str) -> Iter[View]:
        """Every view of one kind that may be applied."""
        live = state.live
        found: Iter[View | None]
        if kind == 'Split':
            found = (self.split(a, b) for a, b in itertools.permutations(live, 2))
        elif kind == 'Unfold':
            found = (self.unfold(a, b) for b in live if self.space.domain.window(b.size) for a in live if a is not b)
        elif kind == 'Merge':
            found = (self.merge(a, block) for a in live for block in self.space.domain.blocks(a.size))
        elif kind == 'Shift':
            found = (self.shift(a) for a in live)
        else:
            found = (self.stride(a, step) for a in live for step in self.strides)
        return (view for view in found if view is not None)

    # ---- one view: None where it is refused ----

    def split(self, left: Coordinate, right: Coordinate) -> View | None:
        key = (Split, left, right)
        if key not in self._known:
            self._remember(key, None if isinstance(left, Split) or _halves(left, right) else View(
                'Split', (left, right), (Split(left, right),)))
        return self._known[key]

    def unfold(self, left: Coordinate, window: Coordinate) -> View | None:
        key = (Unfold, left, window)
        if key not in self._known:
            self._remember(key, View('Unfold', (left, window), (Unfold(left, window),)))
        return self._known[key]

    def merge(self, node: Coordinate, block: Size) -> View | None:
        key = (MergeLeft, node, block)
        if key not in self._known:
            undone = isinstance(node, (Sum, MergeLeft)) or self._commutes(node, block)
            self._remember(key, None if undone else View('Merge', (node,), (MergeLeft(node, block), MergeRight(node, block))))
        return self._known[key]

    def halves(self, node: Coordinate, block: Size) -> tuple[Coordinate, ...]:
        """The halves of a Merge that only weights use; none where it is refused."""
        if isinstance(node, (Sum, Split, Shift, Stride)):
            return ()  # as an index of a weight, they are as good as what they are made of
        key = (MergeRight, node, block)
        if key not in self._known:
            self._remember(key, View('Merge', (node,), (MergeLeft(node, block), MergeRight(node, block))))
        view = self._known[key]
        return () if view is None else view.new

    def shift(self, node: Coordinate) -> View | None:
        key = (Shift, node)
        if key not in self._known:
            undone = isinstance(node, (Sum, Shift)) or (isinstance(node, Out) and node.index in self.space.unordered_outputs)
            self._remember(key, None if undone else View('Shift', (node,), (Shift(node, 1),)))
        return self._known[key]

    def stride(self, node: Coordinate, step: Size) -> View | None:
        key = (Stride, node, step)
        if key not in self._known:
            undone = isinstance(node, (Sum, Stride, Unfold))
            self._remember(key, None if undone else View('Stride', (node,), (Stride(node, step),)))
        return self._known[key]

    def _remember(self, key: Hashable, view: View | None) -> None:
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        if view is not None and any(node_complaint(self.space, n) is not None for n in view.new):
            view = None
        self._known[key] = view

    def _commutes(self, node: Coordinate, block: Size) -> bool:
        """Whether a Merge of a Split is a Split of Merges or nothing at all (rule merge-of-split)."""
        if not isinstance(node, Split):
            return False
        inner = node.right.size
        divides = self.space.context.divides
        return block == inner or divides(block, inner) or divides(inner, block)


def _halves(left: Coordinate, right: Coordinate) -> bool:
    """Whether a Split of the two would undo a Merge."""
    return (isinstance(left, MergeLeft) and isinstance(right, MergeRight) and left.of == right.of
            and left.block == right.block)
