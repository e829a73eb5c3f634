"""What an operator computes, by definition: plain index arithmetic in float64.

``out[o...] = sum over reductions of in[e...] * w1[f...] * ...`` where a product is 0 as soon as an Unfold that one of
its tensors uses reads outside its dimension. Everything else in the project is checked against this.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np

from syno_nni.errors import GraphError, SizeError, shown

from .expr import Coordinate, Iterator, MergeLeft, MergeRight, Shift, Split, Stride, Unfold
from .graph import Graph
from .size import Binding

CHUNK = 1 << 20  # products held in memory at once
MAX_PRODUCTS = 1 << 36  # hours; a definition is for checking, not for running
MAX_OUTPUTS = 1 << 28  # 2 GiB


def reference(op: Graph, x: np.ndarray, weights: Sequence[np.ndarray], sizes: Binding) -> np.ndarray:
    """The output at a binding; ``x`` has ``op.input_shape(sizes)``, weight i has ``op.weight_shapes(sizes)[i]``.

    Raises:
        SizeError: a size is not an integer at the binding, or the work is beyond any test.
        GraphError: an array has another shape than the operator's.
    """
    sizes = op.check_sizes(sizes)
    wanted = [op.input_shape(sizes), *op.weight_shapes(sizes)]
    try:
        arrays = [np.asarray(a, dtype=np.float64) for a in (x, *weights)]
    except (TypeError, ValueError) as error:
        raise GraphError(f'reference: wanted arrays of numbers, got {shown(x)} and {shown(weights)}: {error}') from None
    if [a.shape for a in arrays] != wanted:
        raise GraphError(f'reference: wanted arrays of shapes {wanted} (input, then weights), got '
                         f'{[a.shape for a in arrays]}')
    extents = [it.size.value(sizes) for it in op.iterators()]
    shape = op.output_shape(sizes)
    inner = math.prod(extents[len(shape):])
    total = math.prod(shape)
    _check_work(total, inner)
    out = np.zeros(total)
    step = max(1, CHUNK // inner)
    for start in range(0, total, step):
        positions = np.arange(start, min(start + step, total))
        outer = _unravel(positions, shape)
        for first in range(0, inner, CHUNK):
            reduced = np.arange(first, min(first + CHUNK, inner))
            env: dict[Iterator, np.ndarray] = {it: i[:, None] for it, i in zip(op.outs(), outer)}
            env.update({it: i[None, :] for it, i in zip(op.sums(), _unravel(reduced, extents[len(shape):]))})
            out[positions] += _products(op, arrays, env, sizes, (len(positions), len(reduced))).sum(axis=1)
    return out.reshape(shape)


def _check_work(outputs: int, products: int) -> None:
    if outputs > MAX_OUTPUTS or outputs * products > MAX_PRODUCTS:
        raise SizeError(f'reference: {outputs} outputs of {products} products each are more than the definition is '
                        f'made for ({MAX_OUTPUTS} outputs, {MAX_PRODUCTS} products in all); bind smaller values')


def _unravel(positions: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, ...]:
    """np.unravel_index that takes any rank."""
    return np.unravel_index(positions, tuple(shape)) if shape else ()


def _products(op: Graph, arrays: list[np.ndarray], env: dict[Iterator, np.ndarray], sizes: Binding,
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
        return env[node], np.array(True)
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


def read_mask(op: Graph, output: Sequence[int], sizes: Binding) -> np.ndarray:
    """Which input elements reach the output element at position ``output``: a boolean array of the input's shape.

    Raises:
        SizeError: a size is not an integer at the binding, or the work is beyond any test.
        GraphError: ``output`` is not a position in the output.
    """
    sizes = op.check_sizes(sizes)
    shape = op.output_shape(sizes)
    if len(output) != len(shape) or not all(0 <= o < n for o, n in zip(output, shape)):
        raise GraphError(f'read_mask: wanted a position in an output of shape {shape}, got {shown(tuple(output))}')
    summed = [s.value(sizes) for s in op.reductions]
    inner = math.prod(summed)
    _check_work(math.prod(op.input_shape(sizes)), 1)
    _check_work(1, inner)
    mask = np.zeros(op.input_shape(sizes), dtype=bool)
    for first in range(0, inner, CHUNK):
        positions = np.arange(first, min(first + CHUNK, inner))
        env: dict[Iterator, np.ndarray] = {it: np.full(len(positions), at) for it, at in zip(op.outs(), output)}
        env.update(zip(op.sums(), _unravel(positions, summed)))
        read = [[evaluate(c, env, sizes) for c in coordinates] for coordinates in (op.inputs, *op.weights)]
        inside = np.ones(len(positions), dtype=bool)
        for _, ok in chain.from_iterable(read):
            inside = inside & ok
        mask[tuple(np.broadcast_to(index, inside.shape)[inside] for index, _ in read[0])] = True
    return mask
