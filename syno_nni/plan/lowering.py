"""Lowering: from a contraction order to programs of library calls, with the alternatives at every stage.

A stage that contracts the data with a weight is a convolution, where

* a coordinate ``unfold(l, r)`` of the data whose window ``r`` the stage sums is a spatial axis with kernel ``r``
  (parts of ``r`` that the weight lacks are sums over the window: the kernel repeats along them);
* coordinates of both, summed, are input channels, and coordinates of both, kept, are groups;
* coordinates of the weight alone are output channels;
* other coordinates of the data are batch dimensions or further spatial axes, wherever they lie in memory.

Without a spatial axis it may also be a matrix product. A window that the stage needs but must keep, because a later
weight uses it too, is sheared after the stage (every tap of the result moved by its own offset), or spread over a
one-hot kernel, or, last, opened in the data. Weights are rearranged by steps on weights alone, which `Program.split`
folds ahead of inference.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from collections.abc import Iterator as Iter
from fractions import Fraction

from syno_nni.operator.concrete import ConcreteOperator, Zero, extent
from syno_nni.operator.explosions import Explosions
from syno_nni.operator.expr import Coordinate, Iterator, MergeLeft, Shift, Split, Sum, Unfold, sibling
from syno_nni.operator.orders import Order

from .builder import Builder, Value
from .contraction import Axis, Contraction, Cycle, Partial
from .program import Program
from .shifted_digits import shifted_digits
from .weight_moves import moved_to_weight

MAX_COLUMNS = 400
"""On maps of at most so many positions windows are also copied out, for a matrix product instead of a convolution."""
LETTERS = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'
MAX_AXES = 3


class Lowering:
    """The programs of one concrete operator."""

    def __init__(self, op: ConcreteOperator, search: Explosions) -> None:
        self.op = op
        self.search = search

    # whole programs
    def start(self, factor: Fraction = Fraction(1)) -> Partial:
        """All tensors loaded; the first weight multiplied by a factor."""
        builder = Builder(self.op)
        values = {1 << n: builder.load(n) for n in range(1 + len(self.op.weights))}
        if factor != 1 and len(values) > 1:
            first = values[2]
            register = builder.emit('scale', [first.register], [float(factor)], builder.shape(first.dims))
            values[2] = Value(register, first.dims)
        return Partial(builder, values)

    def plain(self, factor: Fraction = Fraction(1)) -> tuple[Program, Fraction]:
        """The plainest program: views down to iterators, then one einsum. Slow, and there for every operator."""
        partial = self.start(factor)
        builder, opened = partial.builder, []
        for value in partial.values.values():
            while any(not isinstance(label, Iterator) for label in value.labels):
                value = builder.undo(value, max(value.labels, key=lambda label: label.depth))
            opened.append(builder.singles(value))
        labels = list(dict.fromkeys(label for value in opened for label in value.labels))
        kept = [label for label in labels if not isinstance(label, Sum)]
        letter = dict(zip(labels, LETTERS))
        sides = (''.join(letter[x] for x in part) for part in (*(value.labels for value in opened), kept))
        *given, result = sides
        dims = tuple((label,) for label in kept)
        register = builder.emit('einsum', [v.register for v in opened], [f'{",".join(given)}->{result}'], builder.shape(dims))
        partial.summed *= math.prod(extent(label) for label in labels if isinstance(label, Sum))
        partial.values = {sum(partial.values): Value(register, dims)}
        return self.finish(partial)

    def advance(self, partial: Partial, order: Order, number: int) -> list[Partial]:
        """All ways to carry out stage ``number`` of the order."""
        stage = order.stages[number]
        used = {leaf for mask, value in partial.values.items() if mask not in stage.operands
                for leaf in _sums(value.labels)}
        if len(stage.operands) == 1:
            return self._reduce(partial, stage.operands[0], stage.summed, used)
        data, weight = sorted(stage.operands, key=lambda mask: -(mask & 1))
        if data & 1:
            wanted = _sums(stage.summed)
            starts = [partial, self._shifted(partial, data)]
            starts += [self._moved_to_weight(p, data, weight, used) for p in starts if p]
            return [way for p in starts if p for way in self._contract(p, data, weight, wanted, used)]
        return self._combine(partial, data, weight, used)

    def _shifted(self, partial: Partial, mask: int) -> Partial | None:
        """The same with the cyclic shifts of one tensor done now, where that is where they would go on lying."""
        value = partial.values[mask]
        shifts = [label for label in value.labels if isinstance(label, Shift)]
        if not shifts:
            return None
        partial = partial.fork()
        for label in shifts:
            value = partial.builder.undo(value, label)
        partial.values[mask] = value
        return partial

    def _moved_to_weight(self, partial: Partial, data: int, weight: int, used: set[Sum]) -> Partial | None:
        """The same with what can be done to the weight instead of the data done."""
        value, kernel = partial.values[data], partial.values[weight]
        private = _sums([*value.labels, *kernel.labels]) - used
        partial = partial.fork()
        changed = moved_to_weight(partial.builder, value, kernel, lambda label: self.search.pure(label, private))
        if changed is None:
            return None
        partial.values[data], partial.values[weight] = changed
        return partial

    def finish(self, partial: Partial) -> tuple[Program, Fraction]:
        """The program, and the factor by which its result is still to be multiplied."""
        (value,) = partial.values.values()
        builder = partial.builder
        value = self._carried(partial, value, _sums(value.labels))
        for reduction in sorted(_sums(value.labels), key=lambda r: r.index):
            live = _sums(value.labels)
            value = self._approach(builder, value, self.search.opened(value.labels, reduction, live))
            value = self._settle(partial, value, live)
        while any(not isinstance(label, Iterator) for label in value.labels):
            value = builder.undo(value, max(value.labels, key=lambda label: label.depth))
        order = [out for out in self.op.outputs if out in value.labels]
        zeros = [label for label in value.labels if isinstance(label, Zero)]
        value = builder.arrange(value, [(*zeros, order[0]), *((o,) for o in order[1:])] if order else [tuple(zeros)])
        value = Value(value.register, tuple((o,) for o in order)) if order else builder.reshape(value, ())
        given = [(o,) if o in order else () for o in self.op.outputs]
        if len(order) != len(given):
            value = builder.reshape(value, tuple(given))
            full = tuple((o,) for o in self.op.outputs)
            if builder.shape(full) != builder.shape(given):
                register = builder.emit('expand', [value.register], [builder.free_shape(full)], builder.shape(full))
                value = Value(register, full)
        everything = math.prod(map(extent, (Sum(0, s) for s in self.op.reductions)))
        factor = Fraction(everything, partial.summed)
        if factor != 1 and not self.op.weights:
            register = builder.emit('scale', [value.register], [float(factor)], builder.shape(value.dims))
            value, factor = Value(register, value.dims), Fraction(1)
        return builder.program(value.register), factor

    # stages
    def _combine(self, partial: Partial, first: int, second: int, used: set[Sum]) -> list[Partial]:
        """Two weights into one."""
        partial = partial.fork()
        builder = partial.builder
        left, right = partial.values.pop(first), partial.values.pop(second)
        targets = self.search.compatible(left.labels, right.labels)
        private = _sums([*left.labels, *right.labels]) - used
        left, right = (builder.singles(self._approach(builder, value, target))
                       for value, target in zip((left, right), targets))
        labels = list(dict.fromkeys((*left.labels, *right.labels)))
        summed = [label for label in labels if self.search.pure(label, private)]
        kept = [label for label in labels if label not in summed]
        letter = dict(zip(labels, LETTERS))
        equation = (f'{"".join(letter[x] for x in left.labels)},{"".join(letter[x] for x in right.labels)}->'
                    f'{"".join(letter[x] for x in kept)}')
        dims = tuple((label,) for label in kept)
        value = Value(builder.emit('einsum', [left.register, right.register], [equation], builder.shape(dims)), dims)
        partial.summed *= math.prod(map(extent, summed))
        partial.values[first | second] = self._settle(partial, value, private)
        return [partial]

    def _reduce(self, partial: Partial, mask: int, summed: Iterable[Coordinate], used: set[Sum]) -> list[Partial]:
        """Sums within one tensor: plain ones, and box sums by pooling."""
        partial = partial.fork()
        builder = partial.builder
        value = partial.values.pop(mask)
        wanted = _sums(summed)
        private = _sums(value.labels) - used
        value = self._carried(partial, value, wanted & private)
        targets = frozenset(value.labels)
        for reduction in sorted(wanted & _sums(targets), key=lambda s: s.index):
            targets = self.search.opened(targets, reduction, private)
        gone = {label for label in targets if self.search.pure(label, private)}
        axes: list[Axis] = []
        value = self._approach(builder, value, targets, axes, frozenset(), gone)
        for axis in axes:
            value = self._box(partial, value, axis)
        left = [label for label in value.labels if label in gone]
        partial.summed *= math.prod(map(extent, left))
        partial.values[mask] = self._settle(partial, builder.total(value, left), private)
        return [partial]

    def _carried(self, partial: Partial, value: Value, summed: set[Sum]) -> Value:
        """Sums low digits of shifted numbers of which the tensor has the high digits alone: neighbours added."""
        builder = partial.builder
        for label in value.labels:
            if not isinstance(label, MergeLeft) or not (number := shifted_digits(label)) or sibling(label) in value.labels:
                continue
            high, low = number.high, number.low
            others = {node for other in value.labels if other != label for node in other.walk()}
            if self.search.pure(low, summed) and not {high, low, label.of} & others:
                value = builder.alone(value, label)
                arguments = (value.dim(label), number.base, number.offset)
                register = builder.emit('carry_sum', [value.register], arguments, builder.shape(value.dims))
                value = Value(register, value.dims).relabelled(label, high)
                partial.summed *= number.base
        return value

    def _box(self, partial: Partial, value: Value, axis: Axis) -> Value:
        """A sum over a window."""
        builder = partial.builder
        batch = tuple(label for label in value.labels if label == self.op.batch)
        labels = [label for label in value.labels if label not in batch]
        at = labels.index(axis.label)
        before, after = tuple(labels[:at]), tuple(labels[at + 1:])
        value = builder.arrange(value, (batch, before, (axis.label,), after))
        window = extent(axis.label.right)
        dims = (batch, before, (axis.label.left,), after)
        shape = list(builder.shape(dims))
        longer = int(window % 2 == 0)
        shape[2] += longer
        register = builder.emit('box', [value.register], [window], shape)
        if longer:
            register = builder.emit('narrow', [register], [2, 0, shape[2] - 1], builder.shape(dims))
        partial.summed *= window
        return Value(register, dims)

    def _contract(self, partial: Partial, data: int, weight: int, wanted: set[Sum], used: set[Sum]) -> Iter[Partial]:
        """The data with a weight; ``wanted`` are the reductions that the stage must sum."""
        value, kernel = partial.values[data], partial.values[weight]
        left, right = self.search.compatible(value.labels, kernel.labels)
        private = _sums([*value.labels, *kernel.labels]) - used
        left, right = self.search.exposed_pair(left, right, private)
        alone = private - _sums(right)
        for reduction in sorted(wanted & alone, key=lambda r: r.index):
            left = self.search.opened(left, reduction, private)
        summed = {label for label in left | right if self.search.pure(label, private)}
        cycles = self._cycles(left, right, private)
        if cycles:
            yield from self._staged(partial, data, weight, (left, right), summed, private, cycles)
        yield from self._staged(partial, data, weight, (left, right), summed, private)

    def _staged(self, partial: Partial, data: int, weight: int, targets: tuple[frozenset[Coordinate], ...],
                summed: set[Coordinate], private: set[Sum], cycles: Sequence[Cycle] = ()) -> Iter[Partial]:
        value, kernel = partial.values[data], partial.values[weight]
        left, right = targets
        nested = any(isinstance(label, Unfold) and isinstance(label.left, Unfold) for label in value.labels)
        for shear in ('nested', 'late', 'one_hot', 'windows'):
            if shear == 'nested' and not nested:
                continue
            way = partial.fork()
            del way.values[data], way.values[weight]
            axes: list[Axis] = []
            builder = way.builder
            opened = self._approach(builder, value, left, axes, right, summed, shear)
            if shear == 'nested' and not any(axis.inner for axis in axes):
                continue
            if any(cycle.label not in opened.labels for cycle in cycles):
                return  # it is under the window of another axis
            stage = Contraction(self.op.batch, way, opened, self._approach(builder, kernel, right), axes, summed, shear, cycles)
            for done, result in stage.ways():
                done.summed *= math.prod(map(extent, [*summed, *(cycle.reduction for cycle in cycles)]))
                done.values[data | weight] = self._settle(done, result, private)
                yield done
            if not any(axis.kept or axis.inner for axis in axes):
                break
        if axes and not cycles and math.prod(extent(axis.result) for axis in axes) <= MAX_COLUMNS:
            way = partial.fork()
            del way.values[data], way.values[weight]
            opened = self._approach(way.builder, value, left)
            stage = Contraction(self.op.batch, way, opened, self._approach(way.builder, kernel, right), [], summed, 'windows')
            for done, result in stage.products(columns=True):
                done.summed *= math.prod(map(extent, summed))
                done.values[data | weight] = self._settle(done, result, private)
                yield done

    def _cycles(self, left: Iterable[Coordinate], right: Iterable[Coordinate], private: set[Sum]) -> list[Cycle]:
        """The halves of a Merge, one in the data and one in the weight, that meet in a cyclic axis."""
        right = frozenset(right)
        return [Cycle(label, sibling(label), number) for label in left
                if isinstance(label, MergeLeft) and sibling(label) in right and label not in right
                and (number := shifted_digits(label)) and self.search.pure(number.low, private)]

    # views
    def _approach(self, builder: Builder, value: Value, targets: frozenset[Coordinate],
                  axes: list[Axis] | None = None, right: frozenset[Coordinate] = frozenset(),
                  summed: Iterable[Coordinate] = (), shear: str = 'late') -> Value:
        """The value with its coordinates undone down to ``targets``; spatial axes stay closed and go into ``axes``."""
        while True:
            closed = {axis.label for axis in axes or ()}
            todo = [label for label in value.labels if label not in targets and label not in closed]
            if not todo:
                return value
            label = max(todo, key=lambda x: x.depth)
            if axes is not None and isinstance(label, Unfold) and len(axes) < MAX_AXES:
                axis = self._axis(label, value, targets, right, set(summed))
                if axis and not (axis.kept and shear == 'windows') and not (axis.inner and shear != 'nested'):
                    axes.append(axis)
                    continue
            value = builder.undo(value, label, targets)

    def _axis(self, label: Unfold, value: Value, targets: frozenset[Coordinate], right: frozenset[Coordinate],
              summed: set[Coordinate]) -> Axis | None:
        """``label`` as a spatial axis, if it can be one."""
        inner: list[Coordinate] = []
        place = label.left
        while isinstance(place, Unfold) and place not in targets and place.right in right and place.right in summed:
            inner.append(place.right)
            place = place.left
        position = [t for t in targets if t in set(place.walk())]
        others = {node for other in value.labels if other != label for node in other.walk()}
        if any(t in right or t in summed or t in others for t in position):
            return None
        parts = _parts(label.right, targets)
        if parts is None or any(p in others for p in (*parts, *inner)):
            return None
        if all(p in summed for p in parts):
            return Axis(label, parts, kept=False, inner=tuple(inner))
        if len(parts) == 1 and parts[0] in right and not inner:
            return Axis(label, parts, kept=True)
        return None

    def _settle(self, partial: Partial, value: Value, private: set[Sum]) -> Value:
        """Sums what has become a reduction of its own, such as after the halves of a Merge have met."""
        builder = partial.builder
        live = private & _sums(value.labels)
        for label in value.labels:
            if isinstance(label, MergeLeft) and sibling(label) in value.labels and (
                    number := shifted_digits(label)) and self.search.pure(number.low, live):
                value = builder.alone(value, label, sibling(label))
                at = value.dim(sibling(label))
                dims = tuple(dim for n, dim in enumerate(value.dims) if n != at)
                arguments = (at, value.dim(label), number.offset)
                value = Value(builder.emit('digit_sum', [value.register], arguments, builder.shape(dims)), dims)
                value = value.relabelled(label, number.high)
                partial.summed *= number.base
        live = private & _sums(value.labels)
        value = self._approach(builder, value, self.search.exposed(value.labels, live))
        gone = [label for label in value.labels if self.search.pure(label, live)]
        partial.summed *= math.prod(map(extent, gone))
        return builder.total(value, gone)


def _sums(labels: Iterable[Coordinate]) -> set[Sum]:
    return {leaf for label in labels for leaf in label.iterators() if isinstance(leaf, Sum)}


def _parts(node: Coordinate, targets: frozenset[Coordinate]) -> tuple[Coordinate, ...] | None:
    """The targets that ``node`` splits into, outer first; None if anything but Splits is between."""
    if node in targets:
        return (node,)
    if isinstance(node, Split):
        left, right = _parts(node.left, targets), _parts(node.right, targets)
        return None if left is None or right is None else (*left, *right)
    return None
