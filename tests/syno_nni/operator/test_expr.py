from __future__ import annotations

import copy

import pytest

from syno_nni.errors import GraphError, SizeError
from syno_nni.operator.expr import (
    Coordinate,
    MergeLeft,
    MergeRight,
    Out,
    Shift,
    Split,
    Stride,
    Sum,
    Unfold,
    sibling,
    substitute,
)
from syno_nni.operator.size import Size

H, C, K, S = (Size.parse(t) for t in ('H', 'C', 'k', 's'))
h, c, i = Out(0, H), Sum(0, C), Sum(1, K)


@pytest.mark.parametrize(('node', 'size'), [
    (Split(h, c), 'H*C'), (Unfold(h, i), 'H'), (Shift(h, -3), 'H'), (Stride(h, S), 'H*s'), (MergeLeft(h, S), 'H/s'),
    (MergeRight(h, S), 's'), (MergeLeft(h, 's'), 'H/s'), (Stride(h, 2), '2*H'),
])
def test_sizes_of_primitives(node: Coordinate, size: str) -> None:
    assert node.size == Size.parse(size)


def test_coordinates_compare_by_structure() -> None:
    assert Unfold(Shift(h), i) == Unfold(Shift(Out(0, H), 1), Sum(1, K))
    assert len({Unfold(h, i), Unfold(h, i), Unfold(i, h), Split(h, i), Shift(h, 2), Shift(h, 3), MergeLeft(h, S),
                MergeRight(h, S), Stride(h, S)}) == 8
    assert Out(0, H) != Sum(0, H)
    node = Split(MergeLeft(h, S), i)
    assert copy.deepcopy(node) is node
    assert repr(node) == 'Split(MergeLeft(Out(0), s), Sum(1))'


def test_walking() -> None:
    node = Split(Shift(Unfold(h, i)), c)
    assert [type(n).__name__ for n in node.walk()] == ['Split', 'Shift', 'Unfold', 'Out', 'Sum', 'Sum']
    assert list(node.iterators()) == [h, i, c]
    assert node.depth == 4


def test_substitute_and_rebuild() -> None:
    node = Split(Shift(Unfold(h, i), 2), c)
    assert substitute(node, {i: c, c: i}) == Split(Shift(Unfold(h, c), 2), i)
    assert substitute(node, {}) is node
    assert sibling(MergeLeft(h, S)) == MergeRight(h, S) and sibling(sibling(MergeLeft(h, S))) == MergeLeft(h, S)


@pytest.mark.parametrize('make', [
    lambda: Split(h, 'i'), lambda: Unfold(None, h), lambda: Shift(3), lambda: Stride('h', S),
    lambda: MergeLeft([h], S)])
def test_primitives_take_coordinates(make: object) -> None:
    with pytest.raises(GraphError, match='made from coordinates'):
        make()  # type: ignore[operator]


@pytest.mark.parametrize('make', [lambda: Stride(h, 0), lambda: MergeLeft(h, None), lambda: MergeRight(h, '//')])
def test_blocks_and_steps_are_sizes(make: object) -> None:
    with pytest.raises(SizeError):
        make()  # type: ignore[operator]
