"""What an operator costs: multiply-adds, weight elements, bytes moved, what an output sees.

Multiply-adds are those of the cheapest evaluation order (`syno_nni.operator.orders`), where a multiply-add counts 1, a sum
without a product counts 1 for each element summed, and views are free. The original counts every tensor, input and
weights included, one reduction order at a time and windows always exploded; ``docs/measurements/macs.md`` has both.
"""
from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from .orders import least_macs, orders
from .size import Binding, Size

if TYPE_CHECKING:
    from .operator import Operator


@dataclass(frozen=True)
class Cost:
    """The cost of an operator at a binding.

    Attributes:
        macs: multiply-adds of the cheapest order, combining weights included.
        folded_macs: the same when stages among weights alone are computed ahead.
        polynomial: ``macs`` as a polynomial in the size variables; the cheapest order depends on the binding.
        params: weight elements.
        bytes: the least traffic in bytes: input, weights and output once each.
        field: the receptive field: for every input dimension the extent of the input elements that an output element
            in the middle depends on, a cyclic shift counting its whole way around.
        reach: the share of the input elements that an output element in the middle depends on.
    """
    macs: int
    folded_macs: int
    polynomial: str
    params: int
    bytes: int
    field: tuple[int, ...]
    reach: Fraction


def params(op: Operator, sizes: Binding) -> int:
    """The number of weight elements."""
    return sum(math.prod(shape) for shape in op.weight_shapes(sizes))


def macs(op: Operator, sizes: Binding) -> int:
    """Multiply-adds of the cheapest evaluation order.

    Raises:
        SizeError: a size is not an integer at the binding.
    """
    return least_macs(op, table(sizes))


def polynomial(op: Operator, sizes: Binding) -> str:
    """``macs`` in the size variables, largest term first, such as ``9*C_in*C_out*H^2*N``."""
    best = min(orders(op), key=lambda order: order.macs(sizes))
    terms: defaultdict[tuple, Fraction] = defaultdict(Fraction)
    for size in best.monomials:
        terms[size.powers] += size.coefficient
    monomials = [Size(powers, coefficient) for powers, coefficient in terms.items()]
    return ' + '.join(str(m) for m in sorted(monomials, key=lambda m: -m.ratio(sizes))) or '0'


def minimum_bytes(op: Operator, sizes: Binding, itemsize: int = 4) -> int:
    """Input, weights and output, moved once each."""
    return itemsize * (math.prod(op.input_shape(sizes)) + params(op, sizes) + math.prod(op.output_shape(sizes)))


def reach(op: Operator, sizes: Binding) -> tuple[tuple[int, ...], Fraction]:
    """Receptive field and share of the input, of the output element in the middle (see `Cost`)."""
    import numpy as np

    from .reference import read_mask
    mask = read_mask(op, [extent // 2 for extent in op.output_shape(sizes)], sizes)
    touched = np.nonzero(mask)
    extents = tuple(int(i.max() - i.min()) + 1 if len(i) else 0 for i in touched)
    return extents, Fraction(int(mask.sum()), mask.size)


def cost(op: Operator, sizes: Binding) -> Cost:
    """Everything at once.

    Raises:
        SizeError: a size is not an integer at the binding.
    """
    sizes = op.check_sizes(sizes)
    found = orders(op)
    field, share = reach(op, sizes)
    return Cost(macs(op, sizes), min(o.macs(sizes, folded=True) for o in found), polynomial(op, sizes),
                params(op, sizes), minimum_bytes(op, sizes), field, share)


class _Table(dict):
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
