"""The last stage of the construction: which weights an operator may get.

A weight is indexed by coordinates of the graph in the form that the layout rules leave: iterators, halves of Merges and
unfolded dimensions. Merges that the data does not make may be made for the weights, for one step each.
"""
from __future__ import annotations

from collections.abc import Iterator as Iter
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, sibling

from .construction import Action, Cut, Finish, State, Weigh, dropped
from .mixed_radix import boundaries, determined, unshifted_remainder
from .signature import Signature
from .views import Views

Weight = tuple[Coordinate, ...]


class Weighing:
    """The weights of one signature."""

    def __init__(self, signature: Signature, views: Views) -> None:
        self.signature = signature
        self.views = views

    def weightable(self, state: State) -> list[Coordinate]:
        """Coordinates of the graph that may index a weight, in a fixed order."""
        nodes = set(state.nodes) | {Sum(i, s) for i, s in enumerate(state.reductions)}
        return sorted((n for n in nodes if self._fits(n)), key=order_key)

    def cuts(self, state: State) -> list[Cut]:
        """Merges that weights may make of what the data uses whole, in a fixed order; all of them precede the weights."""
        signature, limits = self.signature, self.signature.limits
        if state.weights or signature.steps_left(state) < 2 or 0 <= limits.merges <= len(state.merges):
            return []
        nodes = {n for c in state.inputs for n in c.walk()}
        whole = {*state.inputs, *(c for n in nodes for c in n.bottom if not isinstance(n, (MergeLeft, MergeRight)))}
        whole |= {half(of, block) for of, block in state.cuts for half in (MergeLeft, MergeRight)}
        found = []
        for node in sorted(whole, key=order_key):
            if isinstance(node, (Sum, Split, Stride, Shift)) or (isinstance(node, Out) and node.index in signature.tied):
                continue
            for block in signature.domain.blocks(node.size):
                halves = self.views.halves(node, block)
                if any(map(self._fits, halves)) and not boundaries(halves) & state.merges:
                    found.append(Cut(node, block))
        return found

    def _fits(self, node: Coordinate) -> bool:
        if isinstance(node, (Split, Shift, Stride)) or self.signature.banned(node.size):
            return False
        if isinstance(node, Out) and node.index in self.signature.tied:
            return False
        return not (isinstance(node, MergeRight) and unshifted_remainder(node) is not None)

    def needs(self, state: State) -> tuple[list[Coordinate], list[Sum]]:
        """What weights must still hold: dropped parts of the output, and reductions that two weights must share."""
        graph = state.operator
        in_data = {leaf for c in state.inputs for leaf in c.iterators()}
        given = {c for w in state.weights for c in w}
        parts = [c for c in dropped(graph) if not determined(c, given)]
        ranks = [s for s in graph.sums() if s not in in_data
                 and sum(any(leaf == s for c in w for leaf in c.iterators()) for w in state.weights) < 2]
        return parts, ranks

    def actions(self, state: State) -> list[Action]:
        """Every weight that may come next, and the end where nothing is missing."""
        signature = self.signature
        found: list[Action] = []
        parts, ranks = self.needs(state)
        repeats = max(signature.limits.repeats, 0) if signature.limits.repeats >= 0 else len(parts)
        if state.weights and len(parts) <= repeats and not ranks:
            found.append(Finish())
        left = signature.steps_left(state)
        if signature.limits.weights >= 0:
            left = min(left, signature.limits.weights - len(state.weights))
        if left <= 0:
            return found
        last = left == 1
        for weight in independent_sets(self.weightable(state)):
            if self.allowed(state, weight) and not (last and self._misses(Weigh(weight).apply(state))):
                found.append(Weigh(weight))
        return found + list(self.cuts(state))

    def _misses(self, state: State) -> bool:
        """Whether something would be missing if no more weight came."""
        parts, ranks = self.needs(state)
        return bool(ranks) or 0 <= self.signature.limits.repeats < len(parts)

    def allowed(self, state: State, weight: Weight) -> bool:
        """Whether the limits and budgets allow one more weight."""
        signature, rules = self.signature, self.signature.limits.heuristics
        if rules.reducing_weights and not any(isinstance(leaf, Sum) for c in weight for leaf in c.iterators()):
            return False
        for variable in signature.variables:
            if variable.primary:
                sizes = (*state.reductions, *(c.size for w in (*state.weights, weight) for c in w))
                if sum(abs(s.exponent(variable.name)) for s in sizes) > variable.budget:
                    return False
        elements: list[Fraction | int] = [1] * len(signature.bindings)
        for c in weight:
            elements = [e * r for e, r in zip(elements, signature.domain.ratios(c.size))]
        return not elements or min(elements) >= rules.min_weight


def order_key(node: Coordinate) -> tuple[int, str]:
    """What coordinates are sorted by: those that others are made of come first."""
    return node.depth, repr(node)


@lru_cache(maxsize=200_000)
def compatible(a: Coordinate, b: Coordinate) -> bool:
    """Whether one tensor may have both coordinates: what they share, they share through the two halves of one Merge,
    and they are not these halves themselves (which would be one coordinate in a simpler form)."""
    if isinstance(a, (MergeLeft, MergeRight)) and b == sibling(a):
        return False
    first, second = (_uses(n) for n in (a, b))
    for node in first.keys() & second.keys():
        users = first[node] | second[node]
        if len(users) > 1 and not (len(users) == 2 and None not in users and all(
                isinstance(u, (MergeLeft, MergeRight)) for u in users) and len({u.argument for u in users if u}) == 1):
            return False
        if None in users:
            return False
    return True


def _uses(node: Coordinate) -> dict[Coordinate, set[Coordinate | None]]:
    uses: dict[Coordinate, set[Coordinate | None]] = {node: {None}}
    for each in node.walk():
        for child in each.bottom:
            uses.setdefault(child, set()).add(each)
    return uses


def independent_sets(nodes: Sequence[Coordinate]) -> Iter[Weight]:
    """Every non-empty set of coordinates that may index one weight together."""
    def extend(at: int, chosen: Weight) -> Iter[Weight]:
        if at == len(nodes):
            if chosen:
                yield chosen
            return
        yield from extend(at + 1, chosen)
        if all(compatible(nodes[at], other) for other in chosen):
            yield from extend(at + 1, (*chosen, nodes[at]))

    yield from extend(0, ())


__all__ = ['Weighing', 'compatible', 'independent_sets', 'order_key']
