"""Operators that were written for square maps, on rectangular ones: height and width as two sizes.

A formula such as ``out[n:N, o:C_out, h:H, w:H] = ...`` calls both sides of a map H. Its meaning where they differ is the
operator with W wherever H belongs to the axis of the width: where both are equal it is the same operator.
"""
from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from syno_nni.errors import SizeError, SynoError

from .expr import Coordinate, Iterator, Out, Sum
from .legality import check
from .size import Size

if TYPE_CHECKING:
    from .operator import Operator

_MOST_CHOICES = 8


def for_rectangles(op: Operator, height: str = 'H', width: str = 'W') -> Operator:
    """The operator with ``width`` in the place of ``height`` on the second spatial axis; itself where it has both.

    Reductions and weights stay in their order, and weights keep their shapes at equal sides.

    Raises:
        SizeError: the operator has not two axes of the same height, swaps them, or mixes them so that it cannot be told
            which is which.
    """
    if width in op.variables or height not in op.variables:
        return op
    given = [n for n, c in enumerate(op.inputs) if c.size.exponent(height)]
    made = [n for n, size in enumerate(op.outputs) if size.exponent(height)]
    if len(given) != 2 or len(made) != 2:
        raise SizeError(f'operator {op.id} was written for square maps and has {height} on {len(given)} axes of its input '
                        f'and {len(made)} of its output, not two; write it with {height} and {width} for other maps')
    wanted = [_renamed(c.size, height, width) if n == given[1] else c.size for n, c in enumerate(op.inputs)]
    choices: list[object] = [Sum(n, size) for n, size in enumerate(op.reductions) if size.exponent(height)]
    choices += dict.fromkeys((node.bottom, node.argument) for node in op.nodes()
                             if isinstance(node.argument, Size) and node.argument.exponent(height))
    if len(choices) > _MOST_CHOICES:
        raise SizeError(f'operator {op.id} uses {height} in {len(choices)} further places; write it with {height} and '
                        f'{width} for rectangular maps')
    found: list[tuple[int, Operator]] = []
    for picked in itertools.product((False, True), repeat=len(choices)):
        wide = {choice for choice, taken in zip(choices, picked) if taken} | {Out(made[1], op.outputs[made[1]])}
        try:
            rewritten = _rewritten(op, wide, height, width)
        except SynoError:
            continue
        if [c.size for c in rewritten.inputs] == wanted:
            found.append((_mixed(rewritten, height, width), rewritten))
    if not found:
        raise SizeError(f'operator {op.id} swaps or mixes height and width, so it fits square maps only; use another '
                        f'operator, or maps with {height} = {width}')
    least = min(mixed for mixed, _ in found)
    best = [rewritten for mixed, rewritten in found if mixed == least]
    if len(best) > 1:
        raise SizeError(f'operator {op.id} was written for square maps, and which of its {height} is the width cannot be '
                        f'told; write it with {height} and {width}')
    return best[0]


def _rewritten(op: Operator, wide: Iterable[object], height: str, width: str) -> Operator:
    """The operator with the iterators and arguments of ``wide`` renamed. Raises SynoError where that is none."""
    chosen = set(wide)
    done: dict[Coordinate, Coordinate] = {}

    def visit(node: Coordinate) -> Coordinate:
        if node not in done:
            if isinstance(node, Iterator):
                done[node] = type(node)(node.index, _renamed(node.size, height, width)) if node in chosen else node
            elif (node.bottom, node.argument) in chosen and isinstance(node.argument, Size):
                done[node] = type(node)(*map(visit, node.bottom), _renamed(node.argument, height, width))  # type: ignore[call-arg]
            else:
                done[node] = node.rebuild(*map(visit, node.bottom))
        return done[node]

    result = type(op)([visit(o).size for o in op.outs()], [visit(s).size for s in op.sums()], map(visit, op.inputs),
                      [tuple(map(visit, weight)) for weight in op.weights])
    check(result)
    return result


def _mixed(op: Operator, height: str, width: str) -> int:
    """How many nodes join something of the height and something of the width."""
    sides = ({v for part in (*node.bottom, node) for v in part.size.variables} | _of(node.argument)
             for node in op.nodes() if node.bottom)
    return sum({height, width} <= side for side in sides)


def _of(argument: object) -> frozenset[str]:
    return argument.variables if isinstance(argument, Size) else frozenset()


def _renamed(size: Size, old: str, new: str) -> Size:
    names: Mapping[str, str] = {old: new}
    return Size(((names.get(v, v), e) for v, e in size.powers), size.coefficient)
