"""Canonical labelling: one representative for all isomorphic operators.

What may be relabelled is the order of the reductions, of the weights and of each weight's dimensions. Reductions that
reach the input are ordered by where they stand in it, since its coordinates are ordered. The rest occur in weights
only: they are told apart by colour refinement, and ties that refinement leaves are broken by trying every choice and
keeping the least result, skipping choices that a symmetry of the operator maps onto each other.
"""
from __future__ import annotations

from collections import Counter
from typing import Any

from .expr import Coordinate, Iterator, Out, Sum
from .graph import G, Graph
from .size import Size

Key = tuple[Any, ...]  # totally ordered among its kind
Colours = dict[int, Key]
_KIND_ORDER = {'out': 0, 'sum': 1, 'split': 2, 'unfold': 3, 'shift': 4, 'stride': 5, 'div': 6, 'mod': 7}


def canonical_form(op: G) -> G:
    """The isomorphic graph in canonical order, of the same class; the same object when it already is."""
    colours: Colours = {}
    for coordinate in op.inputs:
        for leaf in coordinate.iterators():
            if isinstance(leaf, Sum) and leaf.index not in colours:
                colours[leaf.index] = (0, len(colours))
    hidden = [i for i in range(len(op.reductions)) if i not in colours]
    for index in hidden:
        colours[index] = (1, op.reductions[index].sort_key)
    order = _order(_Labelling(op, hidden).least(colours) if len(hidden) > 1 else colours)
    return _relabel(op, order)


def total_key(op: Graph) -> Key:
    """A totally ordered key of the isomorphism class: equal exactly for isomorphic operators."""
    form = canonical_form(op)
    colours = {i: (0, i) for i in range(len(form.reductions))}
    return (tuple(s.sort_key for s in form.outputs), tuple(s.sort_key for s in form.reductions),
            tuple(_key(c, colours) for c in form.inputs),
            tuple(tuple(_key(c, colours) for c in w) for w in form.weights))


def _order(colours: Colours) -> dict[int, int]:
    return {old: new for new, old in enumerate(sorted(colours, key=lambda i: (colours[i], i)))}


def _key(node: Coordinate, colours: Colours) -> Key:
    """A totally ordered key of a coordinate, in terms of colours."""
    if isinstance(node, Iterator):
        return _KIND_ORDER[node.kind], colours[node.index] if isinstance(node, Sum) else node.index
    argument = node.argument
    return (_KIND_ORDER[node.kind], tuple(_key(c, colours) for c in node.bottom),
            argument.sort_key if isinstance(argument, Size) else (argument or 0))


def _weight_key(weight: tuple[Coordinate, ...], colours: Colours) -> Key:
    return tuple(sorted(_key(c, colours) for c in weight))


class _Labelling:
    """The canonical order of the reductions that only weights use.

    A tree: every node refines its colours; where reductions stay tied, each is tried as the first of its cell. A leaf
    orders all reductions; the least encoding of the weights wins. Two leaves with equal encodings differ by an
    automorphism. It maps one branch of their common ancestor onto another, so the visit returns to that ancestor, and
    choices that known automorphisms map onto each other are tried once: symmetric operators cost a polynomial number
    of leaves (McKay, "Practical graph isomorphism", 1981).
    """

    def __init__(self, op: Graph, hidden: list[int]) -> None:
        self.op = op
        self.hidden = hidden
        self.sums = [{leaf.index for c in w for leaf in c.iterators() if isinstance(leaf, Sum)} for w in op.weights]
        self.best: list[Key] | None = None
        self.best_colours: Colours = {}
        self.best_path: tuple[int, ...] = ()
        self.automorphisms: list[dict[int, int]] = []

    def least(self, colours: Colours) -> Colours:
        """The colours of the least leaf; all different."""
        self._visit(colours, ())
        return self.best_colours

    def _visit(self, colours: Colours, path: tuple[int, ...]) -> int:
        """Explores a node; returns the depth to go back to."""
        colours = self._refine(colours)
        cells: dict[Key, list[int]] = {}
        for index in self.hidden:
            cells.setdefault(colours[index], []).append(index)
        tied = min((c for c in cells if len(cells[c]) > 1), default=None)
        if tied is None:
            return self._leaf(colours, path)
        tried: list[int] = []
        for index in cells[tied]:
            self.automorphisms += [{index: other, other: index} for other in tried if self._exchangeable(index, other)]
            if self._orbit(index, path) & set(tried):
                continue
            tried.append(index)
            # Just below its cell: refinement then separates the cell around the chosen reduction.
            chosen = {**colours, **dict.fromkeys(cells[tied], (*tied, 1)), index: (*tied, 0)}
            if (back := self._visit(chosen, (*path, index))) < len(path):
                return back
        return len(path)

    def _leaf(self, colours: Colours, path: tuple[int, ...]) -> int:
        encoded = sorted(_weight_key(w, self._rank(colours)) for w in self.op.weights)
        if self.best is None or encoded < self.best:
            self.best, self.best_colours, self.best_path = encoded, colours, path
        elif encoded == self.best:
            order = sorted(self.hidden, key=colours.__getitem__)
            best = sorted(self.hidden, key=self.best_colours.__getitem__)
            self.automorphisms.append({a: b for a, b in zip(best, order) if a != b})
            return next(d for d, (a, b) in enumerate(zip(path, self.best_path)) if a != b)
        return len(path)

    def _rank(self, colours: Colours) -> Colours:
        """The same order, written alike whatever refinements led to it."""
        return {i: (0, rank) for rank, i in enumerate(sorted(colours, key=colours.__getitem__))}

    def _orbit(self, index: int, fixed: tuple[int, ...]) -> set[int]:
        """What the known automorphisms that fix ``fixed`` map ``index`` to."""
        usable = [m for m in self.automorphisms if not any(f in m for f in fixed)]
        orbit, frontier = {index}, [index]
        while frontier:
            at = frontier.pop()
            for mapping in usable:
                # Images alone suffice: an automorphism's powers contain its inverse.
                if (image := mapping.get(at, at)) not in orbit:
                    orbit.add(image)
                    frontier.append(image)
        return orbit

    def _refine(self, colours: Colours) -> Colours:
        """Splits colours by where the hidden reductions occur, until nothing splits any more."""
        count = len({colours[i] for i in self.hidden})
        while count < len(self.hidden):
            signatures = {}
            for index in self.hidden:
                marked = {**colours, index: (2,)}
                signatures[index] = (colours[index], tuple(sorted(
                    _weight_key(w, marked) for w, sums in zip(self.op.weights, self.sums) if index in sums)))
            ranks = {signature: rank for rank, signature in enumerate(sorted(set(signatures.values())))}
            if len(ranks) == count:
                break
            count = len(ranks)
            colours = {**colours, **{i: (1, (ranks[signatures[i]],)) for i in self.hidden}}
        return colours

    def _exchangeable(self, a: int, b: int) -> bool:
        """Whether exchanging two hidden reductions leaves the operator as it is."""
        same = {i: (0, i) for i in range(len(self.op.reductions))}
        exchanged = {**same, a: (0, b), b: (0, a)}
        return self.op.reductions[a] == self.op.reductions[b] and (
            Counter(_weight_key(w, same) for w in self.op.weights)
            == Counter(_weight_key(w, exchanged) for w in self.op.weights))


def _relabel(op: G, order: dict[int, int]) -> G:
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

    return op.trusted(op.outputs, reductions, [rename(c) for c in op.inputs], [[rename(c) for c in w] for w in weights])
