"""Initial weights."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .size import Binding

if TYPE_CHECKING:
    from .operator import Operator


def initialize(op: Operator, sizes: Binding, weights: Sequence[Tensor]) -> None:
    """Draws normal weights so that an output has the variance of the input: var(out) = R * prod(var(w)) * var(in)."""
    reads = 1
    for reduction in op.reductions:
        reads *= reduction.value(sizes)
    with torch.no_grad():
        for weight in weights:
            weight.normal_(std=reads ** (-0.5 / len(weights)))
