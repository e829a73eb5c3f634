"""One generator of random operators: any legal graph, wilder than what a search makes, small at a binding.

It asks a `random.Random` for every choice; `tests.testing.operators` hands it one that Hypothesis can shrink.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

import syno_nni as sn
from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold
from syno_nni.operator.size import ONE, Size, product

MAX_ELEMENTS = 4000  # of a tensor
MAX_RANK = 6

SIZES = {'N': 2}
"""The binding of what `random_operator` makes."""
_NUMBERS = [Size.of(n) for n in (1, 2, 2, 3, 3, 4, 6)]


def random_operator(seed: int, wild: bool = True, ragged: bool = False) -> sn.Operator:
    """An operator on numbers, whose input has a free batch dimension ``N`` in front; ``wild`` and ``ragged`` as in `grow`."""
    return grow(random.Random(seed), SIZES, _NUMBERS if wild else _NUMBERS[1:], _NUMBERS[1:], batch=Size.of('N'),
                most_steps=8, most_products=3000, wild=wild, ragged=ragged)


def grow(rng: random.Random, sizes: dict[str, int], extents: Sequence[Size], blocks: Sequence[Size],
         batch: Size | None = None, most_steps: int = 6, most_weights: int = 3, most_products: int = 600,
         wild: bool = True, ragged: bool = False) -> sn.Operator:
    """A legal operator of any rank.

    Args:
        rng: makes every choice.
        sizes: the binding where tensors and loops are small.
        extents: the sizes that iterators may have; those that are no integers at the binding are left out.
        blocks: the sizes of Merge blocks; the first two are also steps of Strides.
        batch: the size of an output iterator that is the first dimension of the input, and in no weight.
        most_steps: so many primitives are tried on the way from the output to the input.
        most_weights: so many weights there may be.
        most_products: so many products a loop over all iterators makes.
        wild: whether there are Merges of one block, and primitives that only a weight uses; no space makes them.
        ragged: whether there are remainders by blocks that do not divide what they cut; no space makes them.
    """
    return _Grower(rng, sizes, extents, blocks, most_products, wild, ragged).operator(batch, most_steps, most_weights)


class _Grower:
    """Grows tensors upwards from iterators, as a synthesis does: a step replaces coordinates by those above them."""

    def __init__(self, rng: random.Random, sizes: dict[str, int], extents: Sequence[Size], blocks: Sequence[Size],
                 most_products: int, wild: bool, ragged: bool) -> None:
        self.rng, self.sizes, self.extents, self.blocks = rng, sizes, extents, blocks
        self.most_products, self.wild, self.ragged = most_products, wild, ragged

    def operator(self, batch: Size | None, most_steps: int, most_weights: int) -> sn.Operator:
        rng = self.rng
        leading: list[Coordinate] = [] if batch is None else [Out(0, batch)]
        outs = self.iterators(Out, leading, 0 if batch is None else 1, 4, ONE)
        sums = self.iterators(Sum, [], 0 if outs else 1, 4, product(o.size for o in outs))
        front = [*outs[len(leading):], *sums]
        fronts = [front]
        for _ in range(rng.randint(0, most_steps)):
            front = self.step(front)
            fronts.append(front)
        weights = []
        for _ in range(rng.randint(0, most_weights)):
            # A weight shares coordinates that stood side by side at some moment, and may go its own way from there.
            weight = [c for c in rng.choice(fronts) if rng.randint(0, 3)]
            for _ in range(rng.randint(0, 2) if weight and self.wild else 0):
                weight = self.step(weight)
            weights.append(self.shuffled(weight))
        inputs = [*leading, *self.shuffled(front)]
        return sn.Operator([o.size for o in outs], [s.size for s in sums], inputs, weights)

    def value(self, size: Size) -> Fraction:
        return size.ratio(self.sizes)

    def shuffled(self, items: list[Coordinate]) -> list[Coordinate]:
        return self.rng.sample(items, len(items))

    def iterators(self, kind: type[Out] | type[Sum], found: list[Coordinate], least: int, most: int,
                  beside: Size) -> list[Coordinate]:
        """``found`` and ``least`` to ``most`` further iterators, of few values together with those ``beside`` them."""
        found = list(found)
        for _ in range(self.rng.randint(least, most)):
            taken = product(c.size for c in found) * beside
            fitting = [s for s in self.extents
                       if self.value(s).denominator == 1 and self.value(taken * s) <= self.most_products]
            found.append(kind(len(found), self.rng.choice(fitting or [ONE])))
        return found

    def step(self, front: list[Coordinate]) -> list[Coordinate]:
        """One random primitive on random coordinates; ``front`` itself when the one chosen does not fit."""
        kind = self.rng.choice(['split', 'unfold', 'merge', 'shift', 'stride', 'drop'])
        if len(front) < (2 if kind in ('split', 'unfold', 'drop') else 1):
            return front
        *rest, first = self.shuffled(front)
        new: list[Coordinate] = []
        if kind in ('split', 'unfold'):
            new = [(Split if kind == 'split' else Unfold)(first, rest.pop())]
        elif kind == 'shift':
            new = [Shift(first, self.rng.randint(-9, 9))]
        elif kind == 'stride':
            new = [Stride(first, self.rng.choice(self.blocks[:2]))]
        elif kind == 'merge':
            fitting = [b for b in self.blocks
                       if self.value(first.size / b).denominator == 1 and self.value(b).denominator == 1]
            if not self.wild:
                fitting = [b for b in fitting if 1 < self.value(b) < self.value(first.size)]
                if not fitting:
                    return front
            block = self.rng.choice(fitting or [first.size])
            new = [MergeLeft(first, block), MergeRight(first, block)]
            if self.ragged and self.rng.randint(0, 1):
                whole = [b for b in self.blocks if self.value(b).denominator == 1]
                new = [MergeRight(first, self.rng.choice(whole or [first.size]))]
        merged = rest + new
        if self.value(product(c.size for c in merged)) > MAX_ELEMENTS or len(merged) > MAX_RANK:
            return front
        return merged
