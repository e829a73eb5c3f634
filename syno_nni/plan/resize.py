"""The sizes of an operator at the shape of an input: those that its weights do not depend on follow from the shape.

Channels, groups and windows stay as they were bound; height, width, length, tokens and the batch are whatever the input
has. A variable keeps its value if a weight's shape contains it, if the input's shape does not, or if it is a
coefficient: one with a lower-case name (``s``, ``k_1``) that is nowhere an input dimension of its own.
"""
from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from syno_nni.errors import GraphError, SizeError
from syno_nni.operator.concrete import free_batch
from syno_nni.operator.rectangles import for_rectangles
from syno_nni.operator.size import Binding, Size

if TYPE_CHECKING:
    from syno_nni.operator import Operator

_FARTHEST = 512
"""How far to look for sizes that fit."""


def resized(op: Operator, sizes: Binding, shape: Sequence[int]) -> tuple[Operator, dict[str, int]]:
    """The operator and the binding for an input of this shape, batch included.

    The operator is another one only on a rectangular map for which it was not written
    (`syno_nni.operator.rectangles`); its weights are the same.

    Raises:
        GraphError: the input has another number of dimensions, or another size where the weights fix it.
        SizeError: the formula does not allow the size; names those nearest to it that it does.
    """
    given = _given(op, sizes, shape)
    if len(shape) != len(op.inputs):
        raise GraphError(f'{given}: wanted {len(op.inputs)} dimensions, not {len(shape)}')
    if any(n < 1 for n in shape[free_batch(op) is not None:]):
        raise SizeError(f'{given}: a dimension without elements')
    found = _solve(op, sizes, shape)
    sides = [n for c, n in zip(op.inputs, shape, strict=True) if c.size.exponent('H')]
    if found is None and 'W' not in op.variables and len(sides) == 2 and sides[0] != sides[1]:
        op = for_rectangles(op)
        found = _solve(op, {**sizes, 'W': sizes['H']}, shape)
    if found is None:
        free = ', '.join(sorted(followers(op))) or 'none'
        raise GraphError(f'{given}; build the layer for the sizes it will see (sizes that may change '
                         f'here, as no weight depends on them: {free})')
    try:
        op.check_sizes(found)
    except SizeError as error:
        raise SizeError(f'{given}: {error}{_nearest(op, found)}') from None
    return op, found


def followers(op: Operator) -> frozenset[str]:
    """The variables that follow from the shape of the input."""
    kept = {v for weight in op.weights for c in weight for v in c.size.variables}
    alone = {v for c in op.inputs if c.size.coefficient == 1 and len(c.size.powers) == 1 for v in c.size.variables}
    seen = {v for c in op.inputs for v in c.size.variables}
    return frozenset(v for v in seen - kept if v in alone or not v[0].islower())


def _solve(op: Operator, sizes: Binding, shape: Sequence[int]) -> dict[str, int] | None:
    """The binding at which the input has this shape; None if there is none, or more than one."""
    known: dict[str, int] = {v: n for v, n in sizes.items() if v not in followers(op)}
    open_ = [(c.size, n) for c, n in zip(op.inputs, shape, strict=True)]
    if (batch := free_batch(op)) is not None:
        open_ = open_[1:]
        known |= {v: sizes[v] for v in batch.size.variables}
    while open_:
        ready = [(size, n) for size, n in open_ if sum(v not in known for v in size.variables) <= 1]
        if not ready:
            return None
        for size, n in ready:
            missing = [v for v in size.variables if v not in known]
            if missing:
                value = _root(size, missing[0], known, n)
                if value is None:
                    return None
                known[missing[0]] = value
            elif size.ratio(known) != n:
                return None
        open_ = [pair for pair in open_ if pair not in ready]
    return {v: known.get(v, n) for v, n in sizes.items()}


def _root(size: Size, variable: str, known: Binding, wanted: int) -> int | None:
    """The positive integer value of ``variable`` at which ``size`` is ``wanted``."""
    exponent = size.exponent(variable)
    rest = Size([(v, e) for v, e in size.powers if v != variable], size.coefficient).ratio(known)
    power = Fraction(wanted) / rest
    if exponent < 0:
        power, exponent = 1 / power, -exponent
    if power.denominator != 1:
        return None
    value = round(power.numerator ** (1 / exponent))
    return next((v for v in (value - 1, value, value + 1) if v > 0 and v ** exponent == power.numerator), None)


def _given(op: Operator, sizes: Binding, shape: Sequence[int]) -> str:
    built = list(op.input_shape(sizes))
    shown = ', '.join(map(str, built))
    if free_batch(op) is not None:
        shown = ', '.join(['any', *map(str, built[1:])])
    return f'operator {op.id} was built for inputs of shape [{shown}], got {list(shape)}'


def _nearest(op: Operator, sizes: dict[str, int]) -> str:
    """The values nearest to those of the variables that do not fit, as the end of a message."""
    free = followers(op)
    wanted = {*op.outputs, *op.reductions, *(n.size for n in op.nodes()),
              *(n.argument for n in op.nodes() if isinstance(n.argument, Size))}
    changed: dict[str, list[int]] = {}
    for variable in sorted(free & op.variables):
        own = [size for size in wanted if size.variables & free == {variable}]
        if not own or all(size.ratio(sizes).denominator == 1 for size in own):
            continue
        n = sizes[variable]
        changed[variable] = [next((value for value in values if all(
            size.ratio({**sizes, variable: value}).denominator == 1 for size in own)), 0)
            for values in (range(n, max(n - _FARTHEST, 0), -1), range(n, n + _FARTHEST))]
    shown = [f'{v} = ' + ' or '.join(str(n) for n in near if n) for v, near in changed.items() if any(near)]
    return f'; nearest that fit: {", ".join(shown)}' if shown else ''
