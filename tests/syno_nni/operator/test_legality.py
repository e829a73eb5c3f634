from __future__ import annotations

import pytest

from syno_nni.errors import GraphError, SizeError
from syno_nni.operator import Operator
from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Out, Shift, Split, Sum, Unfold
from syno_nni.operator.legality import MAX_DEPTH, RULES
from syno_nni.operator.size import Size

H, G = Size.parse('H'), Size.parse('g')
h, r = Out(0, H), Sum(0, G)


def nest(node: Coordinate, times: int) -> Coordinate:
    for _ in range(times):
        node = Shift(node)
    return node


def doubled(times: int) -> Coordinate:
    """A graph of ``times`` nodes that is a tree of ``2**times`` leaves."""
    node: Coordinate = Out(0, Size.parse('1'))
    for _ in range(times):
        node = Split(node, node)
    return node


@pytest.mark.parametrize(('rule', 'parts'), [
    ('bounded', (['H'], [], [], [])),
    ('bounded', (['H'], [], [h] * 17, [])),
    ('bounded', (['H'] * 17, [], [h], [])),
    ('bounded', (['H'], ['g'] * 17, [h], [])),
    ('bounded', (['H'], [], [h], [[]] * 9)),
    ('bounded', (['H'], [], ['h'], [])),
    ('bounded', (['H'], [], [nest(h, MAX_DEPTH)], [])),
    ('bounded', (['1'], [], [doubled(30)], [])),
    ('bounded', (['H'], [], [h], [[nest(h, 28)] * 6] * 7)),
    ('known-iterators', (['H'], [], [r], [])),
    ('known-iterators', (['H'], ['g'], [Sum(1, G)], [])),
    ('known-iterators', (['H'], ['g'], [Sum(0, H)], [])),
    ('known-iterators', (['H'], ['g'], [Out(-1, H)], [])),
    ('known-iterators', (['H'], ['g'], [Out('0', H)], [])),  # type: ignore[arg-type]
    ('offsets-are-integers', (['H'], [], [Shift(h, 1.5)], [])),  # type: ignore[arg-type]
    ('offsets-are-integers', (['H'], [], [Shift(h, True)], [])),
    ('offsets-are-integers', (['H'], [], [Shift(h, 10 ** 5000)], [])),
    ('data-linear', (['H'], [], [h, h], [])),
    ('data-linear', (['H'], [], [Unfold(h, h)], [])),
    ('data-linear', (['H'], [], [h, Shift(h)], [])),
    ('data-linear', (['H'], [], [MergeLeft(h, G), MergeRight(h, H / G)], [])),
    ('data-linear', (['H'], [], [MergeLeft(h, G), MergeRight(h, G), h], [])),
    ('weight-linear', (['H'], [], [h], [[h, h]])),
    ('weight-linear', (['H'], ['g'], [h], [[Split(h, r), r]])),
])
def test_each_rule_has_a_graph_that_breaks_it(rule: str, parts: tuple) -> None:
    assert rule in RULES
    with pytest.raises(GraphError, match=rf'illegal operator \({rule}\)') as caught:
        Operator(*parts)
    assert len(str(caught.value)) < 400


def test_every_rule_says_what_it_demands() -> None:
    assert all(check.__doc__ for check in RULES.values())


@pytest.mark.parametrize('parts', [
    (['H'], [], [nest(h, MAX_DEPTH - 1)], []),
    (['H'], [], [MergeLeft(h, G), MergeRight(h, G)], []),
    (['H'], ['g'], [Unfold(h, r)], [[Unfold(h, r)], [h, r], []]),
    ([], ['g'], [r], []),
    (['H'], ['g'], [h], []),
])
def test_unusual_and_legal(parts: tuple) -> None:
    op = Operator(*parts)
    assert Operator.parse(str(op)) == op == Operator.from_dict(op.to_dict())


@pytest.mark.parametrize('parts', [
    (None, [], [h], []), (['H'], 3, [h], []), (['H'], [], None, []), (['H'], [], [h], [3])])
def test_parts_are_lists(parts: tuple) -> None:
    with pytest.raises(GraphError, match='must be a list'):
        Operator(*parts)


@pytest.mark.parametrize('sizes', [[0], [None], ['H*'], [1.5]])
def test_sizes_are_sizes(sizes: list) -> None:
    with pytest.raises(SizeError):
        Operator(sizes, [], [h], [])
