"""Explosions: which coordinates may stand for the dimensions of a tensor in place of others, and what that costs.

A tensor is seen as a set of *labels*: the coordinates that index its dimensions. Views cost nothing, so a label may be
exploded downwards, into the coordinates that it is computed from. Joining the halves of a Merge, undoing a Split, a Shift
or a Stride never enlarges a tensor, undoing an Unfold multiplies it by its window, and undoing one half of a Merge alone
expands the other.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Iterator as Iter

from .concrete import ConcreteOperator
from .expr import Coordinate, Iterator, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold, sibling
from .graph import Graph

Labels = frozenset[int]


def low_digits(half: MergeRight) -> Coordinate | None:
    """What ``half`` is without the parts of it that cannot matter: ``shift(h*s + r, 1) % s`` is ``shift(r, 1)``.

    A part with a window matters: where it leaves the dimension, the product is zero.
    """
    of = half.of
    if isinstance(of, Shift):
        inner = low_digits(MergeRight(of.of, half.block))
        return None if inner is None else Shift(inner, of.offset)
    if not isinstance(of, Split) or of.right.size != half.block or any(isinstance(n, Unfold) for n in of.left.walk()):
        return None
    return of.right


class Explosions:
    """The explosions of one operator, over nodes numbered from 0; public methods speak of coordinates."""

    def __init__(self, op: Graph | ConcreteOperator) -> None:
        self.nodes: list[Coordinate] = []
        self.number: dict[Coordinate, int] = {}
        self.below: list[int] = []        # all nodes strictly below, as a bit set
        self.edges: list[frozenset[tuple[int, int]]] = []  # all (parent, child) from the node down
        self.has_out: list[bool] = []
        self.leaves: list[int] = []       # the reductions below, as a bit set over reduction numbers
        self.others: list[int] = []       # the other half of a Merge, or -1
        self.uniform: list[bool] = []     # each value of the node stands for equally many values of its leaves
        self.tensors: list[Labels] = [frozenset(self._intern(c) for c in coordinates)
                                      for coordinates in (op.inputs, *op.weights)]

    # the graph
    def _intern(self, node: Coordinate) -> int:
        found = self.number.get(node)
        if found is not None:
            return found
        children = [self._intern(child) for child in node.bottom]
        at = self.number[node] = len(self.nodes)
        self.nodes.append(node)
        below, leaves = 0, 0
        edges = {(at, child) for child in children}
        for child in children:
            below |= self.below[child] | 1 << child
            leaves |= self.leaves[child]
            edges |= self.edges[child]
        if isinstance(node, Sum):
            leaves = 1 << node.index
        self.below.append(below)
        self.leaves.append(leaves)
        self.edges.append(frozenset(edges))
        self.has_out.append(isinstance(node, Out) or any(self.has_out[child] for child in children))
        self.uniform.append(isinstance(node, (Iterator, Split, Shift, MergeLeft, MergeRight))
                            and all(self.uniform[child] for child in children))
        self.others.append(-1)
        if isinstance(node, (MergeLeft, MergeRight)):
            self.others[at] = self._intern(sibling(node))
        return at

    # questions about coordinates
    def _numbers(self, labels: Iterable[Coordinate]) -> Labels:
        return frozenset(self._intern(label) for label in labels)

    def _coordinates(self, labels: Labels) -> frozenset[Coordinate]:
        """The coordinates that the numbers stand for."""
        return frozenset(self.nodes[label] for label in labels)

    def compatible(self, first: Iterable[Coordinate],
                   second: Iterable[Coordinate]) -> tuple[frozenset[Coordinate], frozenset[Coordinate]]:
        """Both sets of labels after the least explosion that lets them stand side by side."""
        left, right = self._compatible(self._numbers(first), self._numbers(second))
        return self._coordinates(left), self._coordinates(right)

    def exposed(self, labels: Iterable[Coordinate], private: Iterable[Sum]) -> frozenset[Coordinate]:
        """The labels after undoing, as far as nothing grows, what mixes a private reduction with something else."""
        return self._coordinates(self._exposed(self._numbers(labels), _mask(private)))

    def exposed_pair(self, left: Iterable[Coordinate], right: Iterable[Coordinate],
                     private: Iterable[Sum]) -> tuple[frozenset[Coordinate], frozenset[Coordinate]]:
        """`exposed` for two tensors about to be contracted: what both have is undone in both.

        The halves of a Merge that lie in different tensors are left alone: they meet in the product.
        """
        a, b = self._numbers(left), self._numbers(right)
        mask = _mask(private)
        while True:
            for label in a | b:
                if not self.leaves[label] & mask or self._pure(label, mask):
                    continue
                sides = [side for side in (a, b) if label in side]
                others = [side for side in (a, b) if label not in side]
                alone = not any(self._reductions(side) & self.leaves[label] & mask for side in others)
                alike = len({self.others[label] in side for side in sides}) == 1
                if alone and alike and all(self._free(side, label) for side in sides):
                    a, b = (self._explode(side, label) if label in side else side for side in (a, b))
                    break
            else:
                return self._coordinates(a), self._coordinates(b)

    def opened(self, labels: Iterable[Coordinate], reduction: Sum, private: Iterable[Sum]) -> frozenset[Coordinate]:
        """The labels after undoing what mixes a private reduction with something else, whatever it grows to."""
        return self._coordinates(self._opened(self._numbers(labels), reduction.index, _mask(private)))

    def pure(self, label: Coordinate, private: Iterable[Sum]) -> bool:
        """Whether a coordinate can simply be summed over."""
        return self._pure(self._intern(label), _mask(private))

    # explosions
    def _explode(self, labels: Labels, label: int) -> Labels:
        node = self.nodes[label]
        other = self.others[label]
        if isinstance(node, MergeRight) and other not in labels and (digits := low_digits(node)) is not None:
            return labels - {label} | {self._intern(digits)}
        return labels - {label, other} | {self.number[child] for child in node.bottom}

    def _free(self, labels: Labels, label: int) -> bool:
        """Whether undoing ``label`` leaves the tensor no larger."""
        node = self.nodes[label]
        if isinstance(node, (Split, Shift, Stride)) or self.others[label] in labels:
            return True
        below = self.below[label]
        return isinstance(node, MergeRight) and low_digits(node) is not None and not any(
            below & (self.below[other] | 1 << other) for other in labels if other != label)

    def _shrunk(self, labels: Labels) -> Labels:
        """Undoes strided dimensions, as far as nothing grows on the way."""
        while True:
            for label in labels:
                strided = isinstance(self.nodes[label], Stride) or any(
                    isinstance(self.nodes[n], Stride) for n in bits(self.below[label]))
                if strided and self._free(labels, label):
                    labels = self._explode(labels, label)
                    break
            else:
                return labels

    def _shared(self, sets: tuple[Labels, ...]) -> int:
        """The nodes that the tensors of these labels, side by side, compute more than one thing from."""
        edges: set[tuple[int, int]] = set()
        uses: Counter[int] = Counter()
        for label in frozenset().union(*sets):
            uses[label] += 1
            edges |= self.edges[label]
        parents: dict[int, list[int]] = {}
        for parent, child in edges:
            uses[child] += 1
            parents.setdefault(child, []).append(parent)
        shared = 0
        for node, count in uses.items():
            if count == 2:
                above = parents.get(node, ())
                if len(above) == 2 and self.others[above[0]] == above[1]:
                    continue
            if count > 1:
                shared |= 1 << node
        return shared

    def _compatible(self, first: Labels, second: Labels) -> tuple[Labels, Labels]:
        """Both sets of labels after the least explosion that lets them stand side by side."""
        sets = [first, second]
        while True:
            shared = self._shared((sets[0], sets[1]))
            if not shared:
                return sets[0], sets[1]
            for n, labels in enumerate(sets):
                # Deepest first, so that a half of a Merge is undone only once its other half is there, if it ever is.
                blocked = [label for label in labels if self.below[label] & shared]
                if blocked:
                    deepest = max(self.nodes[label].depth for label in blocked)
                    for label in blocked:
                        if label in labels and self.nodes[label].depth == deepest:
                            labels = self._explode(labels, label)
                    sets[n] = self._shrunk(labels)

    def _exposed(self, labels: Labels, private: int) -> Labels:
        """Undoes, as far as nothing grows, the labels that mix a private reduction with something else."""
        while True:
            for label in labels:
                if self.leaves[label] & private and not self._pure(label, private) and self._free(labels, label):
                    labels = self._explode(labels, label)
                    break
            else:
                return labels

    def _pure(self, label: int, private: int) -> bool:
        """Whether a label can simply be summed over."""
        return self.uniform[label] and not self.has_out[label] and not self.leaves[label] & ~private

    def _opened(self, labels: Labels, reduction: int, private: int) -> Labels:
        """Undoes labels until the private reduction can be summed, whatever they grow to."""
        bit = 1 << reduction
        while True:
            for label in sorted(labels, key=lambda n: -self.nodes[n].depth):
                if self.leaves[label] & bit and not self._pure(label, private):
                    labels = self._explode(labels, label)
                    break
            else:
                return labels

    def _reductions(self, labels: Labels) -> int:
        result = 0
        for label in labels:
            result |= self.leaves[label]
        return result


def _mask(reductions: Iterable[Sum]) -> int:
    result = 0
    for reduction in reductions:
        result |= 1 << reduction.index
    return result


def bits(mask: int) -> Iter[int]:
    """The positions of the bits that are set."""
    at = 0
    while mask:
        if mask & 1:
            yield at
        mask >>= 1
        at += 1
