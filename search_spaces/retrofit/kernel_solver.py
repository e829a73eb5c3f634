"""Weights that solve a :class:`~.kernel_problem.Problem` for several layers at once.

The weights take turns; in each the others are fixed, and the problem is linear. Where a weight's entries are read once
each it falls apart into small ones, one per entry but for those that a sum joins, which are solved at once. Otherwise
conjugate gradients solve it, through the operator and its transpose, which are contractions of the weights.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .kernel_problem import Problem, Table

SLOW = 1e-3
"""Conjugate gradients end when three steps together gain less than this part of the error, turns when one does."""
LARGEST = 1 << 23
"""Numbers in the matrices that a turn solves."""
LARGE = 1 << 21
"""Entries of ``P`` of all layers from which on a quick fit takes a few steps only."""
RIDGE = 1e-7
MOST_VECTORS = 192
"""Sides of the matrices of which singular vectors are computed."""
_SMALLEST = 1e-30
_LAYER = '\u0100'


class Solver:
    """Fits the weights of one problem to the kernels of some layers.

    Args:
        problem: see there.
        kernels: ``[layers, C_out, C_in, taps]``.
        energy: ``[layers]``, the squared norms of the layers' matrices.

    Attributes:
        floor: ``[layers]``, the part of the energy that no weights reach.
    """

    def __init__(self, problem: Problem, kernels: Tensor, energy: Tensor) -> None:
        self.problem, self.energy = problem, energy.double().clamp_min(_SMALLEST)
        self.layers, self.dtype = len(kernels), kernels.dtype
        self.letters = [_letter(a) for a in range(len(problem.extents))]
        used = {a for table in problem.weights for a in table.axes}
        self.present = [a for a in problem.visible if a in used]
        self.absent = [n for n, a in enumerate(problem.visible, 1) if a not in used]
        self.repeats = math.prod(e for a, e in enumerate(problem.extents) if a not in used and a not in problem.visible)
        self.gram = None if problem.gram is None else problem.gram.to(self.dtype)
        self.counts = problem.counts.to(self.dtype)
        self.mask = None if problem.inside is None else problem.inside.to(self.dtype)
        self.target, self.floor = self._target(kernels)
        self.pulled = self.curved(self.target)

    # the target
    def _target(self, kernels: Tensor) -> tuple[Tensor, Tensor]:
        """What ``P``, or the sums of its entries by channel, should be; and the part of the energy that nothing reaches."""
        p = self.problem
        flat, per = kernels.flatten(2), kernels.shape[3]
        channel, taps, shares, counts = p.channel, p.taps, p.shares.to(self.dtype), self.counts
        if p.scatter:
            channel = torch.arange(p.in_channels).reshape(1, 1, -1, *[1] * p.spatial)
            tail = counts.shape[counts.dim() - p.spatial:]
            taps, shares = (t.reshape(*t.shape[:2], 1, *tail, -1) for t in (taps, shares))
            counts = counts.reshape(*counts.shape[:2], 1, *tail)
        self.weight = counts
        scale = counts.clamp_min(_SMALLEST) if self.gram is None else torch.ones((), dtype=self.dtype)
        total = self._gathered(flat, channel * per + taps[..., 0]) * (shares[..., 0] / scale)
        for j in range(1, taps.shape[-1]):
            total = total + self._gathered(flat, channel * per + taps[..., j]) * (shares[..., j] / scale)
        if self.mask is not None and not p.scatter:
            total = total * self.mask
        if self.gram is None or p.gram is None:
            reached = (total.double().square() * counts)
        else:
            b = total.double().reshape(*total.shape[:3], -1, p.gram.shape[-1])
            solved = b @ torch.linalg.pinv(p.gram, rtol=1e-9, hermitian=True)
            reached = solved * b
            total = solved.reshape(total.shape).to(self.dtype)
        reached = reached[:, :p.own].sum(dim=[*range(1, reached.dim())])
        return total, (1 - reached / self.energy).clamp_min(0)

    def _gathered(self, kernels: Tensor, index: Tensor) -> Tensor:
        """``[layers, C_out, entries]`` at ``[classes, C_out or 1, ...]``: ``[layers, classes, C_out, ...]``."""
        if index.shape[1] == 1:
            found = kernels.index_select(2, index.reshape(-1))
            return found.reshape(*kernels.shape[:2], index.shape[0], *index.shape[2:]).transpose(1, 2)
        shape = (len(kernels), *index.shape)
        found = kernels.unsqueeze(1).expand(-1, index.shape[0], -1, -1).gather(
            3, index.reshape(1, *index.shape[:2], -1).expand(len(kernels), -1, -1, -1))
        return found.reshape(shape)

    # the operator
    def spread(self, weight: Tensor, table: Table) -> Tensor:
        """A weight ``[layers, ...]`` along the axes of the products."""
        if table.plain:
            return weight.reshape(len(weight), *table.index.shape)
        found = weight.flatten(1).index_select(1, table.index.reshape(-1)).reshape(len(weight), *table.index.shape)
        return found if table.inside is None else found * table.inside

    def gathered(self, spread: Tensor, table: Table) -> Tensor:
        """The transpose of `spread`."""
        if table.plain:
            return spread.reshape(len(spread), *table.shape)
        if table.inside is not None:
            spread = spread * table.inside
        result = spread.new_zeros(len(spread), math.prod(table.shape))
        return result.index_add_(1, table.index.reshape(-1), spread.flatten(1)).reshape(len(spread), *table.shape)

    def product(self, spread: Sequence[Tensor]) -> Tensor:
        """All weights into ``P`` or its sums by channel."""
        p = self.problem
        terms = [(s, t.axes) for s, t in zip(spread, p.weights, strict=True)]
        result = self._einsum(terms, self.present) if terms else self.target.new_ones(self.layers)
        if self.repeats != 1:
            result = result * self.repeats
        for at in self.absent:
            result = result.unsqueeze(at)
        if self.absent:
            result = result.expand(self.layers, *p.cut)
        result = result.reshape(self.layers, *p.shape)
        if self.mask is not None:
            result = result * self.mask
        return self._summed(result) if p.scatter else result

    def transposed(self, residual: Tensor, spread: Sequence[Tensor], k: int) -> Tensor:
        """The gradient of ``<residual, product>`` with respect to weight ``k``, along the axes of the products."""
        p = self.problem
        if p.scatter:
            residual = self._unsummed(residual)
        if self.mask is not None:
            residual = residual * self.mask
        residual = residual.reshape(self.layers, *p.cut)
        if self.absent:
            residual = residual.sum(dim=self.absent)
        others = [(s, t.axes) for n, (s, t) in enumerate(zip(spread, p.weights, strict=True)) if n != k]
        table = p.weights[k]
        have = {a for _, axes in others for a in axes} | {*self.present}
        result = self._einsum([(residual, self.present), *others], [a for a in table.axes if a in have])
        for n, a in enumerate(table.axes, 1):
            if a not in have:
                result = result.unsqueeze(n)
        result = result.expand(self.layers, *table.index.shape)
        return result * self.repeats if self.repeats != 1 else result

    def _einsum(self, terms: Sequence[tuple[Tensor, Sequence[int]]], out: Sequence[int]) -> Tensor:
        left = ','.join('Z' + ''.join(self.letters[a] for a in axes) for _, axes in terms)
        return torch.einsum(f'{left}->Z{"".join(self.letters[a] for a in out)}', *(t for t, _ in terms))

    def _rows(self) -> tuple[Tensor, int, bool]:
        p = self.problem
        channel = p.channel.reshape(*p.channel.shape[:2], -1)
        if channel.shape[:2] == (1, 1):
            return channel.reshape(-1), p.in_channels, True
        classes, out = p.shape[:2]
        lead = torch.arange(classes * out).reshape(classes, out, 1) * p.in_channels
        return (lead + channel).reshape(-1), classes * out * p.in_channels, False

    def _summed(self, products: Tensor) -> Tensor:
        p = self.problem
        rows, size, alone = self._rows()
        tail = p.shape[len(p.shape) - p.spatial:]
        lead = products.shape[1:3]
        flat = products.reshape(self.layers, math.prod(lead) if alone else 1, len(rows), math.prod(tail))
        result = flat.new_zeros(self.layers, flat.shape[1], size, math.prod(tail)).index_add_(2, rows, flat)
        return result.reshape(self.layers, *lead, p.in_channels, *tail)

    def _unsummed(self, sums: Tensor) -> Tensor:
        p = self.problem
        rows, size, alone = self._rows()
        lead = sums.shape[1:3]
        flat = sums.reshape(self.layers, math.prod(lead) if alone else 1, size, -1)
        return flat.index_select(2, rows).reshape(self.layers, *lead, *p.shape[2:])

    def curved(self, x: Tensor) -> Tensor:
        """The squared difference of the matrices is ``<x, curved(x)>``."""
        if self.gram is None:
            return x * self.weight
        return (x.reshape(*x.shape[:3], -1, self.gram.shape[-1]) @ self.gram).reshape(x.shape)

    # solving
    def solve(self, weights: list[Tensor], *, sweeps: int, iterations: int, quick: bool = False,
              ) -> tuple[list[Tensor], Tensor]:
        """From ``weights`` (each ``[layers, ...]``) on; the weights and the relative squared errors ``[layers]``."""
        tables = self.problem.weights
        if not tables:
            return weights, self.errors(self.product([]) - self.target)
        weights, error = list(weights), None
        if quick and not all(self._direct(k) for k in range(len(tables))):
            # Step by step every turn goes over P many times.
            sweeps, iterations = (3, 8) if self.layers * math.prod(self.problem.cut) <= LARGE else (1, 5)
        spread = [self.spread(w, t) for w, t in zip(weights, tables, strict=True)]
        direct = [self._direct(k) for k in range(len(tables))]
        order = [*range(len(tables))]
        if len(tables) == 2 and all(direct) and (begun := self._leading()) is not None:
            k, spread[k] = begun
            weights[k] = self.gathered(spread[k], tables[k])
            order = [1 - k, k]
        for _ in range(sweeps if len(tables) > 1 else 1):
            before = error
            for k in order:
                table = tables[k]
                if direct[k]:
                    spread[k] = self._solved(spread, k)
                    weights[k] = self.gathered(spread[k], table)
                else:
                    weights[k] = self._descended(weights[k], spread, k, iterations)
                    spread[k] = self.spread(weights[k], table)
            error = self.errors(self.product(spread) - self.target)
            if before is not None and bool((before - error < SLOW * before + 1e-7).all()):
                break
        assert error is not None
        return weights, error

    def errors(self, left: Tensor) -> Tensor:
        """The relative squared errors ``[layers]`` of what is left of the target."""
        part = (left * self.curved(left))[:, :self.problem.own].sum(dim=[*range(1, left.dim())])
        return part.double() / self.energy + self.floor

    def _leading(self) -> tuple[int, Tensor] | None:
        """One of two weights to begin with, from the leading singular vectors of the target, where it is a matrix in them."""
        p = self.problem
        axes = [t.axes for t in p.weights]
        both = [a for a in axes[0] if a in axes[1]]
        batch, inner = [a for a in both if a in p.visible], [a for a in both if a not in p.visible]
        sides = [[a for a in own if a not in both] for own in axes]
        if any(a not in p.visible for side in sides for a in side) or not all(sides):
            return None
        sizes = [math.prod(p.extents[a] for a in side) for side in sides]
        k = int(sizes[1] < sizes[0])
        rank = math.prod(p.extents[a] for a in inner)
        if sizes[k] > MOST_VECTORS or rank >= sizes[k]:
            return None
        target = self.target.reshape(self.layers, *p.cut)
        if self.absent:
            target = target.mean(dim=self.absent)
        order = [self.present.index(a) + 1 for a in (*batch, *sides[k], *sides[1 - k])]
        matrix = target.permute(0, *order).reshape(self.layers, -1, sizes[k], sizes[1 - k])
        vectors = torch.linalg.eigh((matrix @ matrix.mT).double())[1][..., -rank:].to(self.dtype)
        lies = [*batch, *sides[k], *inner]
        spread = vectors.reshape(self.layers, *(p.extents[a] for a in lies))
        return k, spread.permute(0, *(lies.index(a) + 1 for a in axes[k]))

    # one turn, at once
    def _direct(self, k: int) -> bool:
        p = self.problem
        table = p.weights[k]
        if not table.free or p.scatter or self.mask is not None:
            return False
        joined, alone = self._joined(table)
        size = math.prod(p.extents[a] for a in joined)
        return size * size * self.layers * math.prod(p.extents[a] for a in alone) <= LARGEST

    def _joined(self, table: Table) -> tuple[list[int], list[int]]:
        """Axes of a weight along which its entries are solved for together; and those along which matrices differ."""
        p = self.problem
        spatial = p.visible[len(p.visible) - p.last:]
        shared = {a for other in p.weights if other is not table for a in other.axes}
        joined = [a for a in table.axes if (a in shared if a not in p.visible else self.gram is not None and a in spatial)]
        differ = {a for n, a in enumerate(p.visible) if self._varies(n)}
        for other in p.weights:
            if other is not table:
                differ |= {*other.axes}
        return joined, [a for a in table.axes if a not in joined and a in differ]

    def _varies(self, at: int) -> bool:
        """Whether how often products count depends on this axis of ``P``."""
        p = self.problem
        if self.gram is not None and at >= len(p.visible) - p.last:
            return False
        return self._spread_counts().shape[at] > 1

    def _spread_counts(self) -> Tensor:
        """How often products count, along all digits, 1 where that does not matter."""
        p = self.problem
        counts = self.counts
        shape: list[int] = []
        at = 0
        for n in range(counts.dim()):
            size, width = counts.shape[n], 0
            total = 1
            while total < p.shape[n] or (width == 0):
                total *= p.cut[at + width]
                width += 1
            shape += p.cut[at:at + width] if size > 1 else (1,) * width
            at += width
        return counts.reshape(shape)

    def _solved(self, spread: list[Tensor], k: int) -> Tensor:
        """The best weight ``k``, along the axes of the products."""
        p = self.problem
        table = p.weights[k]
        joined, differ = self._joined(table)
        right = self.transposed(self.pulled, spread, k)
        others = [(s, t.axes) for n, (s, t) in enumerate(zip(spread, p.weights, strict=True)) if n != k]
        inner = [a for a in dict.fromkeys(a for _, axes in others for a in axes) if a in p.visible or a in table.axes]
        rest = self._einsum(others, inner) if others else right.new_ones(self.layers)
        matrix = self._normal(rest, inner, table, joined, differ)
        size = math.prod(p.extents[a] for a in joined)
        free = [a for a in table.axes if a not in joined and a not in differ]
        order = [table.axes.index(a) + 1 for a in (*differ, *joined, *free)]
        moved = right.permute(0, *order)
        b = moved.reshape(self.layers, *matrix.shape[1:-2], size, -1)
        if size == 1:
            x = torch.where(matrix > 0, b / matrix.clamp_min(_SMALLEST), 0)
        else:
            x = _solve(matrix.double(), b.double()).to(self.dtype)
        # Entries that only ever come as a sum share it.
        x = x / math.prod(p.extents[a] for a in free if a not in p.visible)
        back = [order.index(n + 1) + 1 for n in range(len(order))]
        return x.reshape(moved.shape).permute(0, *back)

    def _normal(self, rest: Tensor, inner: list[int], table: Table, joined: list[int], differ: list[int]) -> Tensor:
        """``[layers, *differ, joined, joined]``."""
        p = self.problem
        spatial = [*p.visible[len(p.visible) - p.last:]] if self.gram is not None else []
        primed = {a: _letter(len(p.extents) + a) for a in (*joined, *spatial)}
        plain = dict(enumerate(self.letters))
        counts = self._spread_counts()
        factor = self.repeats ** 2
        if self.gram is None:
            kept = [n for n in range(counts.dim()) if counts.shape[n] > 1]
            matrix, axes = counts.reshape([counts.shape[n] for n in kept]), [p.visible[n] for n in kept]
            between = ''.join(plain[a] for a in axes)
        else:
            classes, out = self.gram.shape[:2]
            lead = [n for n, size in ((0, classes), (1, out)) if size > 1]
            tail = p.cut[len(p.cut) - p.last:]
            if out > 1:
                digits = [n for n, a in enumerate(p.visible[:len(p.visible) - p.last]) if self._is_out(n)]
                shape = [*([classes] if 0 in lead else []), *(p.cut[n] for n in digits)]
                axes = [*([p.visible[0]] if 0 in lead else []), *(p.visible[n] for n in digits)]
            else:
                shape, axes = [classes] if lead else [], [p.visible[0]] if lead else []
            matrix = self.gram.reshape(*shape, *tail, *tail)
            between = ''.join(plain[a] for a in (*axes, *spatial)) + ''.join(primed[a] for a in spatial)
            axes = [*axes, *spatial]
        known = {*inner, *axes, *table.axes}
        factor *= math.prod(p.extents[a] for a in p.visible if a not in known)
        left = 'Z' + ''.join(plain[a] for a in inner)
        right = 'Z' + ''.join(primed.get(a, plain[a]) for a in inner)
        out = 'Z' + ''.join(plain[a] for a in differ) + ''.join(plain[a] for a in joined) + ''.join(
            primed[a] for a in joined)
        found = torch.einsum(f'{left},{between},{right}->{out}', rest, matrix, rest)
        size = math.prod(p.extents[a] for a in joined)
        found = found.reshape(*found.shape[:1 + len(differ)], size, size)
        return found * factor if factor != 1 else found

    def _is_out(self, at: int) -> bool:
        """Whether a digit of ``P`` is one of the output channel."""
        p = self.problem
        total, n = 1, 1
        while total < p.shape[1]:
            total *= p.cut[n]
            n += 1
        return 1 <= at < max(n, 2)

    # one turn, step by step
    def _descended(self, weight: Tensor, spread: list[Tensor], k: int, iterations: int) -> Tensor:
        """A better weight ``k``, by conjugate gradients scaled by the diagonal of the normal equations."""
        table = self.problem.weights[k]
        ones = (1,) * (weight.dim() - 1)

        def dot(a: Tensor, b: Tensor) -> Tensor:
            return (a * b).sum(dim=[*range(1, a.dim())])

        def run(w: Tensor) -> Tensor:
            return self.product([*spread[:k], self.spread(w, table), *spread[k + 1:]])

        def back(residual: Tensor) -> Tensor:
            return self.gathered(self.transposed(residual, spread, k), table)

        diagonal = self.gathered(self.transposed(self._diagonal(), [s.square() for s in spread], k), table)
        scale = torch.where(diagonal > 1e-12 * diagonal.amax(dim=[*range(1, diagonal.dim())], keepdim=True),
                            1 / diagonal.clamp_min(_SMALLEST), 0)
        w = weight = weight * (scale > 0)
        residual = self.target - run(weight)
        curved = self.curved(residual)
        start = dot(residual, curved)
        gradient = back(curved)
        preconditioned = scale * gradient
        direction, norm = preconditioned, dot(gradient, preconditioned)
        enough = 1e-13 * self.energy.to(self.dtype)
        errors = [start]
        for _ in range(iterations):
            if bool((norm <= enough).all()):
                break
            if len(errors) > 3 and bool((errors[-4] - errors[-1] < SLOW * errors[-4]).all()):
                break
            moved = run(direction)
            step = norm / dot(moved, self.curved(moved)).clamp_min(_SMALLEST)
            w = w + step.reshape(-1, *ones) * direction
            residual = residual - step.reshape(-1, *[1] * (residual.dim() - 1)) * moved
            curved = self.curved(residual)
            errors.append(dot(residual, curved))
            gradient = back(curved)
            preconditioned = scale * gradient
            before, norm = norm, dot(gradient, preconditioned)
            direction = preconditioned + (norm / before.clamp_min(_SMALLEST)).reshape(-1, *ones) * direction
        return torch.where((errors[-1] <= start).reshape(-1, *ones), w, weight)

    def _diagonal(self) -> Tensor:
        diagonal = self.weight
        if self.gram is not None:
            p = self.problem
            d = self.gram.diagonal(dim1=-2, dim2=-1)
            lead = (1,) * (self.target.dim() - 3 - p.spatial)
            diagonal = d.reshape(*d.shape[:2], *lead, *p.shape[len(p.shape) - p.spatial:])
        return diagonal.unsqueeze(0).expand(self.target.shape)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution of symmetric systems, of which rounding may have made some indefinite."""
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    ridge = RIDGE * diagonal.sum(-1)[..., None, None] + _SMALLEST
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    factor, failed = torch.linalg.cholesky_ex(matrix + ridge * one)
    while bool(failed.any()):
        ridge = torch.where(failed[..., None, None] > 0, 100 * ridge, ridge)
        factor, failed = torch.linalg.cholesky_ex(matrix + ridge * one)
    return torch.cholesky_solve(right, factor)


def _letter(n: int) -> str:
    return 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXY'[n]
