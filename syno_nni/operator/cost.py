"""What an operator costs: multiply-adds, weight elements, bytes moved, what an output sees.

Multiply-adds are those of the cheapest contraction order (`syno_nni.operator.orders`), where a multiply-add counts 1, a sum
without a product counts 1 for each element summed, and views are free. The original counts every tensor, input and
weights included, one reduction order at a time and windows always exploded; ``docs/measurements/macs.md`` has both.
"""
from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction
from functools import lru_cache

import numpy as np

from .graph import Graph
from .orders import least_macs, orders
from .reference import read_mask
from .size import Binding, Size


def params(op: Graph, sizes: Binding) -> int:
    """The number of weight elements."""
    return sum(math.prod(shape) for shape in op.weight_shapes(sizes))


def macs(op: Graph, sizes: Binding) -> int:
    """Multiply-adds of the cheapest contraction order.

    Raises:
        SizeError: a size is not an integer at the binding.
    """
    return least_macs(op, table(sizes))


def polynomial(op: Graph, sizes: Binding) -> str:
    """``macs`` in the size variables, largest term first, such as ``9*C_in*C_out*H^2*N``.

    The cheapest order, and so the polynomial, depends on the binding.
    """
    best = min(orders(op), key=lambda order: order.macs(sizes))
    terms: defaultdict[tuple[tuple[str, int], ...], Fraction] = defaultdict(Fraction)
    for size in best.monomials:
        terms[size.powers] += size.coefficient
    monomials = [Size(powers, coefficient) for powers, coefficient in terms.items()]
    return ' + '.join(str(m) for m in sorted(monomials, key=lambda m: -m.ratio(sizes))) or '0'


def minimum_bytes(op: Graph, sizes: Binding, itemsize: int = 4) -> int:
    """Input, weights and output, moved once each."""
    return itemsize * (math.prod(op.input_shape(sizes)) + params(op, sizes) + math.prod(op.output_shape(sizes)))


def receptive_field(op: Graph, sizes: Binding) -> tuple[tuple[int, ...], Fraction]:
    """What an output element in the middle depends on: the extent along every input dimension, and the share of the input.

    A cyclic shift counts its whole way around.

    Raises:
        SizeError: a size is not an integer at the binding, or the work is beyond any test.
    """
    mask = read_mask(op, [extent // 2 for extent in op.output_shape(sizes)], sizes)
    touched = np.nonzero(mask)
    extents = tuple(int(i.max() - i.min()) + 1 if len(i) else 0 for i in touched)
    return extents, Fraction(int(mask.sum()), mask.size)


class _Table(dict[Size, int]):
    """Values of sizes at one binding, looked up as they are asked for."""

    def __init__(self, sizes: Binding) -> None:
        super().__init__()
        self.sizes = dict(sizes)

    def __missing__(self, size: Size) -> int:
        value = self[size] = size.value(self.sizes)
        return value


@lru_cache(maxsize=256)
def _table(items: tuple[tuple[str, int], ...]) -> _Table:
    return _Table(dict(items))


def table(sizes: Binding) -> dict[Size, int]:
    """The values of sizes at a binding, remembered over calls: costs are asked for many operators at few bindings."""
    return _table(tuple(sizes.items()))
