"""Lowering: from an evaluation order to programs of library calls, with the alternatives at every stage.

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
from dataclasses import dataclass
from fractions import Fraction

from ..evaluation import Order, Search
from ..expr import Coordinate, Iterator, MergeLeft, MergeRight, Out, Shift, Split, Sum, Unfold, sibling
from ..size import Size
from .builder import Builder, Value
from .concrete import ConcreteOperator, Zero, extent
from .digits import digit_shift, digits
from .program import Program
from .substitute import substituted

MAX_COLUMNS = 400
"""On maps of at most so many positions windows are also copied out, for a matrix product instead of a convolution."""
LETTERS = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'
MAX_AXES = 3


class _Tap(Iterator):
    """The window dimension of a one-hot kernel."""

    __slots__ = ()
    kind = 'tap'


@dataclass
class Partial:
    """A program under construction: its builder, the tensors that are left, what is summed."""
    builder: Builder
    values: dict[int, Value]  # by the original tensors they depend on, as a bit set
    summed: int = 1           # the extents of all coordinates summed so far

    def fork(self) -> Partial:
        return Partial(self.builder.fork(), dict(self.values), self.summed)


@dataclass(frozen=True)
class _Axis:
    """A spatial axis of a stage: the coordinate of the data, and the parts of its window."""
    label: Unfold
    parts: tuple[Coordinate, ...]
    kept: bool  # the window is not summed in the stage
    inner: tuple[Coordinate, ...] = ()  # windows of the position, summed after the stage

    @property
    def result(self) -> Coordinate:
        return self.label.left


@dataclass(frozen=True)
class _Cycle:
    """A cyclic spatial axis of two taps, from ``shift(l*B + r, offset)`` with r summed.

    The data has its high digits (``label``), the weight its low digit (``digit``): element l of the result reads l and
    l + 1 (and the offset's high digits further on, cyclically), each with the low digits that do not carry or do.
    """
    label: MergeLeft
    digit: MergeRight

    @property
    def shift(self) -> Shift:
        return self.label.of  # type: ignore[return-value]  # see `Lowering._cycles`

    @property
    def result(self) -> Coordinate:
        return self.shift.of.left  # type: ignore[attr-defined]

    @property
    def reduction(self) -> Coordinate:
        return self.shift.of.right  # type: ignore[attr-defined]


class Lowering:
    """The programs of one concrete operator."""

    def __init__(self, op: ConcreteOperator, search: Search) -> None:
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
            starts += [self._substituted(p, data, weight, used) for p in starts if p]
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

    def _substituted(self, partial: Partial, data: int, weight: int, used: set[Sum]) -> Partial | None:
        """The same with what can be done to the weight instead of the data done."""
        value, kernel = partial.values[data], partial.values[weight]
        private = _sums([*value.labels, *kernel.labels]) - used
        partial = partial.fork()
        changed = substituted(partial.builder, value, kernel, lambda label: self.search.pure(label, private))
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
        axes: list[_Axis] = []
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
            if not (isinstance(label, MergeLeft) and digit_shift(label)) or sibling(label) in value.labels:
                continue
            high, low, offset, base = digits(label)
            others = {node for other in value.labels if other != label for node in other.walk()}
            if self.search.pure(low, summed) and not {high, low, label.of} & others:
                value = builder.alone(value, label)
                arguments = (value.dim(label), base, offset)
                register = builder.emit('carry_sum', [value.register], arguments, builder.shape(value.dims))
                value = Value(register, value.dims).relabelled(label, high)
                partial.summed *= base
        return value

    def _box(self, partial: Partial, value: Value, axis: _Axis) -> Value:
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
                summed: set[Coordinate], private: set[Sum], cycles: Sequence[_Cycle] = ()) -> Iter[Partial]:
        value, kernel = partial.values[data], partial.values[weight]
        left, right = targets
        nested = any(isinstance(label, Unfold) and isinstance(label.left, Unfold) for label in value.labels)
        for shear in ('nested', 'late', 'one_hot', 'windows'):
            if shear == 'nested' and not nested:
                continue
            way = partial.fork()
            del way.values[data], way.values[weight]
            axes: list[_Axis] = []
            builder = way.builder
            opened = self._approach(builder, value, left, axes, right, summed, shear)
            if shear == 'nested' and not any(axis.inner for axis in axes):
                continue
            if any(cycle.label not in opened.labels for cycle in cycles):
                return  # it is under the window of another axis
            stage = _Stage(self, way, opened, self._approach(builder, kernel, right), axes, summed, shear, cycles)
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
            stage = _Stage(self, way, opened, self._approach(way.builder, kernel, right), [], summed, 'windows')
            for done, result in stage.products(columns=True):
                done.summed *= math.prod(map(extent, summed))
                done.values[data | weight] = self._settle(done, result, private)
                yield done

    def _cycles(self, left: Iterable[Coordinate], right: Iterable[Coordinate], private: set[Sum]) -> list[_Cycle]:
        """The halves of a Merge, one in the data and one in the weight, that meet in a cyclic axis."""
        right = frozenset(right)
        return [_Cycle(label, sibling(label)) for label in left
                if isinstance(label, MergeLeft) and sibling(label) in right and label not in right
                and digit_shift(label) and self.search.pure(label.of.of.right, private)]

    # views
    def _approach(self, builder: Builder, value: Value, targets: frozenset[Coordinate],
                  axes: list[_Axis] | None = None, right: frozenset[Coordinate] = frozenset(),
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
              summed: set[Coordinate]) -> _Axis | None:
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
            return _Axis(label, parts, kept=False, inner=tuple(inner))
        if len(parts) == 1 and parts[0] in right and not inner:
            return _Axis(label, parts, kept=True)
        return None

    def _settle(self, partial: Partial, value: Value, private: set[Sum]) -> Value:
        """Sums what has become a reduction of its own, such as after the halves of a Merge have met."""
        builder = partial.builder
        live = private & _sums(value.labels)
        for label in value.labels:
            if isinstance(label, MergeLeft) and sibling(label) in value.labels and digit_shift(label) and (
                    self.search.pure(label.of.of.right, live)):
                value = builder.alone(value, label, sibling(label))
                at = value.dim(sibling(label))
                dims = tuple(dim for n, dim in enumerate(value.dims) if n != at)
                arguments = (at, value.dim(label), label.of.offset)
                value = Value(builder.emit('digit_sum', [value.register], arguments, builder.shape(dims)), dims)
                value = value.relabelled(label, label.of.of.left)
                partial.summed *= extent(label.of.of.right)
        live = private & _sums(value.labels)
        value = self._approach(builder, value, self.search.exposed(value.labels, live))
        gone = [label for label in value.labels if self.search.pure(label, live)]
        partial.summed *= math.prod(map(extent, gone))
        return builder.total(value, gone)


class _Stage:
    """One contraction of data and weight, whose coordinates are ready: the library calls that can do it."""

    def __init__(self, lowering: Lowering, partial: Partial, value: Value, kernel: Value, axes: Sequence[_Axis],
                 summed: set[Coordinate], shear: str, cycles: Sequence[_Cycle] = ()) -> None:
        self.lowering, self.partial, self.value, self.shear = lowering, partial, value, shear
        builder = partial.builder
        late = [axis for axis in axes if axis.kept and shear in ('late', 'nested')]
        self.late = late
        self.axes = [axis for axis in axes if axis not in late]
        inside: dict[Coordinate, _Axis | _Cycle] = {axis.label: axis for axis in (*self.axes, *cycles)}
        windows = {part for axis in axes for part in axis.parts} | {cycle.digit for cycle in cycles}
        self.inner = [(axis, part) for axis in axes for part in axis.inner]
        windows |= {part for _, part in self.inner}
        both = set(value.labels) & set(kernel.labels)
        alone = [label for label in kernel.labels if label in summed and label not in both and label not in windows]
        self.kernel = builder.total(kernel, alone)
        self.groups = [label for label in value.labels if label in both and label not in summed]
        self.channels = [label for label in value.labels if label in summed]
        self.free = [label for label in value.labels if label not in {*both, *summed, *inside}]
        kept = {part for axis in axes if axis.kept for part in axis.parts} | {part for _, part in self.inner}
        self.outs = sorted((label for label in self.kernel.labels
                            if label not in both and (label not in windows or label in kept)), key=_out_order)
        self.inside = inside

    def ways(self) -> Iter[tuple[Partial, Value]]:
        """Every way, as the program so far and the result."""
        if not self.inside and not self.channels:
            yield self._product()
            return
        for lead, slots in self._placements():
            if not slots:
                continue
            yield self._convolution(lead, slots)
            batch = self.lowering.op.batch
            own = tuple(x for x in lead if x != batch)
            if own and self.value.labels[:len(lead)] == lead:  # they lie next to the channels already
                yield self._convolution(tuple(x for x in lead if x == batch), slots, own)
            for block in self._blocks():
                yield self._convolution(lead, slots, block=block)
        if not self.inside:
            yield from self.products()

    def products(self, columns: bool = False) -> Iter[tuple[Partial, Value]]:
        """The matrix products, for a stage without spatial axes; of ``columns`` that are copied anyway in both layouts."""
        if self.channels:
            yield self._matrix_product()
            innermost = self.value.labels[-len(self.channels):] == tuple(self.channels)
            if not self.groups and (columns or innermost):
                yield self._linear()

    # calls
    def _fork(self) -> tuple[Partial, Builder]:
        partial = self.partial.fork()
        return partial, partial.builder

    def _product(self) -> tuple[Partial, Value]:
        """Nothing is summed: an elementwise product, or an outer one."""
        partial, builder = self._fork()
        value, kernel = builder.singles(self.value), self.kernel
        dims = [*((label,) for label in value.labels), *((label,) for label in self.outs)]
        kernel = builder.arrange(kernel, [dim if dim[0] in kernel.labels else () for dim in dims])
        if self.outs:
            padded = (*value.dims, *(() for _ in self.outs))
            value = builder.reshape(value, padded)
        register = builder.emit('mul', [value.register, kernel.register], [], builder.shape(dims))
        return partial, self._sheared(builder, Value(register, tuple(dims)))

    def _placements(self) -> Iter[tuple[tuple[Coordinate, ...], tuple[tuple[Coordinate, ...], ...]]]:
        """Where the data's own coordinates go: batch dimensions, and spatial slots (at most three)."""
        channels = {*self.groups, *self.channels}
        labels = self.value.labels
        first = min((labels.index(c) for c in channels), default=None)
        if first is None:
            first = min(labels.index(label) for label in self.inside)
        batch = self.lowering.op.batch
        lead = [x for x in labels[:first] if x in self.free]
        trail = [x for x in labels if x not in lead and x not in channels]
        if batch in trail:
            trail.remove(batch)
            lead.insert(0, batch)
        seen = set()
        movable = [x for x in lead if x != batch]
        for front, back in ((lead, trail), ([x for x in lead if x == batch], [*movable, *trail])):
            for option in self._slots(front, back):
                if option not in seen:
                    seen.add(option)
                    yield option

    def _slots(self, lead: list[Coordinate], trail: list[Coordinate]) -> Iter[
            tuple[tuple[Coordinate, ...], tuple[tuple[Coordinate, ...], ...]]]:
        if len(trail) <= 2:
            yield tuple(lead), tuple((x,) for x in trail)
            return
        runs: list[tuple[Coordinate, ...]] = []
        for x in trail:
            if x in self.inside or not runs or runs[-1][0] in self.inside:
                runs.append((x,))
            else:
                runs[-1] += (x,)
        if len(runs) <= 3:
            yield tuple(lead), tuple(runs)
        if len(runs) > 2:
            axes = [(x,) for x in trail if x in self.inside]
            free = [x for x in trail if x not in self.inside]
            if len(axes) == 1:
                yield tuple(lead), (tuple(free), axes[0])
                yield tuple(lead), (axes[0], tuple(free))
                last = runs[-1] if runs[-1] not in axes else ()
                moved = [x for x in free if x not in last]
                slots = (axes[0], last) if last else (axes[0],)
                yield (*lead, *moved), slots
            else:
                yield (*lead, *free), tuple(axes)

    def _blocks(self) -> Iter[int]:
        """How many groups to join, so that vector units are not left empty: to 16 channels, and all."""
        groups, channels = (math.prod(map(extent, labels)) for labels in (self.groups, self.channels))
        outs = math.prod(map(extent, self.outs))
        if groups == 1 or channels * outs == 1 or min(channels, outs) >= 16:
            return
        narrow = min(channels, outs)
        fitting = next(q for q in range(1, groups + 1) if groups % q == 0 and (q * narrow >= 16 or q == groups))
        yield from sorted({fitting, groups} - {1})

    def _convolution(self, lead: tuple[Coordinate, ...], slots: tuple[tuple[Coordinate, ...], ...],
                     own: tuple[Coordinate, ...] = (), block: int = 1) -> tuple[Partial, Value]:
        """A convolution; ``own`` are coordinates of the data alone that become groups with equal kernels.

        ``block`` neighbouring groups are joined into one whose kernel is 0 between them.
        """
        partial, builder = self._fork()
        grouped = (*own, *self.groups)
        value = builder.arrange(self.value, (lead, (*grouped, *self.channels), *slots))
        kernel = self._with(builder, self.kernel, own)
        windows: list[tuple[Coordinate, ...]] = []
        for slot in slots:
            axis = self.inside.get(slot[0])
            if axis is None:
                windows.append(())
            elif isinstance(axis, _Cycle):
                value, kernel, tap = self._cycle(builder, value, kernel, axis)
                windows.append((tap,))
            elif axis.kept:
                kernel = builder.alone(kernel, *axis.parts)
                tap = _Tap(kernel.dim(axis.parts[0]), axis.parts[0].size)
                dims = (*kernel.dims, (tap,))
                kernel = Value(builder.emit('one_hot', [kernel.register], [tap.index], builder.shape(dims)), dims)
                windows.append((tap,))
            else:
                windows.append(axis.parts)
        inner = (*self.channels, *(label for window in windows for label in window))
        for label in inner:  # sums over coordinates that the weight lacks
            if label not in kernel.labels:
                kernel = builder.expand(kernel, len(kernel.dims), label)
        kernel = builder.arrange(kernel, ((*grouped, *self.outs), tuple(self.channels), *windows))
        extents = [math.prod(map(extent, window)) for window in windows]
        padding = tuple(0 if isinstance(self.inside.get(slot[0]), _Cycle) else k // 2
                        for slot, k in zip(slots, extents))
        groups = math.prod(map(extent, grouped))
        if block > 1:
            kernel = Value(_joined(builder, kernel.register, groups, block), kernel.dims)
            groups //= block
        dims = (lead, (*grouped, *self.outs),
                *(tuple(self.inside[x].result if x in self.inside else x for x in slot) for slot in slots))
        shape = list(builder.shape(dims))
        longer = [k % 2 == 0 and p > 0 for k, p in zip(extents, padding)]
        shape[2:] = [n + more for n, more in zip(shape[2:], longer)]
        register = builder.emit('conv', [value.register, kernel.register], [padding, groups], shape)
        for n, more in enumerate(longer):
            if more:
                shape[2 + n] -= 1
                register = builder.emit('narrow', [register], [2 + n, 0, shape[2 + n]], shape)
        return partial, self._sheared(builder, Value(register, dims))

    def _cycle(self, builder: Builder, value: Value, kernel: Value, cycle: _Cycle) -> tuple[Value, Value, _Tap]:
        """The data around its cycle, and the kernel over the carry."""
        carry, offset = divmod(cycle.shift.offset, extent(cycle.digit))
        at = value.dim(cycle.label)
        shape = list(builder.shape_of(value.register))
        shape[at] += bool(offset)
        if carry or offset:
            arguments = (at, carry % extent(cycle.label), int(bool(offset)))
            value = Value(builder.emit('wrap', [value.register], arguments, shape), value.dims)
        kernel = builder.alone(kernel, cycle.digit)
        at = kernel.dim(cycle.digit)
        tap = _Tap(-1 - at, Size.of(2 if offset else 1))
        dims = (*kernel.dims[:at], (tap,), *kernel.dims[at + 1:])
        kind, arguments = ('taps', (at, offset)) if offset else ('total', (at,))
        return value, Value(builder.emit(kind, [kernel.register], arguments, builder.shape(dims)), dims), tap

    def _matrix_product(self) -> tuple[Partial, Value]:
        """``weight @ data``, batched over groups."""
        partial, builder = self._fork()
        labels = self.value.labels
        first = min(labels.index(c) for c in (*self.groups, *self.channels))
        lead = tuple(x for x in labels[:first] if x in self.free)
        trail = tuple(x for x in labels if x in self.free and x not in lead)
        if self.lowering.op.batch in trail:
            lead, trail = (self.lowering.op.batch, *lead), tuple(x for x in trail if x != self.lowering.op.batch)
        groups = [tuple(self.groups)] if self.groups else []
        value = builder.arrange(self.value, (lead, *groups, tuple(self.channels), trail))
        kernel = self._with(builder, self.kernel, self.channels)
        kernel = builder.arrange(kernel, (*groups, tuple(self.outs), tuple(self.channels)))
        dims = (lead, *groups, tuple(self.outs), trail)
        register = builder.emit('matmul', [kernel.register, value.register], [], builder.shape(dims))
        return partial, self._sheared(builder, Value(register, dims))

    def _linear(self) -> tuple[Partial, Value]:
        """``data @ weight``, channels innermost."""
        partial, builder = self._fork()
        lead = tuple(label for label in self.value.labels if label not in self.channels)
        value = builder.arrange(self.value, (lead, tuple(self.channels)))
        kernel = self._with(builder, self.kernel, self.channels)
        kernel = builder.arrange(kernel, (tuple(self.channels), tuple(self.outs)))
        dims = (lead, tuple(self.outs))
        register = builder.emit('matmul', [value.register, kernel.register], [], builder.shape(dims))
        return partial, self._sheared(builder, Value(register, dims))

    def _with(self, builder: Builder, kernel: Value, labels: Iterable[Coordinate]) -> Value:
        for label in labels:
            if label not in kernel.labels:
                kernel = builder.expand(kernel, len(kernel.dims), label)
        return kernel

    def _sheared(self, builder: Builder, value: Value) -> Value:
        """Moves every tap of a window that was kept by its own offset."""
        for axis in self.late:
            (tap,) = axis.parts
            value = builder.alone(value, axis.label, tap)
            arguments = (value.dim(axis.label), value.dim(tap), extent(tap))
            value = Value(builder.emit('shear', [value.register], arguments, builder.shape(value.dims)), value.dims)
            value = value.relabelled(axis.label, axis.label.left)
        place: dict[_Axis, Coordinate] = {}
        for axis, part in self.inner:
            window = place.get(axis, axis.result)
            assert isinstance(window, Unfold)
            value = builder.alone(value, window, part)
            at = value.dim(part)
            dims = tuple(dim for n, dim in enumerate(value.dims) if n != at)
            arguments = (value.dim(window), at, extent(part))
            value = Value(builder.emit('shear_sum', [value.register], arguments, builder.shape(dims)), dims)
            value = value.relabelled(window, window.left)
            place[axis] = window.left
        return value


def _joined(builder: Builder, kernel: int, groups: int, block: int) -> int:
    """The kernel of a convolution that joins ``block`` groups: block-diagonal."""
    out, channels, *window = builder.shape_of(kernel)
    each = out // groups
    steps = [('reshape', ((groups // block, block, each, channels, *window),)), ('one_hot', (1,)),
             ('permute', ((0, 1, 2, 4 + len(window), 3, *range(4, 4 + len(window))),)),
             ('reshape', ((out, block * channels, *window),))]
    shapes = [steps[0][1][0], (groups // block, block, each, channels, *window, block),
              (groups // block, block, each, block, channels, *window), steps[3][1][0]]
    for (kind, arguments), shape in zip(steps, shapes):
        kernel = builder.emit(kind, [kernel], arguments, shape)
    return kernel


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


def _out_order(label: Coordinate) -> tuple:
    """Coordinates of the output first, in its order, outer halves before inner ones; then reductions."""
    outs = [leaf.index for leaf in label.iterators() if isinstance(leaf, Out)]
    return (0, min(outs), label.kind) if outs else (1, min(leaf.index for leaf in label.iterators()), label.kind)
