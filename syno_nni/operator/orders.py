"""Evaluation orders: in which stages an operator may be computed, and the multiply-adds of each.

A tensor is a *cut*: the set of coordinates that index its dimensions. Views cost nothing, so a cut may be exploded
downwards, primitive by primitive; joining the halves of a Merge, undoing a Split, a Shift or a Stride never enlarges a
tensor, undoing an Unfold multiplies it by its window, and undoing one half of a Merge alone expands the other. A stage

* contracts two tensors, after the least explosion that lets the union of their cuts stand side by side (no coordinate
  of it is computed from something that another one is computed from, except through the two halves of a Merge), and
  sums every reduction that no other tensor uses; it costs one multiply-add for each element of the union; or
* sums a reduction within one tensor; it costs one addition for each element summed.

Windows are exploded as late as possible and strided dimensions as early as possible. Weights may be contracted with
each other. Every order is enumerated (memoised over states; orders whose stages include all the stages of another are
dropped), so that the least cost at any number of bindings takes one enumeration.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Iterator as Iter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from .expr import Coordinate, Iterator, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold, sibling
from .size import ONE, Binding, Size

if TYPE_CHECKING:
    from .concrete import ConcreteOperator
    from .operator import Operator

Cut = frozenset[int]
Tensor = tuple[int, Cut]  # the tensors that went in, as a bit set (bit 0 is the input), and the cut
State = frozenset[Tensor]

MAX_STATES = 600
"""Above this many states (operators with many weights) each further state is finished greedily."""


@dataclass(frozen=True)
class Stage:
    """One step of an order.

    Attributes:
        operands: what it reads, as bit sets of original tensors (bit 0 the input, bit i weight i); one or two.
        sources: the coordinates of each operand before the stage.
        cut: all coordinates that the stage loops over; its cost is the product of their sizes.
        summed: those of ``cut`` that it sums away.
    """
    operands: tuple[int, ...]
    sources: tuple[frozenset[Coordinate], ...]
    cut: frozenset[Coordinate]
    summed: frozenset[Coordinate]

    @cached_property
    def size(self) -> Size:
        """The multiply-adds of the stage."""
        return _volume(self.cut)

    @property
    def result(self) -> frozenset[Coordinate]:
        return self.cut - self.summed

    @property
    def mask(self) -> int:
        """The original tensors that its result depends on."""
        return sum(self.operands)

    @property
    def on_data(self) -> bool:
        """Whether it depends on the input; if not, it can be computed ahead of inference."""
        return bool(self.mask & 1)


@dataclass(frozen=True)
class Order:
    """Stages that compute an operator, first to last."""
    stages: tuple[Stage, ...]

    @cached_property
    def monomials(self) -> tuple[Size, ...]:
        """The multiply-adds of every stage."""
        return tuple(stage.size for stage in self.stages)

    def macs(self, sizes: Binding, *, folded: bool = False) -> int:
        """Multiply-adds at a binding; ``folded`` leaves out the stages among weights alone."""
        return sum(s.size.value(sizes) for s in self.stages if s.on_data or not folded)


def orders(op: Operator) -> tuple[Order, ...]:
    """Every evaluation order that could be the cheapest at some binding."""
    search = _search(op)
    return tuple(Order(tuple(search.stage(step) for step in path)) for path in search.paths)


def least_macs(op: Operator, values: dict[Size, int]) -> int:
    """The multiply-adds of the cheapest order; ``values`` looks sizes up (see `syno_nni.operator.cost.table`)."""
    return min(sum(values[size] for size in path) for path in _search(op).costs)


def _search(op: Operator) -> Search:
    found = op.__dict__.get('_evaluation')  # kept with the operator: it is immutable, and hashing it is dear
    if found is None:
        found = op.__dict__['_evaluation'] = Search(op)
    return found


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


def _volume(cut: Iterable[Coordinate]) -> Size:
    """The product of sizes: a sum of exponents, far quicker than multiplying one by one."""
    powers: Counter[str] = Counter()
    coefficient = ONE.coefficient
    for node in cut:
        size = node.size
        for variable, exponent in size.powers:
            powers[variable] += exponent
        if size.coefficient != 1:
            coefficient = coefficient * size.coefficient
    return Size(powers.items(), coefficient, internal=True)


@dataclass(frozen=True)
class _Step:
    operands: tuple[int, ...]
    sources: tuple[Cut, ...]
    cut: Cut
    summed: Cut


Path = tuple[_Step, ...]


class Search:
    """The enumeration for one operator, over nodes numbered from 0."""

    def __init__(self, op: Operator | ConcreteOperator) -> None:
        self.nodes: list[Coordinate] = []
        self.number: dict[Coordinate, int] = {}
        self.below: list[int] = []        # all nodes strictly below, as a bit set
        self.edges: list[frozenset[tuple[int, int]]] = []  # all (parent, child) from the node down
        self.has_out: list[bool] = []
        self.leaves: list[int] = []       # the reductions below, as a bit set over reduction numbers
        self.others: list[int] = []       # the other half of a Merge, or -1
        self.uniform: list[bool] = []     # each value of the node stands for equally many values of its leaves
        tensors = [frozenset(self._intern(c) for c in coordinates) for coordinates in (op.inputs, *op.weights)]
        self.known: dict[State, list[Path]] = {}
        self.volumes: dict[Cut, Size] = {}
        start = frozenset((1 << n, self._shrunk(cut)) for n, cut in enumerate(tensors))
        self.paths: list[Path] = self._paths(start)
        self.costs: list[tuple[Size, ...]] = [tuple(self.volume(step.cut) for step in path) for path in self.paths]

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

    def volume(self, cut: Cut) -> Size:
        found = self.volumes.get(cut)
        if found is None:
            found = self.volumes[cut] = _volume(self.nodes[label] for label in cut)
        return found

    def stage(self, step: _Step) -> Stage:
        names = self.nodes
        return Stage(step.operands, tuple(frozenset(names[n] for n in cut) for cut in step.sources),
                     frozenset(names[n] for n in step.cut), frozenset(names[n] for n in step.summed))

    # for lowering: the same questions about coordinates
    def cut(self, labels: Iterable[Coordinate]) -> Cut:
        return frozenset(self._intern(label) for label in labels)

    def labels(self, cut: Cut) -> frozenset[Coordinate]:
        return frozenset(self.nodes[label] for label in cut)

    def compatible(self, first: Iterable[Coordinate],
                   second: Iterable[Coordinate]) -> tuple[frozenset[Coordinate], frozenset[Coordinate]]:
        """Both cuts after the least explosion that lets them stand side by side."""
        left, right = self._compatible(self.cut(first), self.cut(second))
        return self.labels(left), self.labels(right)

    def exposed(self, labels: Iterable[Coordinate], private: Iterable[Sum]) -> frozenset[Coordinate]:
        """The cut after undoing, as far as nothing grows, what mixes a private reduction with something else."""
        return self.labels(self._exposed(self.cut(labels), _mask(private)))

    def exposed_pair(self, left: Iterable[Coordinate], right: Iterable[Coordinate],
                     private: Iterable[Sum]) -> tuple[frozenset[Coordinate], frozenset[Coordinate]]:
        """`exposed` for two tensors about to be contracted: what both have is undone in both.

        The halves of a Merge that lie in different tensors are left alone: they meet in the product.
        """
        a, b = self.cut(left), self.cut(right)
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
                return self.labels(a), self.labels(b)

    def opened(self, labels: Iterable[Coordinate], reduction: Sum, private: Iterable[Sum]) -> frozenset[Coordinate]:
        """The cut after undoing what mixes a private reduction with something else, whatever it grows to."""
        return self.labels(self._opened(self.cut(labels), reduction.index, _mask(private)))

    def pure(self, label: Coordinate, private: Iterable[Sum]) -> bool:
        """Whether a coordinate can simply be summed over."""
        return self._pure(self._intern(label), _mask(private))

    # explosions
    def _explode(self, cut: Cut, label: int) -> Cut:
        node = self.nodes[label]
        other = self.others[label]
        if isinstance(node, MergeRight) and other not in cut and (digits := low_digits(node)) is not None:
            return cut - {label} | {self._intern(digits)}
        return cut - {label, other} | {self.number[child] for child in node.bottom}

    def _free(self, cut: Cut, label: int) -> bool:
        """Whether undoing ``label`` leaves the tensor no larger."""
        node = self.nodes[label]
        if isinstance(node, (Split, Shift, Stride)) or self.others[label] in cut:
            return True
        below = self.below[label]
        return isinstance(node, MergeRight) and low_digits(node) is not None and not any(
            below & (self.below[other] | 1 << other) for other in cut if other != label)

    def _shrunk(self, cut: Cut) -> Cut:
        """Undoes strided dimensions, as far as nothing grows on the way."""
        while True:
            for label in cut:
                strided = isinstance(self.nodes[label], Stride) or any(
                    isinstance(self.nodes[n], Stride) for n in _bits(self.below[label]))
                if strided and self._free(cut, label):
                    cut = self._explode(cut, label)
                    break
            else:
                return cut

    def _shared(self, cuts: tuple[Cut, ...]) -> int:
        """The nodes that the cuts, side by side, compute more than one thing from."""
        edges: set[tuple[int, int]] = set()
        uses: Counter[int] = Counter()
        for label in frozenset().union(*cuts):
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

    def _compatible(self, first: Cut, second: Cut) -> tuple[Cut, Cut]:
        """Both cuts after the least explosion that lets them stand side by side."""
        cuts = [first, second]
        while True:
            shared = self._shared((cuts[0], cuts[1]))
            if not shared:
                return cuts[0], cuts[1]
            for n, cut in enumerate(cuts):
                # Deepest first, so that a half of a Merge is undone only once its other half is there, if it ever is.
                blocked = [label for label in cut if self.below[label] & shared]
                if blocked:
                    deepest = max(self.nodes[label].depth for label in blocked)
                    for label in blocked:
                        if label in cut and self.nodes[label].depth == deepest:
                            cut = self._explode(cut, label)
                    cuts[n] = self._shrunk(cut)

    def _exposed(self, cut: Cut, private: int) -> Cut:
        """Undoes, as far as nothing grows, the labels that mix a private reduction with something else."""
        while True:
            for label in cut:
                if self.leaves[label] & private and not self._pure(label, private) and self._free(cut, label):
                    cut = self._explode(cut, label)
                    break
            else:
                return cut

    def _pure(self, label: int, private: int) -> bool:
        """Whether a label can simply be summed over."""
        return self.uniform[label] and not self.has_out[label] and not self.leaves[label] & ~private

    def _opened(self, cut: Cut, reduction: int, private: int) -> Cut:
        """Undoes labels until the private reduction can be summed, whatever they grow to."""
        bit = 1 << reduction
        while True:
            for label in sorted(cut, key=lambda n: -self.nodes[n].depth):
                if self.leaves[label] & bit and not self._pure(label, private):
                    cut = self._explode(cut, label)
                    break
            else:
                return cut

    # orders
    def _private(self, state: State, tensor: Tensor) -> int:
        """The reductions that only this tensor of the state uses."""
        used = 0
        for other in state:
            if other is not tensor:
                used |= self._reductions(other[1])
        return self._reductions(tensor[1]) & ~used

    def _reductions(self, cut: Cut) -> int:
        result = 0
        for label in cut:
            result |= self.leaves[label]
        return result

    def _paths(self, state: State) -> list[Path]:
        found = self.known.get(state)
        if found is not None:
            return found
        self.known[state] = []  # no cycles: every step merges tensors, sums a reduction or undoes a primitive
        best: list[tuple[Counter[Size], Path]] = []
        for step, following in self._steps(state):
            for rest in self._paths(following):
                _insert(best, (step, *rest) if step else rest, self)
        if len(state) == 1 and not self._reductions(next(iter(state))[1]):
            best = [(Counter(), ())]
        result = [path for _, path in best]
        self.known[state] = result
        return result

    def _steps(self, state: State) -> Iter[tuple[_Step | None, State]]:
        tensors = sorted(state, key=lambda t: t[0])
        steps: list[tuple[_Step | None, State]] = []
        for tensor in tensors:
            steps += self._alone(state, tensor)
        pairs = [(a, b) for n, a in enumerate(tensors) for b in tensors[n + 1:]]
        if len(tensors) > 4:
            touching = [(a, b) for a, b in pairs if self._touch(a[1], b[1])]
            pairs = touching or pairs
        for a, b in pairs:
            steps += self._together(state, a, b)
        if len(self.known) > MAX_STATES and len(steps) > 1:
            steps.sort(key=lambda s: len(s[0].cut) if s[0] else 0)
            return iter(steps[:1])
        return iter(steps)

    def _touch(self, a: Cut, b: Cut) -> bool:
        below = [0, 0]
        for n, cut in enumerate((a, b)):
            for label in cut:
                below[n] |= self.below[label] | 1 << label
        return bool(below[0] & below[1])

    def _alone(self, state: State, tensor: Tensor) -> list[tuple[_Step | None, State]]:
        mask, cut = tensor
        private = self._private(state, tensor)
        rest = state - {tensor}
        steps: list[tuple[_Step | None, State]] = []
        for reduction in _bits(private):
            opened = self._opened(cut, reduction, private)
            summed = frozenset(n for n in opened if self._pure(n, private))
            steps.append((_Step((mask,), (cut,), opened, summed), rest | {(mask, opened - summed)}))
        for label in cut:
            # A window over a strided dimension may shrink it.
            if isinstance(self.nodes[label], (Unfold, MergeLeft, MergeRight)) and any(
                    isinstance(self.nodes[n], Stride) for n in _bits(self.below[label])):
                steps.append((None, rest | {(mask, self._shrunk(self._explode(cut, label)))}))
        return steps

    def _together(self, state: State, a: Tensor, b: Tensor) -> list[tuple[_Step | None, State]]:
        rest = state - {a, b}
        mask = a[0] | b[0]
        left, right = self._compatible(a[1], b[1])
        union = left | right
        used = 0
        for _, cut in rest:
            used |= self._reductions(cut)
        private = self._reductions(union) & ~used
        union = self._exposed(union, private)
        steps: list[tuple[_Step | None, State]] = []
        variants = [union]
        mixed = [n for n in union if self.leaves[n] & private and not self._pure(n, private)]
        if mixed:
            opened = union
            for reduction in _bits(private):
                opened = self._opened(opened, reduction, private)
            variants.append(opened)
        for cut in variants:
            summed = frozenset(n for n in cut if self._pure(n, private))
            steps.append((_Step((a[0], b[0]), (a[1], b[1]), cut, summed), rest | {(mask, cut - summed)}))
        return steps


def _insert(best: list[tuple[Counter[Size], Path]], path: Path, search: Search) -> None:
    """Keeps ``path`` unless one that is never dearer is there already; drops those it beats."""
    cost = Counter(search.volume(step.cut) for step in path)
    for other, _ in best:
        if other <= cost:
            return
    best[:] = [(other, p) for other, p in best if not cost <= other]
    best.append((cost, path))


def _mask(reductions: Iterable[Sum]) -> int:
    result = 0
    for reduction in reductions:
        result |= 1 << reduction.index
    return result


def _bits(mask: int) -> Iter[int]:
    at = 0
    while mask:
        if mask & 1:
            yield at
        mask >>= 1
        at += 1


__all__ = ['Order', 'Search', 'Stage', 'least_macs', 'low_digits', 'orders']
