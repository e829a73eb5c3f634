"""The plainest lowering: views down to iterators, then one einsum. Slow, and right for every operator."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from direct_views import explode
from torch import Tensor

from syno_nni.operator.size import Binding

if TYPE_CHECKING:
    from syno_nni.operator import Operator


def run(op: Operator, sizes: Binding, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The operator's output. ``x`` has ``op.input_shape(sizes)``, up to the size of a batch dimension."""
    number = {it: n for n, it in enumerate(op.iterators())}
    operands: list[Tensor | list[int]] = []
    extents: dict[int, int] = {}
    for tensor, labels in zip((x, *weights), (op.inputs, *op.weights)):
        tensor, leaves = explode(tensor, labels, sizes)
        indices = [number[leaf] for leaf in leaves]
        extents.update(zip(indices, tensor.shape))
        operands += [tensor, indices]
    kept = [number[out] for out in op.outs() if number[out] in extents]
    result = torch.einsum(*operands, kept)
    repeats = math.prod(s.size.value(sizes) for s in op.sums() if number[s] not in extents)
    if repeats != 1:
        result = result * repeats
    for position, out in enumerate(op.outs()):
        if number[out] not in extents:
            result = result.unsqueeze(position)
    return result.expand([extents.get(number[out], out.size.value(sizes)) for out in op.outs()])
