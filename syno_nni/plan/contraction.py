"""Contractions: the library calls that can do one stage, the data with one weight, whose coordinates are ready.

Where a coordinate goes (batch, groups, channels, spatial axes), the lowering has decided (see `lowering`); here lie the
alternatives: convolutions with the data's own coordinates as batch, as further axes or as groups, with groups joined to
fill vector units, matrix products in either layout, and the moves that windows kept for later need afterwards.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from collections.abc import Iterator as Iter
from dataclasses import dataclass
from typing import Any

from syno_nni.operator.concrete import extent
from syno_nni.operator.expr import Coordinate, Iterator, MergeLeft, Out, Unfold
from syno_nni.operator.size import Size

from .builder import Builder, Value
from .shifted_digits import ShiftedDigits


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
class Axis:
    """A spatial axis of a stage: the coordinate of the data, and the parts of its window."""
    label: Unfold
    parts: tuple[Coordinate, ...]
    kept: bool  # the window is not summed in the stage
    inner: tuple[Coordinate, ...] = ()  # windows of the position, summed after the stage

    @property
    def result(self) -> Coordinate:
        return self.label.left


@dataclass(frozen=True)
class Cycle:
    """A cyclic spatial axis of two taps, from ``shift(l*B + r, offset)`` with r summed.

    The data has its high digits (``label``), the weight its low digit (``digit``): element l of the result reads l and
    l + 1 (and the offset's high digits further on, cyclically), each with the low digits that do not carry or do.
    """
    label: MergeLeft
    digit: Coordinate
    number: ShiftedDigits

    @property
    def result(self) -> Coordinate:
        return self.number.high

    @property
    def reduction(self) -> Coordinate:
        return self.number.low


class Contraction:
    """One contraction of data and weight, whose coordinates are ready: the library calls that can do it."""

    def __init__(self, batch: Coordinate | None, partial: Partial, value: Value, kernel: Value, axes: Sequence[Axis],
                 summed: set[Coordinate], shear: str, cycles: Sequence[Cycle] = ()) -> None:
        self.batch, self.partial, self.value = batch, partial, value
        builder = partial.builder
        late = [axis for axis in axes if axis.kept and shear in ('late', 'nested')]
        self.late = late
        self.axes = [axis for axis in axes if axis not in late]
        inside: dict[Coordinate, Axis | Cycle] = {axis.label: axis for axis in self.axes}
        inside |= {cycle.label: cycle for cycle in cycles}
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
            batch = self.batch
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
        batch = self.batch
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
            elif isinstance(axis, Cycle):
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
        padding = tuple(0 if isinstance(self.inside.get(slot[0]), Cycle) else k // 2
                        for slot, k in zip(slots, extents))
        groups = math.prod(map(extent, grouped))
        if block > 1:
            kernel = Value(_joined(builder, kernel.register, groups, block), kernel.dims)
            groups //= block
        if _needs_a_tap(builder.shape_of(kernel.register)):
            extents[-1] += 1
            taps = [*builder.shape_of(kernel.register)[:-1], extents[-1]]
            kernel = Value(builder.emit('pad', [kernel.register], [len(taps) - 1, 0, 1], taps), kernel.dims)
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

    def _cycle(self, builder: Builder, value: Value, kernel: Value, cycle: Cycle) -> tuple[Value, Value, _Tap]:
        """The data around its cycle, and the kernel over the carry."""
        carry, offset = divmod(cycle.number.offset, extent(cycle.digit))
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
        register = (builder.emit('taps', [kernel.register], (at, offset), builder.shape(dims)) if offset else
                    builder.emit('total', [kernel.register], (at,), builder.shape(dims)))
        return value, Value(register, dims), tap

    def _matrix_product(self) -> tuple[Partial, Value]:
        """``weight @ data``, batched over groups."""
        partial, builder = self._fork()
        labels = self.value.labels
        first = min(labels.index(c) for c in (*self.groups, *self.channels))
        lead = tuple(x for x in labels[:first] if x in self.free)
        trail = tuple(x for x in labels if x in self.free and x not in lead)
        if self.batch in trail:
            lead, trail = (self.batch, *lead), tuple(x for x in trail if x != self.batch)
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
        place: dict[Axis, Coordinate] = {}
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
    steps: list[tuple[str, tuple[Any, ...]]] = [
        ('reshape', ((groups // block, block, each, channels, *window),)),
        ('one_hot', (1,)),
        ('permute', ((0, 1, 2, 4 + len(window), 3, *range(4, 4 + len(window))),)),
        ('reshape', ((out, block * channels, *window),))]
    shapes = [steps[0][1][0], (groups // block, block, each, channels, *window, block),
              (groups // block, block, each, block, channels, *window), steps[3][1][0]]
    for (kind, arguments), shape in zip(steps, shapes):
        kernel = builder.emit(kind, [kernel], arguments, shape)
    return kernel


def _needs_a_tap(kernel: Sequence[int]) -> bool:
    """Whether a kernel gets a tap of zeros at its end.

    oneDNN's bfloat16 convolution for AMX (3.12 at least) computes noise where an even number of input channels below
    16 and the taps of the last axis fill more than one tile of 32 exactly; with one tap more it is right. The data type
    is not known here, and an exported plan may run in another runtime on oneDNN, so the tap is there for every type.
    """
    channels, taps = kernel[1], kernel[-1]
    return 1 < channels < 16 and channels % 2 == 0 and channels * taps > 32 and channels * taps % 32 == 0


def _out_order(label: Coordinate) -> tuple:
    """Coordinates of the output first, in its order, outer halves before inner ones; then reductions."""
    outs = [leaf.index for leaf in label.iterators() if isinstance(leaf, Out)]
    return (0, min(outs), label.kind) if outs else (1, min(leaf.index for leaf in label.iterators()), label.kind)
