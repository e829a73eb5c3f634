"""Cheap random draws: a numpy generator costs microseconds a call, and random walks draw many single values."""
from __future__ import annotations

from collections.abc import Iterator as Iter
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar('T')
BLOCK = 64


class Random:
    """Draws from a numpy generator, in blocks."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._block: Iter[float] = iter(())

    def uniform(self) -> float:
        """A number in [0, 1)."""
        for value in self._block:
            return value
        self._block = iter(self._rng.random(BLOCK).tolist())
        return next(self._block)

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return int(self.uniform() * count)

    def choice(self, items: Sequence[T]) -> T:
        return items[int(self.uniform() * len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """One item, drawn in proportion to its weight; at least one weight is positive."""
        at = self.uniform() * sum(weights)
        for item, weight in zip(items, weights):
            at -= weight
            if at < 0:
                return item
        return next(item for item, weight in zip(reversed(items), reversed(weights)) if weight)

    def shuffled(self, items: Sequence[T]) -> list[T]:
        result = list(items)
        for at in range(len(result) - 1, 0, -1):
            other = self.below(at + 1)
            result[at], result[other] = result[other], result[at]
        return result
