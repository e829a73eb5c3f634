"""What an operator computes, by definition: plain index arithmetic in float64.

``out[o...] = sum over reductions of in[e...] * w1[f...] * ...`` where a product is 0 as soon as an Unfold that one of
its tensors uses reads outside its dimension. Everything else in the project is checked against this.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .errors import GraphError
from .expr import Coordinate, Iterator, MergeLeft, MergeRight, Out, Shift, Split, Stride, Unfold
from .size import Binding

if TYPE_CHECKING:
    from .operator import Operator

CHUNK = 1 << 20  # products held in memory at once


def reference(op: Operator, x: np.ndarray, weights: Sequence[np.ndarray], sizes: Binding) -> np.ndarray:
    """The output at a binding; ``x`` has ``op.input_shape(sizes)``, weight i has ``op.weight_shapes(sizes)[i]``.

    Raises:
        SizeError: a size is not an integer at the binding.
        GraphError: an array has another shape than the operator's.
    """
    sizes = op.check_sizes(sizes)
    wanted = [op.input_shape(sizes), *op.weight_shapes(sizes)]
    arrays = [np.asarray(a, dtype=np.float64) for a in (x, *weights)]
    if [a.shape for a in arrays] != wanted:
        raise GraphError(f'reference: wanted arrays of shapes {wanted} (input, then weights), got '
                         f'{[a.shape for a in arrays]}')
    extents = [it.size.value(sizes) for it in op.iterators()]
    shape = op.output_shape(sizes)
    inner = math.prod(extents[len(shape):])
    total = math.prod(shape)
    out = np.empty(total)
    step = max(1, CHUNK // inner)
    for start in range(0, total, step):
        positions = np.arange(start, min(start + step, total))
        outer = np.unravel_index(positions, shape) if shape else ()
        summed = np.unravel_index(np.arange(inner), extents[len(shape):]) if len(extents) > len(shape) else ()
        env: dict[Iterator, np.ndarray] = {it: i[:, None] for it, i in zip(op.outs(), outer)}
        env.update({it: i[None, :] for it, i in zip(op.sums(), summed)})
        out[positions] = _products(op, arrays, env, sizes, (len(positions), inner)).sum(axis=1)
    return out.reshape(shape)


def _products(op: Operator, arrays: list[np.ndarray], env: dict[Iterator, np.ndarray], sizes: Binding,
              shape: tuple[int, int]) -> np.ndarray:
    result = np.ones(shape)
    for array, coordinates in zip(arrays, (op.inputs, *op.weights)):
        inside = np.ones(shape, dtype=bool)
        index = []
        for coordinate in coordinates:
            value, ok = evaluate(coordinate, env, sizes)
            inside = inside & ok
            index.append(value)
        at = tuple(np.where(inside, np.broadcast_to(i, shape), 0) for i in index)
        result = np.where(inside, result * array[at], 0.0)
    return result


def evaluate(node: Coordinate, env: dict[Iterator, np.ndarray], sizes: Binding) -> tuple[np.ndarray, np.ndarray]:
    """The index that a coordinate has for given iterator values, and whether every Unfold below stays inside."""
    if isinstance(node, Iterator):
        return env[node], np.True_
    (value, ok), *rest = (evaluate(c, env, sizes) for c in node.bottom)
    if isinstance(node, Split):
        return value * node.right.size.value(sizes) + rest[0][0], ok & rest[0][1]
    if isinstance(node, Unfold):
        read = value + rest[0][0] - node.right.size.value(sizes) // 2
        return read, ok & rest[0][1] & (0 <= read) & (read < node.size.value(sizes))
    if isinstance(node, Shift):
        return (value + node.offset) % node.size.value(sizes), ok
    if isinstance(node, Stride):
        return value * node.step.value(sizes), ok
    assert isinstance(node, (MergeLeft, MergeRight)), node
    block = node.block.value(sizes)
    return (value // block if isinstance(node, MergeLeft) else value % block), ok


def read_mask(op: Operator, output: Sequence[int], sizes: Binding) -> np.ndarray:
    """Which input elements reach one output element: a boolean array of the input's shape."""
    sizes = op.check_sizes(sizes)
    summed = np.indices([s.size.value(sizes) for s in op.sums()]).reshape(len(op.reductions), -1) if op.reductions else (
        np.zeros((0, 1), dtype=int))
    env: dict[Iterator, np.ndarray] = {Out(i, s): np.full(summed.shape[1], output[i]) for i, s in enumerate(op.outputs)}
    env.update(dict(zip(op.sums(), summed)))
    inside = np.ones(summed.shape[1], dtype=bool)
    index = []
    for position, coordinate in enumerate(c for t in (op.inputs, *op.weights) for c in t):
        value, ok = evaluate(coordinate, env, sizes)
        inside &= ok
        if position < len(op.inputs):
            index.append(np.broadcast_to(value, inside.shape))
    mask = np.zeros(op.input_shape(sizes), dtype=bool)
    mask[tuple(i[inside] for i in index)] = True
    return mask
