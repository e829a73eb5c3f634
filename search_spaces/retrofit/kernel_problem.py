"""The least-squares problem of an operator in the place of a layer, in the space of the layer's kernel.

Layer and operator are linear maps. Every entry of the operator's matrix is a sum of products of weights, one for each
reading of the input element by the output element; at all positions that treat the weights alike these products are the
same. So the matrix of a whole map, border, stride and pooling included, is known from one array per class of positions,

    P[class, output channel, reductions that the input sees] = sum over the others of w1[...] * w2[...] * ...,

and from how often, and on which tap of the layer's kernel, each of its entries falls. The squared difference of both
matrices, entry by entry, is then a weighted square of ``P - T`` and a constant, and costs as much as the kernel has
entries, however large the map is.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from syno_nni.operator import Operator
from syno_nni.operator.expr import Coordinate, Iterator, MergeLeft, MergeRight
from syno_nni.operator.reference import evaluate

MOST = 1 << 22
"""Readings that are looked at one by one; of larger maps so many positions are drawn."""
FEWEST = 64
LARGEST_GRAM = 1024
LARGEST = 1 << 26
"""Entries of ``P``."""


class TooLarge(Exception):
    """Entries of the matrix meet in a way that has no small description."""


@dataclass(frozen=True)
class Geometry:
    """Where a layer and the operator in its place read, per axis of the layer's output.

    Tap ``d`` of output ``p`` of the layer is input ``p * stride + first + d``. The operator reads the same inputs; or,
    with ``pooled``, means over windows of the stride; where it has no axes it sees input ``p * stride + offset``.
    """
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]
    stride: tuple[int, ...]
    kernel: tuple[int, ...]
    first: tuple[int, ...]
    offset: tuple[int, ...]
    pooled: bool
    channels: tuple[int, int]


@dataclass(frozen=True)
class Table:
    """The entry of a weight that each product reads, over those axes of the problem on which it depends."""
    index: Tensor
    inside: Tensor | None
    """Whether it reads one; None: always."""
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    free: bool
    """Whether no entry is read at two places."""
    plain: bool
    """Whether the entries are read in their order, each once."""


@dataclass
class Problem:
    """One operator at one binding against layers of one geometry.

    Its axes are positions' classes, output channels, and reductions; ``P`` has the classes, the channels, the reductions
    that choose an input channel, and those (``spatial`` in number) that choose a position: ``shape``. The tables of the
    weights see axes cut into digits, of the given ``extents``; of these ``visible`` are those of ``P``, in its order,
    and the last ``last`` of them are spatial.
    """
    shape: tuple[int, ...]
    extents: tuple[int, ...]
    visible: tuple[int, ...]
    weights: list[Table]
    channel: Tensor
    taps: Tensor
    shares: Tensor
    counts: Tensor
    gram: Tensor | None
    inside: Tensor | None
    scatter: bool
    in_channels: int
    own: int
    """So many classes are those of the layer's own map."""
    spatial: int
    last: int

    @property
    def all_count(self) -> bool:
        """Whether every product is in an entry of the matrix."""
        return bool((self.counts > 0).all())

    @property
    def falls_apart(self) -> bool:
        """Whether every weight is solved for at once (:mod:`.kernel_solver`)."""
        return all(t.free for t in self.weights) and not self.scatter and self.inside is None

    @property
    def cut(self) -> tuple[int, ...]:
        """The shape of ``P`` in digits."""
        return tuple(self.extents[a] for a in self.visible)


def build(op: Operator, sizes: dict[str, int], where: Geometry, roles: str) -> Problem:
    """The problem at the layer's own map.

    Raises:
        TooLarge: see there.
    """
    return _Builder(op, sizes, where, roles).problem()


def joined(first: Problem, second: Problem, weight: float) -> Problem:
    """Both problems at once, the second with little weight and none in the error."""
    weight *= float(first.counts.max() / second.counts.max())
    classes = (first.extents[0], second.extents[0])

    def both(a: Tensor, b: Tensor) -> Tensor:
        tail = torch.broadcast_shapes(a.shape[1:], b.shape[1:])
        return torch.cat([t.expand(n, *tail) for t, n in zip((a, b), classes, strict=True)])

    def table(a: Table, b: Table) -> Table:
        if a.axes == b.axes and a.axes[:1] != (0,) and torch.equal(a.index, b.index) and a.inside is b.inside is None:
            return a
        axes = tuple(sorted({0, *a.axes, *b.axes}))
        indices, insides = [], []
        for t, n in zip((a, b), classes, strict=True):
            shape = [first.extents[x] if x in t.axes else 1 for x in axes[1:]]
            lead = n if 0 in t.axes else 1
            full = (n, *(first.extents[x] for x in axes[1:]))
            indices.append(t.index.reshape(lead, *shape).expand(full))
            inside = torch.ones_like(t.index, dtype=torch.bool) if t.inside is None else t.inside
            insides.append(inside.reshape(lead, *shape).expand(full))
        inside = torch.cat(insides)
        return Table(torch.cat(indices), None if bool(inside.all()) else inside, a.shape, axes, False, False)

    most = max(first.shares.shape[-1], second.shares.shape[-1])

    def padded(t: Tensor) -> Tensor:
        return torch.nn.functional.pad(t, (0, most - t.shape[-1]))

    def gram(p: Problem) -> Tensor:
        tail = p.counts.shape[p.counts.dim() - p.spatial:]
        return p.counts.reshape(*p.counts.shape[:2], tail.numel()).diag_embed() if p.gram is None else p.gram

    def inside(p: Problem) -> Tensor:
        return torch.ones_like(p.channel, dtype=torch.bool) if p.inside is None else p.inside

    total = sum(classes)
    return replace(
        first, shape=(total, *first.shape[1:]), extents=(total, *first.extents[1:]),
        weights=[table(a, b) for a, b in zip(first.weights, second.weights, strict=True)],
        channel=first.channel if torch.equal(first.channel, second.channel) else both(first.channel, second.channel),
        taps=both(padded(first.taps), padded(second.taps)), shares=both(padded(first.shares), weight * padded(second.shares)),
        counts=both(first.counts, weight * second.counts),
        gram=None if first.gram is second.gram is None else both(gram(first), weight * gram(second)),
        inside=None if first.inside is second.inside is None else both(inside(first), inside(second)),
        scatter=first.scatter or second.scatter)


def thinned(problem: Problem, entries: int) -> Problem:
    """The problem on some of its classes of positions, drawn so that ``P`` has about so many entries; they stand for all."""
    classes = problem.shape[0]
    some = max(2, classes * entries // math.prod(problem.shape))
    if some >= classes or problem.own < classes:
        return problem
    chosen = torch.from_numpy(np.sort(np.random.default_rng(0).permutation(classes)[:some]))

    def of(tensor: Tensor) -> Tensor:
        return tensor[chosen] if len(tensor) > 1 else tensor

    scale = float(problem.counts.sum() / of(problem.counts).sum()) if len(problem.counts) > 1 else 1.0
    weights = [replace(t, index=t.index[chosen], inside=None if t.inside is None else t.inside[chosen], plain=False)
               if t.axes[:1] == (0,) else t for t in problem.weights]
    return replace(
        problem, shape=(some, *problem.shape[1:]), extents=(some, *problem.extents[1:]), weights=weights, own=some,
        channel=of(problem.channel), taps=of(problem.taps), shares=of(problem.shares) * scale,
        counts=of(problem.counts) * scale,
        gram=None if problem.gram is None else of(problem.gram) * scale,
        inside=None if problem.inside is None else of(problem.inside))


class _Builder:
    def __init__(self, op: Operator, sizes: dict[str, int], where: Geometry, roles: str) -> None:
        self.op, self.sizes, self.where, self.roles = op, sizes, where, roles
        self.reductions = tuple(s.value(sizes) for s in op.reductions)
        self.rank = 2 + len(self.reductions)
        self.random = np.random.default_rng(0)

    def problem(self) -> Problem:
        where = self.where
        positions = math.prod(where.outputs)
        self._place(np.arange(positions))
        largest = self._largest()
        self.scale = 1.0
        if largest > MOST and positions > FEWEST:
            some = max(FEWEST, positions * MOST // largest)
            self.scale = positions / some
            self._place(np.sort(self.random.permutation(positions)[:some]))
        if largest // max(1, round(self.scale)) > 4 * MOST:
            raise TooLarge
        channel, read, indices = self._tables()
        classes, first = self._classes([*channel, *(a for w in indices for pair in w for a in pair)])
        self.parts = self._parts()
        self.parts[0] = (len(first),)
        rows = [np.ascontiguousarray(a[first] if a.shape[0] > 1 else a) for a in channel]
        tables = [self._table([tuple(a[first] if a.shape[0] > 1 else a for a in pair) for pair in w], shape)
                  for w, shape in zip(indices, self.op.weight_shapes(self.sizes), strict=True)]
        extents = (len(first), where.channels[1], *self.reductions)
        spatial = [a for a in range(2, self.rank) if any(r.shape[a] > 1 for r in read)]
        channels = [a for a in range(2, self.rank) if any(c.shape[a] > 1 for c in channel) and a not in spatial]
        mixed = any(c.shape[a] > 1 for c in channel for a in spatial)
        visible = (0, 1, *channels, *spatial)
        if math.prod(extents[a] for a in visible) > LARGEST:
            raise TooLarge
        return self._finish(extents, visible, tables, rows, read, classes, len(spatial), mixed)

    # what is read
    def _place(self, positions: np.ndarray) -> None:
        """Sets the values of all iterators at these positions."""
        where = self.where
        self.at = np.unravel_index(positions, where.outputs) if where.outputs else ()
        self.env: dict[Iterator, np.ndarray] = {}
        axes = self.roles.count('S')
        spatial = [*self.at] if axes == len(where.outputs) else [positions] * axes
        for role, out in zip(self.roles, self.op.outs(), strict=True):
            if role == 'N':
                self.env[out] = np.zeros((1,) * self.rank, dtype=np.int64)
            elif role == 'C':
                self.env[out] = self._along(np.arange(where.channels[1]), 1)
            else:
                self.env[out] = self._along(spatial.pop(0), 0)
        for n, (it, size) in enumerate(zip(self.op.sums(), self.reductions, strict=True)):
            self.env[it] = self._along(np.arange(size), 2 + n)

    def _largest(self) -> int:
        """The most readings that one coordinate, or all that choose a position, tell apart at all positions."""
        axis = {it: 2 + n for n, it in enumerate(self.op.sums())}
        axis |= {out: int(role == 'C') for role, out in zip(self.roles, self.op.outs(), strict=True)}
        extents = (math.prod(self.where.outputs), self.where.channels[1], *self.reductions)

        def size(coordinates: Iterable[Coordinate]) -> int:
            return math.prod(extents[a] for a in {0} | {axis[it] for c in coordinates for it in c.iterators()})

        read = [c for role, c in zip(self.roles, self.op.inputs, strict=True) if role == 'S']
        inner = math.prod(self.where.stride) if self.where.pooled else 1
        return max(size(read) * inner, *(size([c]) for c in (*self.op.inputs, *itertools.chain(*self.op.weights))))

    def _along(self, values: np.ndarray, axis: int) -> np.ndarray:
        return values.reshape([-1 if a == axis else 1 for a in range(self.rank)])

    def _value(self, coordinate: Coordinate) -> tuple[np.ndarray, np.ndarray]:
        value, inside = evaluate(coordinate, self.env, self.sizes)
        return value, inside.reshape(inside.shape or (1,) * self.rank)

    def _tables(self) -> tuple:
        channel = (np.zeros((1,) * self.rank, dtype=np.int64), np.ones((1,) * self.rank, dtype=bool))
        read: list[np.ndarray] = []
        inside = np.ones((1,) * self.rank, dtype=bool)
        for role, coordinate in zip(self.roles, self.op.inputs, strict=True):
            if role == 'C':
                value, ok = self._value(coordinate)
                channel = np.where(ok, value, 0), ok
            elif role == 'S':
                value, ok = self._value(coordinate)
                read.append(value)
                inside = inside & ok
        indices = [[self._value(coordinate) for coordinate in coordinates] for coordinates in self.op.weights]
        return channel, [*self._inputs(read), inside], indices

    def _inputs(self, read: list[np.ndarray]) -> list[np.ndarray]:
        """The positions read, one array per axis of the layer: of its input, or of the pooled map."""
        where = self.where
        if len(read) == len(where.outputs):
            return read
        if len(read) == 1:
            inside = np.clip(read[0], 0, math.prod(where.outputs) - 1)
            return [*np.unravel_index(inside, where.outputs)] if where.outputs else []
        at = [self._along(a, 0) for a in self.at]
        if where.pooled:
            return at
        return [a * s + o for a, s, o in zip(at, where.stride, where.offset, strict=True)]

    # classes of positions
    def _classes(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The class of each position by what the weights and channels do there, and one position of each class."""
        count = len(self.at[0]) if self.at else 1
        rows = [a.reshape(count, -1) for a in arrays if a.shape[0] > 1]
        if not rows:
            return np.zeros(count, dtype=np.int64), np.zeros(1, dtype=np.int64)
        first, classes = np.unique(_hashed(rows, self.random), return_index=True, return_inverse=True)[1:]
        return classes.reshape(-1), first

    def _table(self, coordinates: list[tuple[np.ndarray, ...]], shape: tuple[int, ...]) -> Table:
        index, inside = np.zeros((1,) * self.rank, dtype=np.int64), np.ones((1,) * self.rank, dtype=bool)
        for (value, good), extent in zip(coordinates, shape, strict=True):
            index, inside = index * extent + value, inside & good
            if max(index.size, inside.size) > 4 * MOST:
                raise TooLarge
        index = np.where(inside, index, 0)
        full = bool(inside.all())
        if not full and inside.shape != index.shape:
            wide = np.broadcast_shapes(index.shape, inside.shape)
            index, inside = np.broadcast_to(index, wide), np.broadcast_to(inside, wide)
        cut = [f for n, parts in zip(index.shape, self.parts, strict=True) for f in (parts if n > 1 else (1,) * len(parts))]
        index = _shrunk(index.reshape(cut), full)
        axes = tuple(a for a, n in enumerate(index.shape) if n > 1)
        extents = tuple(index.shape[a] for a in axes)
        flat = np.ascontiguousarray(index).reshape(-1)
        free = full and bool(np.bincount(flat, minlength=1).max() == 1)
        plain = free and len(flat) == math.prod(shape) and bool((flat[1:] > flat[:-1]).all())
        return Table(torch.from_numpy(flat.reshape(extents).copy()),
                     None if full else torch.from_numpy(inside.reshape(extents).copy()), shape, axes, free, plain)

    def _parts(self) -> list[tuple[int, ...]]:
        """Axes as digits, outer before inner, where weights read digits of their iterators."""
        out = next(o for role, o in zip(self.roles, self.op.outs(), strict=True) if role == 'C')
        extents = [(None, 1), (out, self.where.channels[1]), *zip(self.op.sums(), self.reductions, strict=True)]
        cuts: dict[object, set[int]] = {}
        for coordinate in (c for w in self.op.weights for c in w):
            for node in coordinate.walk():
                if isinstance(node, (MergeLeft, MergeRight)) and isinstance(node.of, Iterator):
                    cuts.setdefault(node.of, set()).add(node.block.value(self.sizes))
        parts: list[tuple[int, ...]] = []
        for it, extent in extents:
            chain = [1, *sorted(cuts.get(it, set()) - {1, extent}), extent]
            if any(b % a for a, b in itertools.pairwise(chain)):
                chain = [1, extent]
            parts.append(tuple(b // a for a, b in itertools.pairwise(chain))[::-1])
        return parts

    # how often, and where
    def _finish(self, extents: tuple[int, ...], visible: tuple[int, ...], tables: list[Table], channel: list[np.ndarray],
                read: list[np.ndarray], classes: np.ndarray, spatial: int, mixed: bool) -> Problem:
        where = self.where
        *inputs, inside = np.broadcast_arrays(*read) if len(read) > 1 else read
        axes = visible[len(visible) - spatial:]
        shape = (inside.shape[0], inside.shape[1], *(extents[a] for a in axes))
        count = len(classes)
        full = (count, inside.shape[1], math.prod(shape[2:]))

        def flat(array: np.ndarray) -> np.ndarray:
            moved = np.broadcast_to(array, (*inside.shape[:2], *(extents[a] if a in axes else 1 for a in range(2, self.rank))))
            order = (0, 1, *axes, *(a for a in range(2, self.rank) if a not in axes))
            return np.broadcast_to(moved.transpose(order).reshape(shape[0], shape[1], -1), full)

        ok = flat(inside).copy()
        places = [flat(i) for i in inputs]
        at = [a.reshape(-1, 1, 1) for a in self.at]
        divisor = np.ones((1, 1, 1))
        bounds = where.inputs
        if where.pooled:
            for y, n, s in zip(places, where.inputs, where.stride, strict=True):
                divisor = divisor * np.clip(n - y * s, 1, s)
        else:
            for y, n in zip(places, bounds, strict=True):
                ok &= y < n
        weight = ok * (self.scale / divisor)
        groups = len(np.unique(classes)) if count > 1 else 1
        row = (classes.reshape(-1, 1, 1) * full[1] + np.arange(full[1]).reshape(1, -1, 1)) * full[2] + np.arange(full[2])
        table = (groups, full[1], full[2])
        counts = np.bincount(row.reshape(-1), weight.reshape(-1), math.prod(table)).reshape(table)
        taps = math.prod(where.kernel)
        hits = np.zeros(math.prod(table) * taps)
        for inner in np.ndindex(*(where.stride if where.pooled else ())):
            tap, good = np.zeros(full, dtype=np.int64), ok
            for n, (y, p) in enumerate(zip(places, at, strict=True)):
                if where.pooled:
                    y = y * where.stride[n] + inner[n]
                    good = good & (y < where.inputs[n])
                d = y - p * where.stride[n] - where.first[n]
                good = good & (d >= 0) & (d < where.kernel[n])
                tap = tap * where.kernel[n] + d
            keep = good.reshape(-1)
            hits += np.bincount((row * taps + tap).reshape(-1)[keep], weight.reshape(-1)[keep], len(hits))
        hits = hits.reshape(*table, taps)
        most = max(1, int((hits > 0).sum(-1).max()))
        best = np.argsort(-hits, axis=-1, kind='stable')[..., :most]
        share = np.take_along_axis(hits, best, -1)
        cell = np.zeros(full, dtype=np.int64)
        for y, n in zip(places, where.inputs, strict=True):
            cell = cell * (n + 1) + y
        meeting = self._meeting(cell, ok, weight, classes, groups, at, mixed, channel, visible, spatial, extents)
        index, allowed = channel
        order = (0, 1, *(a for a in visible[2:]), *(a for a in range(2, self.rank) if a not in visible))

        def arranged(array: np.ndarray) -> np.ndarray:
            moved = array.transpose(order)
            return np.ascontiguousarray(moved.reshape(moved.shape[:len(visible)]))

        tail = tuple(extents[a] for a in axes)
        lead = (1,) * (len(visible) - 2 - len(axes))

        def spread(array: np.ndarray) -> Tensor:
            shape = (*array.shape[:2], *lead, *tail, *array.shape[3:])
            return torch.from_numpy(np.ascontiguousarray(array.reshape(shape)))

        scatter = False
        if not mixed:
            ids = arranged(np.where(allowed, index, -1))
            rows = np.sort(ids.reshape(-1, math.prod(ids.shape[2:])), -1)
            scatter = bool(((rows[:, 1:] == rows[:, :-1]) & (rows[:, 1:] >= 0)).any())
        starts = [0, *itertools.accumulate(map(len, self.parts))]
        digits = [tuple(range(starts[a], starts[a + 1])) for a in range(self.rank)]
        return Problem(
            shape=tuple(extents[a] for a in visible), extents=tuple(f for parts in self.parts for f in parts),
            visible=tuple(d for a in visible for d in digits[a]), weights=tables, channel=torch.from_numpy(arranged(index)),
            taps=spread(best), shares=spread(share), counts=spread(counts), gram=meeting,
            inside=None if allowed.all() else torch.from_numpy(arranged(allowed)), scatter=scatter,
            in_channels=where.channels[0], own=groups, spatial=spatial, last=sum(len(digits[a]) for a in axes))

    def _mixed(self, cell: np.ndarray, ok: np.ndarray, classes: np.ndarray, channel: list[np.ndarray],
               visible: tuple[int, ...], spatial: int, extents: tuple[int, ...]) -> None:
        """Where channels and positions are read by the same reductions: nothing, as long as no two readings meet."""
        shape = [extents[a] for a in visible]
        full = math.prod(shape[1:])
        tail = tuple(shape[len(shape) - spatial:])
        lead = (1,) * (len(visible) - 2 - spatial)
        index, allowed = (np.asarray(a).transpose(0, 1, *visible[2:], *(a for a in range(2, self.rank) if a not in visible)
                                                  ).reshape(a.shape[0], a.shape[1], *(a.shape[v] for v in visible[2:]))
                          for a in channel)
        for p in range(len(cell)):
            if p * full > MOST:
                break
            at = classes[p]
            place = cell[p].reshape(cell.shape[1], *lead, *tail)
            good = ok[p].reshape(cell.shape[1], *lead, *tail) & allowed[min(at, len(allowed) - 1)]
            ids = np.where(good, place * self.where.channels[0] + index[min(at, len(index) - 1)], -1)
            ids = np.sort(np.broadcast_to(ids, (ids.shape[0], *shape[2:])).reshape(ids.shape[0], -1), -1)
            if ((ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] >= 0)).any():
                raise TooLarge

    def _meeting(self, cell: np.ndarray, ok: np.ndarray, weight: np.ndarray, classes: np.ndarray, groups: int,
                 at: list[np.ndarray], mixed: bool, channel: list[np.ndarray], visible: tuple[int, ...], spatial: int,
                 extents: tuple[int, ...]) -> Tensor | None:
        """For readings of one input element by one output element: how often each pair of them meets. None: never."""
        if mixed:
            return self._mixed(cell, ok, classes, channel, visible, spatial, extents)
        base = np.zeros((1, 1, 1), dtype=np.int64)
        for p, s, n in zip(at, [1] * len(at) if self.where.pooled else self.where.stride, self.where.inputs, strict=True):
            base = base * (n + 1) + p * s
        relative = np.where(ok, cell - base, -1 << 40)
        hashes = _hashed([relative.reshape(len(cell), -1), (weight * 1e6).astype(np.int64).reshape(len(cell), -1)], self.random)
        _, first, kind = np.unique(hashes * groups + classes, return_index=True, return_inverse=True)
        times = np.bincount(kind.reshape(-1))
        cell, ok, weight, classes = cell[first], ok[first], weight[first], classes[first]
        ids = np.where(ok, cell, -1 - np.arange(cell.shape[-1]))
        rows = np.sort(ids, -1)
        if not (rows[..., 1:] == rows[..., :-1]).any():
            return None
        size = cell.shape[-1]
        if size > LARGEST_GRAM or size * size * cell.shape[1] * groups > MOST:
            raise TooLarge
        gram = np.zeros((groups, cell.shape[1], size, size))
        for k, (c, t) in enumerate(zip(classes, times, strict=True)):
            same = ids[k][:, :, None] == ids[k][:, None, :]
            gram[c] += t * same * (weight[k] * ok[k])[:, :, None]
        return torch.from_numpy(gram)


def _shrunk(index: np.ndarray, full: bool) -> np.ndarray:
    """The array without repetitions along an axis."""
    for axis in range(index.ndim) if full else ():
        if index.shape[axis] > 1:
            first = index.take([0], axis)
            if np.array_equal(np.broadcast_to(first, index.shape), index):
                index = first
    return index


def _hashed(rows: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """One number for each row of all arrays; different with near certainty where rows are."""
    total = np.zeros(len(rows[0]), dtype=np.int64)
    with np.errstate(over='ignore'):
        for row in rows:
            total += row.astype(np.int64) @ random.integers(-1 << 62, 1 << 62, row.shape[1])
    return total
