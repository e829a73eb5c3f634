"""Contraction orders: in which stages an operator may be computed, and the multiply-adds of each.

Tensors are sets of labels, the coordinates that index their dimensions (`syno_nni.operator.explosions`). A stage

* contracts two tensors, after the least explosion that lets their labels stand side by side (no coordinate of the union
  is computed from something that another one is computed from, except through the two halves of a Merge), and sums every
  reduction that no other tensor uses; it costs one multiply-add for each element of the union; or
* sums a reduction within one tensor; it costs one addition for each element summed.

Windows are exploded as late as possible and strided dimensions as early as possible. Weights may be contracted with
each other. Every order is enumerated (memoised over the sets of tensors that are left; orders whose stages include all
the stages of another are dropped), so that the least cost at any number of bindings takes one enumeration.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Iterator as Iter
from dataclasses import dataclass
from functools import cached_property

from .concrete import ConcreteOperator
from .explosions import Explosions, Labels, bits
from .expr import Coordinate, MergeLeft, MergeRight, Stride, Unfold
from .graph import Graph, remembered
from .size import ONE, Binding, Size

Tensor = tuple[int, Labels]  # the original tensors that went in, as a bit set (bit 0 is the input), and its labels
Tensors = frozenset[Tensor]

MAX_KNOWN = 600
"""With the best ways from this many sets of tensors known (operators with many weights), the rest is greedy."""


@dataclass(frozen=True)
class Stage:
    """One step of an order.

    Attributes:
        operands: what it reads, as bit sets of original tensors (bit 0 the input, bit i weight i); one or two.
        sources: the labels of each operand before the stage.
        labels: all coordinates that the stage loops over; its cost is the product of their sizes.
        summed: those of ``labels`` that it sums away.
    """
    operands: tuple[int, ...]
    sources: tuple[frozenset[Coordinate], ...]
    labels: frozenset[Coordinate]
    summed: frozenset[Coordinate]

    @cached_property
    def size(self) -> Size:
        """The multiply-adds of the stage."""
        return _volume(self.labels)

    @property
    def result(self) -> frozenset[Coordinate]:
        """The labels of its result."""
        return self.labels - self.summed

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


def orders(op: Graph) -> tuple[Order, ...]:
    """Every contraction order that could be the cheapest at some binding."""
    return _enumeration(op).orders()


def least_macs(op: Graph, values: Mapping[Size, int]) -> int:
    """The multiply-adds of the cheapest order; ``values`` looks sizes up (see `syno_nni.operator.cost.table`)."""
    return min(sum(values[size] for size in order) for order in _enumeration(op).costs)


@remembered
def _enumeration(op: Graph) -> Enumeration:
    return Enumeration(op)


def _volume(labels: Iterable[Coordinate]) -> Size:
    """The product of sizes: a sum of exponents, far quicker than multiplying one by one."""
    powers: Counter[str] = Counter()
    coefficient = ONE.coefficient
    for node in labels:
        size = node.size
        for variable, exponent in size.powers:
            powers[variable] += exponent
        if size.coefficient != 1:
            coefficient = coefficient * size.coefficient
    return Size(powers.items(), coefficient, internal=True)


@dataclass(frozen=True)
class _Step:
    """A `Stage` over numbered nodes."""
    operands: tuple[int, ...]
    sources: tuple[Labels, ...]
    labels: Labels
    summed: Labels


_Steps = tuple[_Step, ...]


class Enumeration(Explosions):
    """Every contraction order of one operator."""

    def __init__(self, op: Graph | ConcreteOperator) -> None:
        super().__init__(op)
        self._known: dict[Tensors, list[_Steps]] = {}
        self._volumes: dict[Labels, Size] = {}
        self._found = self._ways(frozenset((1 << n, self._shrunk(labels)) for n, labels in enumerate(self.tensors)))
        self.costs: list[tuple[Size, ...]] = [tuple(self._volume(step.labels) for step in way) for way in self._found]

    def orders(self) -> tuple[Order, ...]:
        """Every order that could be the cheapest at some binding; ``costs`` has the multiply-adds of their stages."""
        return tuple(Order(tuple(map(self._stage, way))) for way in self._found)

    def _stage(self, step: _Step) -> Stage:
        return Stage(step.operands, tuple(map(self._coordinates, step.sources)), self._coordinates(step.labels),
                     self._coordinates(step.summed))

    def _volume(self, labels: Labels) -> Size:
        found = self._volumes.get(labels)
        if found is None:
            found = self._volumes[labels] = _volume(self.nodes[label] for label in labels)
        return found

    def _private(self, tensors: Tensors, tensor: Tensor) -> int:
        """The reductions that only this one of the tensors uses."""
        used = 0
        for other in tensors:
            if other is not tensor:
                used |= self._reductions(other[1])
        return self._reductions(tensor[1]) & ~used

    def _ways(self, tensors: Tensors) -> list[_Steps]:
        """The steps that contract the tensors into the output, for every order that could be the cheapest."""
        found = self._known.get(tensors)
        if found is not None:
            return found
        self._known[tensors] = []  # no cycles: every step merges tensors, sums a reduction or undoes a primitive
        best: list[tuple[Counter[Size], _Steps]] = []
        for step, following in self._steps(tensors):
            for rest in self._ways(following):
                self._insert(best, (step, *rest) if step else rest)
        if len(tensors) == 1 and not self._reductions(next(iter(tensors))[1]):
            best = [(Counter(), ())]
        result = [way for _, way in best]
        self._known[tensors] = result
        return result

    def _steps(self, tensors: Tensors) -> Iter[tuple[_Step | None, Tensors]]:
        """What may be done next and the tensors that are left then; None for an explosion, which costs nothing."""
        ranked = sorted(tensors, key=lambda t: t[0])
        steps: list[tuple[_Step | None, Tensors]] = []
        for tensor in ranked:
            steps += self._alone(tensors, tensor)
        pairs = [(a, b) for n, a in enumerate(ranked) for b in ranked[n + 1:]]
        if len(tensors) > 4:
            touching = [(a, b) for a, b in pairs if self._touch(a[1], b[1])]
            pairs = touching or pairs
        for a, b in pairs:
            steps += self._together(tensors, a, b)
        if len(self._known) > MAX_KNOWN and len(steps) > 1:
            steps.sort(key=lambda s: len(s[0].labels) if s[0] else 0)
            return iter(steps[:1])
        return iter(steps)

    def _touch(self, a: Labels, b: Labels) -> bool:
        below = [0, 0]
        for n, labels in enumerate((a, b)):
            for label in labels:
                below[n] |= self.below[label] | 1 << label
        return bool(below[0] & below[1])

    def _alone(self, tensors: Tensors, tensor: Tensor) -> list[tuple[_Step | None, Tensors]]:
        mask, labels = tensor
        private = self._private(tensors, tensor)
        rest = tensors - {tensor}
        steps: list[tuple[_Step | None, Tensors]] = []
        for reduction in bits(private):
            opened = self._opened(labels, reduction, private)
            summed = frozenset(n for n in opened if self._pure(n, private))
            steps.append((_Step((mask,), (labels,), opened, summed), rest | {(mask, opened - summed)}))
        for label in labels:
            # A window over a strided dimension may shrink it.
            if isinstance(self.nodes[label], (Unfold, MergeLeft, MergeRight)) and any(
                    isinstance(self.nodes[n], Stride) for n in bits(self.below[label])):
                steps.append((None, rest | {(mask, self._shrunk(self._explode(labels, label)))}))
        return steps

    def _together(self, tensors: Tensors, a: Tensor, b: Tensor) -> list[tuple[_Step | None, Tensors]]:
        rest = tensors - {a, b}
        mask = a[0] | b[0]
        left, right = self._compatible(a[1], b[1])
        union = left | right
        used = 0
        for _, labels in rest:
            used |= self._reductions(labels)
        private = self._reductions(union) & ~used
        union = self._exposed(union, private)
        steps: list[tuple[_Step | None, Tensors]] = []
        variants = [union]
        mixed = [n for n in union if self.leaves[n] & private and not self._pure(n, private)]
        if mixed:
            opened = union
            for reduction in bits(private):
                opened = self._opened(opened, reduction, private)
            variants.append(opened)
        for labels in variants:
            summed = frozenset(n for n in labels if self._pure(n, private))
            steps.append((_Step((a[0], b[0]), (a[1], b[1]), labels, summed), rest | {(mask, labels - summed)}))
        return steps

    def _insert(self, best: list[tuple[Counter[Size], _Steps]], way: _Steps) -> None:
        """Keeps ``way`` unless one that is never dearer is there already; drops those it beats."""
        cost = Counter(self._volume(step.labels) for step in way)
        for other, _ in best:
            if other <= cost:
                return
        best[:] = [(other, w) for other, w in best if not cost <= other]
        best.append((cost, way))


__all__ = ['Enumeration', 'Order', 'Stage', 'least_macs', 'orders']
