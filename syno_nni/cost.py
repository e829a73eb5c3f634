"""What an operator costs: multiply-adds, weight elements."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .size import Binding

if TYPE_CHECKING:
    from .operator import Operator


def params(op: Operator, sizes: Binding) -> int:
    """The number of weight elements."""
    return sum(math.prod(shape) for shape in op.weight_shapes(sizes))


def macs(op: Operator, sizes: Binding) -> int:
    """Multiply-adds of the plainest evaluation."""
    return math.prod(it.size.value(sizes) for it in op.iterators()) * max(1, len(op.weights))
