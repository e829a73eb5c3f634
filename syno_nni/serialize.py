"""The JSON form of an operator. Format 1: sizes as text, coordinates as nested lists ``[kind, ...]``."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import GraphError, SynoError
from .expr import Coordinate, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold
from .size import Size

if TYPE_CHECKING:
    from .operator import Operator

FORMAT = 1
_KEYS = ('format', 'outputs', 'reductions', 'input', 'weights')


def to_dict(op: Operator) -> dict[str, Any]:
    return {'format': FORMAT, 'outputs': [str(s) for s in op.outputs], 'reductions': [str(s) for s in op.reductions],
            'input': [_dump(c) for c in op.inputs], 'weights': [[_dump(c) for c in w] for w in op.weights]}


def from_dict(data: Any) -> Operator:
    """The operator that ``data`` describes.

    Raises:
        GraphError: the data is malformed, of a newer format, or not a legal operator.
    """
    from .operator import Operator
    if not isinstance(data, dict):
        raise GraphError(f'an operator must be a JSON object with the keys {", ".join(_KEYS)}; got {_short(data)}')
    version = data.get('format')
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise GraphError(f'operator: "format" must be a version number such as {FORMAT}, got {_short(version)}')
    if version > FORMAT:
        raise GraphError(f'operator: format {version} is newer than format {FORMAT}, the newest that this version of '
                         f'syno-nni reads; upgrade syno-nni')
    unknown = [k for k in data if k not in _KEYS]
    if unknown or any(k not in data for k in _KEYS):
        raise GraphError(f'operator: wanted the keys {", ".join(_KEYS)}; got {_short(list(data))}')
    try:
        outputs, reductions = (tuple(_size(s, key) for s in _list(data[key], key)) for key in ('outputs', 'reductions'))
        inputs = [_load(c, outputs, reductions, 'input', 0) for c in _list(data['input'], 'input')]
        weights = [[_load(c, outputs, reductions, f'weight {n}', 0) for c in _list(w, f'weight {n}')]
                   for n, w in enumerate(_list(data['weights'], 'weights'), 1)]
    except GraphError:
        raise
    except SynoError as error:
        raise GraphError(f'operator: {error}') from None
    return Operator(outputs, reductions, inputs, weights)


def _dump(node: Coordinate) -> list:
    below = [_dump(c) for c in node.bottom]
    if node.argument is not None:
        below.append(str(node.argument) if isinstance(node.argument, Size) else node.argument)
    return [node.kind, *below]


def _load(data: Any, outputs: tuple[Size, ...], reductions: tuple[Size, ...], where: str, depth: int) -> Coordinate:
    from .legality import MAX_DEPTH
    if depth > MAX_DEPTH:
        raise GraphError(f'operator: {where} nests more than {MAX_DEPTH} primitives')
    if not isinstance(data, list) or not data or not isinstance(data[0], str):
        raise GraphError(f'operator: a coordinate of {where} must be a list [kind, ...], got {_short(data)}')
    kind, *arguments = data

    def below(i: int) -> Coordinate:
        return _load(arguments[i], outputs, reductions, where, depth + 1)

    def integer(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise GraphError(f'operator: {kind!r} in {where} wants an integer, got {_short(value)}')
        return value

    wanted = {'out': 1, 'sum': 1}.get(kind, 2)
    if len(arguments) != wanted:
        raise GraphError(f'operator: {kind!r} in {where} takes {wanted} arguments, got {len(arguments)}')
    if kind in ('out', 'sum'):
        sizes, node = (outputs, Out) if kind == 'out' else (reductions, Sum)
        index = integer(arguments[0])
        if not 0 <= index < len(sizes):
            raise GraphError(f'operator: {where} uses {kind} {index}, and there are {len(sizes)}')
        return node(index, sizes[index])
    if kind == 'split':
        return Split(below(0), below(1))
    if kind == 'unfold':
        return Unfold(below(0), below(1))
    if kind == 'shift':
        return Shift(below(0), integer(arguments[1]))
    if kind in ('stride', 'div', 'mod'):
        return {'stride': Stride, 'div': MergeLeft, 'mod': MergeRight}[kind](below(0), _size(arguments[1], where))
    raise GraphError(f'operator: {where} has a primitive {kind!r:.40}; known are out, sum, split, unfold, shift, stride, '
                     f'div, mod')


def _list(data: Any, where: str) -> list:
    if not isinstance(data, list) or len(data) > 64:
        raise GraphError(f'operator: {where} must be a list of at most 64 items, got {_short(data)}')
    return data


def _size(data: Any, where: str) -> Size:
    if not isinstance(data, str):
        raise GraphError(f'operator: a size in {where} must be text such as "C_in/g", got {_short(data)}')
    return Size.parse(data)


def _short(data: Any) -> str:
    if isinstance(data, (dict, list)) and len(data) > 8:
        return f'a {type(data).__name__} of {len(data)} items'
    text = f'{type(data).__name__}' if isinstance(data, (dict, list)) else repr(data)
    return text if len(text) <= 80 else text[:77] + '...'
