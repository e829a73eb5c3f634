"""Canonical labelling: one representative for all isomorphic operators.

What may be relabelled is the order of the reductions, of the weights and of each weight's dimensions. Reductions that
reach the input are ordered by where they stand in it, since its coordinates are ordered. The rest occur in weights
only: they are told apart by colour refinement, and ties that refinement leaves are broken by trying every choice and
keeping the least result, skipping choices that an exchange of two reductions maps onto each other.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from .expr import Coordinate, Iterator, Out, Sum

if TYPE_CHECKING:
    from .operator import Operator

Colour = dict[int, tuple]
_KIND_ORDER = {'out': 0, 'sum': 1, 'split': 2, 'unfold': 3, 'shift': 4, 'stride': 5, 'div': 6, 'mod': 7}


def canonical_form(op: Operator) -> Operator:
    """The isomorphic operator in canonical order; the same object when it already is."""
    from .operator import Operator
    colours: Colour = {}
    for coordinate in op.inputs:
        for leaf in coordinate.iterators():
            if isinstance(leaf, Sum) and leaf.index not in colours:
                colours[leaf.index] = (0, len(colours))
    hidden = [i for i in range(len(op.reductions)) if i not in colours]
    for index in hidden:
        colours[index] = (1, op.reductions[index].sort_key)
    order = _order(_least(op, colours, hidden))
    return _relabel(op, order, Operator.trusted)


def total_key(op: Operator) -> tuple:
    """A totally ordered key of the isomorphism class: equal exactly for isomorphic operators."""
    form = canonical_form(op)
    colours = {i: (0, i) for i in range(len(form.reductions))}
    return (tuple(s.sort_key for s in form.outputs), tuple(s.sort_key for s in form.reductions),
            tuple(_key(c, colours) for c in form.inputs), tuple(tuple(_key(c, colours) for c in w) for w in form.weights))


def _order(colours: Colour) -> dict[int, int]:
    return {old: new for new, old in enumerate(sorted(colours, key=lambda i: (colours[i], i)))}


def _key(node: Coordinate, colours: Colour) -> tuple:
    """A totally ordered key of a coordinate, in terms of colours."""
    if isinstance(node, Iterator):
        return _KIND_ORDER[node.kind], colours[node.index] if isinstance(node, Sum) else node.index
    argument = node.argument
    return (_KIND_ORDER[node.kind], tuple(_key(c, colours) for c in node.bottom),
            argument.sort_key if hasattr(argument, 'sort_key') else (argument or 0))


def _weight_key(weight: tuple[Coordinate, ...], colours: Colour) -> tuple:
    return tuple(sorted(_key(c, colours) for c in weight))


def _refine(op: Operator, colours: Colour, hidden: list[int]) -> Colour:
    """Splits colours by where the hidden reductions occur, until nothing splits any more."""
    while True:
        marked = {}
        for index in hidden:
            mark = {**colours, index: (2,)}
            marked[index] = (colours[index], tuple(sorted(
                _weight_key(w, mark) for w in op.weights if any(_uses(c, index) for c in w))))
        ranks = {signature: rank for rank, signature in enumerate(sorted(set(marked.values())))}
        if len(ranks) == len({colours[i] for i in hidden}):
            return colours
        colours = {**colours, **{i: (1, (ranks[marked[i]],)) for i in hidden}}


def _uses(node: Coordinate, index: int) -> bool:
    return any(isinstance(leaf, Sum) and leaf.index == index for leaf in node.iterators())


def _least(op: Operator, colours: Colour, hidden: list[int]) -> Colour:
    colours = _refine(op, colours, hidden)
    cells: dict[tuple, list[int]] = {}
    for index in hidden:
        cells.setdefault(colours[index], []).append(index)
    tied = min((c for c in cells if len(cells[c]) > 1), default=None)
    if tied is None:
        return colours
    best, tried = None, []
    for index in cells[tied]:
        if any(_exchangeable(op, index, other) for other in tried):
            continue
        tried.append(index)
        # Just below its cell: refinement then separates the cell around the chosen reduction.
        chosen = _least(op, {**colours, index: (1, tied[1], 0), **{
            i: (1, tied[1], 1) for i in cells[tied] if i != index}}, hidden)
        encoded = sorted(_weight_key(w, chosen) for w in op.weights)
        if best is None or encoded < best[0]:
            best = encoded, chosen
    return best[1]


def _exchangeable(op: Operator, a: int, b: int) -> bool:
    """Whether exchanging two hidden reductions leaves the operator as it is."""
    same = {i: (0, i) for i in range(len(op.reductions))}
    exchanged = {**same, a: (0, b), b: (0, a)}
    return (op.reductions[a] == op.reductions[b] and Counter(_weight_key(w, same) for w in op.weights)
            == Counter(_weight_key(w, exchanged) for w in op.weights))


def _relabel(op: Operator, order: dict[int, int], make: Callable[..., Operator]) -> Operator:
    colours = {old: (0, new) for old, new in order.items()}
    weights = sorted((tuple(sorted(w, key=lambda c: _key(c, colours))) for w in op.weights),
                     key=lambda w: tuple(_key(c, colours) for c in w))
    if all(old == new for old, new in order.items()) and tuple(weights) == op.weights:
        return op
    reductions = [op.reductions[old] for old in sorted(order, key=order.__getitem__)]

    def rename(node: Coordinate) -> Coordinate:
        if isinstance(node, Sum):
            return Sum(order[node.index], node.size)
        return node if isinstance(node, Out) else node.rebuild(*(rename(c) for c in node.bottom))

    return make(op.outputs, reductions, [rename(c) for c in op.inputs], [[rename(c) for c in w] for w in weights])
