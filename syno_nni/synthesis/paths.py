"""From an operator back to the steps that construct it."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cmp_to_key

from syno_nni.errors import SpaceError
from syno_nni.operator import Operator
from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, sibling
from syno_nni.operator.size import ONE, Size

from .construction import Action, Cut, Finish, Match, Reduce, View, Weigh
from .mixed_radix import DigitRange
from .rewriting import Context, data_nodes
from .weighing import order_key


def path(op: Operator, context: Context) -> list[Action]:
    """The steps that construct a canonical operator.

    Weights write digits with the fewest Merges each, the construction with one tree of Merges for all weights: the steps
    lead to an operator that is equal after canonicalization.

    Raises:
        SpaceError: the digits that weights use come from no tree of Merges.
    """
    actions: list[Action] = [Reduce(s) for s in op.reductions]
    data = data_nodes(op)
    whole = {*op.inputs, *(c for n in data for c in n.bottom if not isinstance(n, (MergeLeft, MergeRight)))}
    done: set[Coordinate] = set()
    for node in sorted((n for n in data if n.bottom), key=lambda n: (n.depth, repr(n))):
        if node not in done:
            new = _merged(node.of, node.block) if isinstance(node, (MergeLeft, MergeRight)) else (node,)
            done.update(new)
            actions.append(View('Merge' if len(new) > 1 else type(node).__name__, node.bottom, new))
    cells: dict[Coordinate, set[Size]] = {}
    for digits in (_digits_in(c, data) for w in op.weights for c in w):
        cells.setdefault(digits.base, set()).update(b for b in (digits.low, digits.high) if b is not None and b != ONE)
    cuts: list[Action] = []
    trees: dict[Coordinate, dict[DigitRange, Coordinate]] = {}
    for cell, bounds in cells.items():
        trees[cell], merges = _tree(cell, _descending(bounds, context, op))
        for of, block in merges:
            if cell in whole:
                cuts.append(Cut(of, block))
            else:
                actions.append(View('Merge', (of,), _merged(of, block)))
    weights = []
    for weight in op.weights:
        ranges = [_digits_in(c, data) for c in weight]
        weights.append(Weigh(tuple(sorted((p for r in ranges for p in _pieces(r, trees[r.base])), key=order_key))))
    return [*actions, Match(op.inputs), *cuts, *weights, Finish()]


def _merged(of: Coordinate, block: Size) -> tuple[Coordinate, ...]:
    return MergeLeft(of, block), MergeRight(of, block)


def _digits_in(node: Coordinate, data: frozenset[Coordinate]) -> DigitRange:
    """The digits that a coordinate is, of the last coordinate below it that the data has or leaves out."""
    if not isinstance(node, (MergeLeft, MergeRight)) or node in data or sibling(node) in data:
        return DigitRange(node, ONE, None)
    base, low, high = _digits_in(node.of, data)
    return DigitRange(base, low * node.block, high) if isinstance(node, MergeLeft) else DigitRange(base, low, low * node.block)


def _descending(bounds: Iterable[Size], context: Context, op: Operator) -> list[Size]:
    """Boundaries of digits from the top down."""
    def compare(a: Size, b: Size) -> int:
        if a == b:
            return 0
        if not (context.divides(a, b) or context.divides(b, a)):
            raise SpaceError(f'no path to {op}: weights cut a dimension at {a} and at {b}, and neither divides the other')
        return 1 if context.divides(a, b) else -1

    return sorted(sorted(bounds), key=cmp_to_key(compare))


def _tree(cell: Coordinate, bounds: Sequence[Size]) -> tuple[dict[DigitRange, Coordinate], list[tuple[Coordinate, Size]]]:
    """The Merges that cut ``cell`` at the boundaries, and every coordinate that they make, by its digits."""
    node = cell
    high: Size | None = None
    nodes: dict[DigitRange, Coordinate] = {DigitRange(cell, ONE, None): cell}
    merges = []
    for bound in bounds:
        merges.append((node, bound))
        nodes[DigitRange(cell, bound, high)] = MergeLeft(node, bound)
        node, high = MergeRight(node, bound), bound
        nodes[DigitRange(cell, ONE, high)] = node
    return nodes, merges


def _pieces(digits: DigitRange, tree: dict[DigitRange, Coordinate]) -> list[Coordinate]:
    """The coordinates of a tree that make up some digits: one, or neighbours from its top down."""
    pieces: list[Coordinate] = []
    while digits not in tree:
        top = next(r for r in tree if r.high == digits.high and not r.low.is_one)
        pieces.append(tree[top])
        digits = digits._replace(high=top.low)
    return [*pieces, tree[digits]]
