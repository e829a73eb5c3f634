"""Random operators as Hypothesis draws them, their relatives and arrays, and the definition in plain Python."""
from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from syno_nni.operator import Operator
from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold
from syno_nni.operator.size import Size

from .random_operators import grow

Draw = st.DrawFn


@st.composite
def bindings(draw: Draw) -> dict[str, int]:
    """Odd and even values, equal ones too; ``C_in/g``, ``C_out/(g*s)``, ``H/s`` and the like are integers."""
    s, g = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return {'N': draw(st.integers(1, 2)), 'C_in': s * g * draw(st.integers(1, 2)),
            'C_out': s * g * draw(st.integers(1, 2)), 'H': s * draw(st.integers(1, 3)), 'W': draw(st.integers(1, 5)),
            'k_1': draw(st.integers(1, 4)), 'k_2': draw(st.sampled_from([2, 3, 5])), 's': s, 'g': g}


SIZES = [Size.parse(t) for t in ('N', 'C_in', 'C_out', 'H', 'W', 'k_1', 'k_2', 's', 'g', 'C_in/g', 'C_out/s',
                                 'C_out/g/s', 'H/s', 's*H', 'k_1*s', '2', '3', 'C_in/s', 'C_out^2/g^2')]
BLOCKS = [Size.parse(t) for t in ('s', 'g', 'C_in/g', 'C_out/g', 'C_out/s', 'H/s', 'k_1', '2', '3', 'H', 'C_in')]


@st.composite
def operators(draw: Draw) -> tuple[Operator, dict[str, int]]:
    """A legal operator of any rank and a binding where it is small."""
    sizes = draw(bindings())
    return grow(draw(st.randoms(use_true_random=False)), sizes, SIZES, BLOCKS), sizes


@st.composite
def networks(draw: Draw, most: int = 6) -> Operator:
    """An operator whose reductions meet in weights only, mostly of equal size: the hard case of a canonical form."""
    count = draw(st.integers(2, most))
    sums = [Sum(i, Size.parse(draw(st.sampled_from(['g', 'g', 'g', 's'])))) for i in range(count)]
    out = Out(0, Size.parse('N'))
    weights = []
    for _ in range(draw(st.integers(1, 5))):
        members: list[Coordinate] = draw(st.lists(st.sampled_from(sums), unique=True, max_size=4))
        if len(members) > 1 and draw(st.integers(0, 3)) == 0:
            members = [draw(st.sampled_from([Split, Unfold]))(*members[:2]), *members[2:]]
        weights.append([*members, *([out] if draw(st.integers(0, 3)) == 0 else [])])
    return Operator([out.size], [s.size for s in sums], [out], weights)


@st.composite
def isomorphic(draw: Draw, op: Operator) -> Operator:
    """The same operator with its reductions, weights and weight dimensions in another order."""
    order = draw(st.permutations(range(len(op.reductions))))

    def rename(node: Coordinate) -> Coordinate:
        if isinstance(node, Sum):
            return Sum(order.index(node.index), node.size)
        return node.rebuild(*map(rename, node.bottom)) if node.bottom else node

    weights = [draw(st.permutations([rename(c) for c in w])) for w in draw(st.permutations(op.weights))]
    return Operator(op.outputs, [op.reductions[i] for i in order], map(rename, op.inputs), weights)


def arrays(op: Operator, sizes: dict[str, int], seed: int = 0) -> list[np.ndarray]:
    """Random input and weights; no value is 0, so that a dropped element shows."""
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape))
            for shape in (op.input_shape(sizes), *op.weight_shapes(sizes))]


def brute_force(op: Operator, tensors: Sequence[np.ndarray], sizes: dict[str, int]) -> np.ndarray:
    """The operator in plain Python integers, one product after the other; shares no code with the reference."""
    out = np.zeros(op.output_shape(sizes))
    iterators = op.iterators()
    for point in itertools.product(*(range(it.size.value(sizes)) for it in iterators)):
        at = {(type(it), it.index): value for it, value in zip(iterators, point)}
        term: Any = 1.0
        for tensor, coordinates in zip(tensors, (op.inputs, *op.weights)):
            index = [_index(c, at, sizes) for c in coordinates]
            term = 0.0 if None in index else term * tensor[tuple(index)]
            if None in index:
                break
        out[point[:len(op.outputs)]] += term
    return out


def _index(node: Coordinate, at: dict[tuple[type, int], int], sizes: dict[str, int]) -> int | None:
    """The index; None outside of a window."""
    if isinstance(node, (Out, Sum)):
        return at[type(node), node.index]
    below = [_index(c, at, sizes) for c in node.bottom]
    if None in below:
        return None
    n = node.size.value(sizes)
    match node:
        case Split():
            return below[0] * node.right.size.value(sizes) + below[1]
        case Unfold():
            read = below[0] + below[1] - node.right.size.value(sizes) // 2
            return read if 0 <= read < n else None
        case Shift():
            return (below[0] + node.offset) % n
        case Stride():
            return below[0] * node.step.value(sizes)
        case MergeLeft():
            return below[0] // node.block.value(sizes)
        case MergeRight():
            return below[0] % node.block.value(sizes)
    raise AssertionError(node)
