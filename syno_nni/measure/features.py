"""What the time of a layer is made of: counts that a cost model weighs, by name.

``KIND.calls``: library calls, the pieces of composite steps included. ``KIND.bytes``: read and written. ``KIND.runs``:
stretches of memory that are copied as one; many when the innermost dimension moves. ``conv.REGIME.macs``: multiply-adds, with
channels filled up to vector registers; ``conv.thin``: those whose channels do not fill them, once more. ``*.lines``: rows of
results, a register wide. ``*.weights``: bytes of constants read once. ``layout``: changes between a blocked layout of channels,
which convolutions want, and the plain one. ``segment``: all that moves data between two products, and what comes out of it.
``tail``: an activation behind, where it cannot be fused. ``layer.calls``: one for every layer.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .work import Shape, Work, elements

Features = dict[str, float]
"""Non-negative counts by name; those that are zero may be missing."""
LANES = 16
"""Channels are counted in blocks of so many: numbers in a vector register."""
FREE = frozenset({'reshape', 'unsqueeze', 'narrow', 'expand'})
"""Views."""
PRODUCTS = frozenset({'conv', 'matmul', 'einsum', 'box'})
KEEPS_LAYOUT = frozenset({'mul', 'scale', 'bias', 'pool'})


def features(work: Sequence[Work], *, activation: bool = True) -> Features:
    """The counts of some calls one after another, between two convolutions.

    Args:
        work: the calls.
        activation: whether an elementwise activation follows, which the last call does along if it is a convolution.
    """
    found: Features = {'layer.calls': 1.0}
    blocked = True
    _segments(found, work)
    for step in work:
        keeps, wants = _layout(step, blocked)
        if keeps is not None and keeps != blocked:
            _change(found, step.reads[0], step.times)
        blocked = wants
        for name, value in _of(step).items():
            scaled = value if name.endswith(('.calls', '.weights')) else value * step.times
            found[name] = found.get(name, 0.0) + scaled
    if work:
        if not blocked:
            _change(found, work[-1].shape, work[-1].times)
        if activation and work[-1].kind != 'conv':
            _add(found, 'tail.calls', 1)
            _add(found, 'tail.bytes', 8 * elements(work[-1].shape) * work[-1].times)
    return found


def _add(found: Features, name: str, value: float) -> None:
    found[name] = found.get(name, 0.0) + value


def _segments(found: Features, work: Sequence[Work]) -> None:
    """What moves data between two products, which a compiler makes one loop of."""
    for n, step in enumerate(work):
        if step.kind not in PRODUCTS and step.kind not in FREE and _last_of_segment(work[n + 1:]):
            _add(found, 'segment.calls', 1)
            _add(found, 'segment.bytes', 4 * elements(step.shape) * step.times)


def _last_of_segment(rest: Sequence[Work]) -> bool:
    following = next((step.kind for step in rest if step.kind not in FREE), None)
    return following is None or following in PRODUCTS


def _change(found: Features, shape: Shape, times: float) -> None:
    _add(found, 'layout.calls', 1)
    _add(found, 'layout.bytes', 8 * elements(shape) * times)


def _layout(step: Work, blocked: bool) -> tuple[bool | None, bool]:
    """Whether a step wants its input blocked (None: it does not care), and whether its result is."""
    if step.kind == 'conv':
        regime = _regime(step)
        if regime == 'narrow':
            return False, True
        return (True, True) if regime in ('dense', 'pointwise', 'grouped', 'depthwise') else (False, False)
    if step.kind in KEEPS_LAYOUT:
        return None, blocked
    return False, False


def _regime(step: Work) -> str:
    """How a convolution is computed."""
    kernel, groups = step.reads[1], step.arguments[1]
    outer, inner = kernel[0] // groups, kernel[1]
    if len(kernel) != 4:
        return 'line' if len(kernel) == 3 else 'solid'
    if groups > 1:
        if inner == outer == 1:
            return 'depthwise'
        return 'grouped' if inner % LANES == 0 and outer % LANES == 0 else 'ragged'
    if inner < LANES:
        return 'narrow'
    return 'pointwise' if math.prod(kernel[2:]) == 1 else 'dense'


def _of(step: Work) -> Features:
    if step.kind in FREE:
        return {'view.calls': 1}
    return _BY_KIND.get(step.kind, _copy)(step)


def _filled(n: int, lanes: int = LANES) -> int:
    return math.ceil(n / lanes) * lanes


def _conv(step: Work) -> Features:
    regime, kernel, groups = _regime(step), step.reads[1], step.arguments[1]
    outer, inner, taps = kernel[0] // groups, kernel[1], math.prod(kernel[2:])
    places = elements(step.shape) // kernel[0]
    blocks = kernel[0] if regime == 'depthwise' else groups * _filled(outer)
    lines = places // step.shape[-1] * math.ceil(blocks / LANES)
    name = f'conv.{regime}'
    return {f'{name}.calls': 1, f'{name}.macs': float(places * blocks * inner * taps),
            f'{name}.lines': float(lines * inner * math.prod(kernel[2:-1])),
            'conv.bytes': 4.0 * (elements(step.reads[0]) + elements(step.shape)),
            'conv.weights': 4.0 * elements(kernel),
            **({'conv.thin.calls': 1.0, 'conv.thin.macs': float(places * kernel[0] * inner * taps)}
               if regime in ('dense', 'pointwise', 'narrow', 'ragged') and (outer % LANES or inner % LANES) else {}),
            **({'conv.groups': float(groups * step.shape[0])} if groups > 1 else {})}


def _matmul(step: Work) -> Features:
    left, right = step.reads[0], step.reads[1]
    depth = left[-1]
    rows, columns = (step.shape[-2] if len(step.shape) > 1 else 1), step.shape[-1]
    return _product(step, math.prod(step.shape) // (rows * columns), rows, columns, depth, len(right) > 2 or step.constant[0])


def _product(step: Work, count: int, rows: int, columns: int, depth: int, unpacked: bool) -> Features:
    weights = sum(elements(s) for s, c in zip(step.reads, step.constant) if c)
    data = sum(elements(s) for s, c in zip(step.reads, step.constant) if not c)
    name = 'product.unpacked' if unpacked else 'product.packed'
    return {f'{name}.calls': 1, f'{name}.macs': float(count * _filled(rows, 4) * _filled(columns) * _filled(depth, 4)),
            'product.count': float(count), 'product.lines': float(count * rows * math.ceil(columns / LANES)),
            'product.bytes': 4.0 * (data + elements(step.shape)), 'product.weights': 4.0 * weights}


def _einsum(step: Work) -> Features:
    inputs, output = step.arguments[0].split('->')
    terms = inputs.split(',')
    extent = {letter: n for term, shape in zip(terms, step.reads) for letter, n in zip(term, shape)}
    if len(terms) != 2:
        columns = max(elements(step.shape), 1)
        return _product(step, 1, 1, columns, max(math.prod(extent.values()) // columns, 1), True)
    left, right = set(terms[0]), set(terms[1])

    def of(letters: set[str]) -> int:
        return math.prod(extent[letter] for letter in letters)

    both = left & right
    return {**_product(step, of(both & set(output)), of(left - both), of(right - both), of(both - set(output)), True),
            'einsum.calls': 1, 'einsum.bytes': 8.0 * (sum(elements(s) for s, c in zip(step.reads, step.constant) if not c)
                                                      + elements(step.shape))}


def _moved(step: Work) -> int:
    return 4 * (elements(step.reads[0]) + elements(step.shape))


def _copied(name: str, pieces: int, moved: float, runs: float) -> Features:
    return {f'{name}.calls': float(pieces), f'{name}.bytes': float(moved), f'{name}.runs': float(runs)}


def _copy(step: Work) -> Features:
    """A kind that is not known here: one pass over its data."""
    return _copied('copy', 1, _moved(step), elements(step.shape[:-1]))


def _runs(shape: Shape, dim: int) -> int:
    """Stretches that are contiguous when dimension ``dim`` is cut."""
    return elements(shape[:dim + 1])


def _roll(step: Work) -> Features:
    dim = step.arguments[1]
    return _copied('roll', 3, 2 * _moved(step), 2 * elements(step.shape[:dim]) * 2)


def _wrap(step: Work) -> Features:
    return _copied('roll', 3, 2 * _moved(step), 4 * elements(step.shape[:step.arguments[0]]))


def _pad(step: Work) -> Features:
    return _copied('pad', 1, _moved(step), 2 * elements(step.shape[:step.arguments[0]]))


def _every(step: Work) -> Features:
    return _copied('every', 1, _moved(step), _runs(step.shape, step.arguments[0]))


def _permute(step: Work) -> Features:
    order, shape = step.arguments[0], step.shape
    kept = len(order)
    while kept and order[kept - 1] == kept - 1:
        kept -= 1
    moved = [n for n in range(kept) if shape[n] != 1]
    if [order[n] for n in moved] == sorted(order[n] for n in moved):
        return {'view.calls': 1}
    return _copied('permute', 1, _moved(step), elements(shape[:kept]))


def _planes(name: str, step: Work, planes: int, pieces: int, at: int) -> Features:
    """Slices of the data, moved and joined."""
    return _copied(name, planes * pieces, 2 * _moved(step), 2 * planes * elements(step.reads[0][:at]))


def _digits(step: Work) -> Features:
    digit, rest = step.arguments[0], step.arguments[1]
    return _planes('planes', step, step.reads[0][digit], 3, max(digit, rest))


def _digit_sum(step: Work) -> Features:
    digit, rest = step.arguments[0], step.arguments[1]
    return _planes('summed', step, step.reads[0][digit], 4, max(digit, rest))


def _carry(step: Work) -> Features:
    return _planes('planes', step, 2, 3, step.arguments[0])


def _carry_sum(step: Work) -> Features:
    return _planes('summed', step, 2, 4, step.arguments[0])


def _shear(step: Work) -> Features:
    dim, along, window = step.arguments[:3]
    return _planes('planes', step, window, 2, max(dim, along))


def _shear_sum(step: Work) -> Features:
    dim, along, window = step.arguments[:3]
    return _copied('summed', 3 * window, 4 * (2 * elements(step.reads[0]) + 3 * window * elements(step.shape)),
                   window * elements(step.reads[0][:max(dim, along)]))


def _windows(step: Work) -> Features:
    return _copied('windows', 2, _moved(step), elements(step.shape[:step.arguments[0] + 2]))


def _sum(step: Work) -> Features:
    dims = step.arguments[0] if isinstance(step.arguments[0], tuple) else (step.arguments[0],)
    inner = max(dims) == len(step.reads[0]) - 1
    return _copied('sum.inner' if inner else 'sum.outer', 1, _moved(step), elements(step.reads[0][:max(dims)]))


def _box(step: Work) -> Features:
    return {'conv.depthwise.calls': 1, 'conv.depthwise.macs': float(elements(step.shape) * step.arguments[0]),
            'conv.bytes': float(_moved(step))}


def _pointwise(step: Work) -> Features:
    return {'elementwise.calls': 1, 'elementwise.bytes': float(_moved(step))}


def _pool(step: Work) -> Features:
    return {'pool.calls': 1, 'pool.bytes': float(_moved(step))}


_BY_KIND: dict[str, Callable[[Work], Features]] = {
    'conv': _conv, 'box': _box, 'matmul': _matmul, 'einsum': _einsum, 'permute': _permute, 'every': _every,
    'roll': _roll, 'wrap': _wrap, 'pad': _pad, 'carry': _carry, 'digits': _digits, 'shear': _shear, 'windows': _windows,
    'one_hot': _pointwise, 'sum': _sum, 'total': _sum, 'taps': _pointwise, 'digit_sum': _digit_sum,
    'carry_sum': _carry_sum, 'shear_sum': _shear_sum, 'scale': _pointwise, 'mul': _pointwise, 'bias': _pointwise,
    'pool': _pool,
}

REGIMES = ('dense', 'pointwise', 'grouped', 'depthwise', 'narrow', 'ragged', 'line', 'solid')
NAMES: tuple[str, ...] = (
    'layer.calls', 'view.calls', *(f'conv.{r}.{what}' for r in REGIMES for what in ('calls', 'macs', 'lines')),
    'conv.thin.calls', 'conv.thin.macs', 'conv.bytes', 'conv.weights', 'conv.groups',
    *(f'product.{p}.{what}' for p in ('packed', 'unpacked') for what in ('calls', 'macs')),
    'product.count', 'product.lines', 'product.bytes', 'product.weights', 'einsum.calls', 'einsum.bytes',
    *(f'{kind}.{what}' for kind in ('copy', 'permute', 'every', 'roll', 'pad', 'planes', 'summed', 'windows', 'sum.inner',
                                    'sum.outer') for what in ('calls', 'bytes', 'runs')),
    *(f'{kind}.{what}' for kind in ('elementwise', 'pool', 'layout', 'tail', 'segment') for what in ('calls', 'bytes')))
"""All features, in the order of vectors."""
