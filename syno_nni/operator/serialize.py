"""The JSON form of an operator. Format 1: sizes as text, coordinates as nested lists ``[kind, ...]``."""
from __future__ import annotations

import json
from itertools import islice
from typing import Any

from syno_nni.errors import GraphError, SynoError, shown

from .expr import PRIMITIVES, Coordinate, Out, Shift, Sum
from .graph import Graph
from .legality import MAX_DEPTH, MAX_TOTAL_NODES
from .size import Size

FORMAT = 1
MAX_LENGTH = 1_000_000
_KEYS = ('format', 'outputs', 'reductions', 'input', 'weights')


def to_dict(op: Graph) -> dict[str, Any]:
    """A JSON-able description; ``from_dict`` gives back the graph with the same order of everything."""
    return {'format': FORMAT, 'outputs': [str(s) for s in op.outputs], 'reductions': [str(s) for s in op.reductions],
            'input': [_dump(c) for c in op.inputs], 'weights': [[_dump(c) for c in w] for w in op.weights]}


def from_json(text: str | bytes) -> Graph:
    """The graph of a JSON text; stricter than ``json.loads``: no duplicate keys, integers only.

    Raises:
        GraphError: the text is not JSON, too long, or not a graph.
    """
    if not isinstance(text, (str, bytes)) or len(text) > MAX_LENGTH:
        raise GraphError(f'operator: wanted a JSON text of at most {MAX_LENGTH} characters, got '
                         f'{len(text) if isinstance(text, (str, bytes)) else shown(text)}')

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data = dict(pairs)
        if len(data) != len(pairs):
            raise GraphError(f'operator: a JSON object gives a key twice; its keys are {shown([k for k, _ in pairs])}')
        return data

    def integer(digits: str) -> int:
        if len(digits) > 20:
            raise GraphError(f'operator: a JSON number has {len(digits)} digits, at most 20 are allowed')
        return int(digits)

    def refuse(number: str) -> None:
        raise GraphError(f'operator: JSON numbers must be integers, got {shown(number)}')

    try:
        data = json.loads(text, object_pairs_hook=unique, parse_int=integer, parse_float=refuse, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        if isinstance(error, GraphError):
            raise
        raise GraphError(f'operator: not a JSON text: {error}') from None
    return from_dict(data)


def check_version(version: Any, newest: int, where: str, error: type[SynoError]) -> None:
    """Raise ``error`` unless a file's "format" is one that this version reads: 1 to ``newest``."""
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise error(f'{where}: "format" must be a version number such as {newest}, got {shown(version)}')
    if version > newest:
        raise error(f'{where}: format {shown(version)} is newer than format {newest}, the newest that this version of '
                    'syno-nni reads; upgrade syno-nni')


def from_dict(data: Any) -> Graph:
    """The graph that ``data`` describes; whether it is legal is not asked here.

    Raises:
        GraphError: the data is malformed, or of a newer format.
    """
    if not isinstance(data, dict):
        raise GraphError(f'an operator must be a JSON object with the keys {", ".join(_KEYS)}; got {shown(data)}')
    check_version(data.get('format'), FORMAT, 'operator', GraphError)
    if set(data) != set(_KEYS):
        raise GraphError(f'operator: wanted the keys {", ".join(_KEYS)}; got '
                         f'{shown(", ".join(str(k)[:20] for k in islice(data, 8)))}')
    try:
        outputs, reductions = (tuple(_size(s, key) for s in _list(data[key], key)) for key in ('outputs', 'reductions'))
        load = _Loader(outputs, reductions)
        inputs = [load(c, 'the input') for c in _list(data['input'], 'the input')]
        weights = [[load(c, f'weight {n}') for c in _list(w, f'weight {n}')]
                   for n, w in enumerate(_list(data['weights'], 'weights'), 1)]
    except GraphError:
        raise
    except SynoError as error:
        raise GraphError(f'operator: {error}') from None
    return Graph(outputs, reductions, inputs, weights)


def _dump(node: Coordinate) -> list[Any]:
    below: list[Any] = [_dump(c) for c in node.bottom]
    if node.argument is not None:
        below.append(str(node.argument) if isinstance(node.argument, Size) else node.argument)
    return [node.kind, *below]


class _Loader:
    """Reads coordinates; counts them, since lists that share parts may describe more nodes than they hold."""

    def __init__(self, outputs: tuple[Size, ...], reductions: tuple[Size, ...]) -> None:
        self.iterators: dict[str, list[Coordinate]] = {
            'out': [Out(i, s) for i, s in enumerate(outputs)],
            'sum': [Sum(i, s) for i, s in enumerate(reductions)]}
        self.nodes = 0

    def __call__(self, data: Any, where: str, depth: int = 1) -> Coordinate:
        self.nodes += 1
        if self.nodes > MAX_TOTAL_NODES:
            raise GraphError(f'operator: more than {MAX_TOTAL_NODES} nodes in all, at {where}')
        if depth > MAX_DEPTH:
            raise GraphError(f'operator: {where} nests more than {MAX_DEPTH} primitives')
        if not isinstance(data, list) or not data or not isinstance(data[0], str):
            raise GraphError(f'operator: a coordinate of {where} must be a list [kind, ...], got {shown(data)}')
        kind, *arguments = data
        if kind not in self.iterators and kind not in PRIMITIVES:
            raise GraphError(f'operator: {where} has a primitive {shown(kind)}; known are '
                             f'{", ".join((*self.iterators, *PRIMITIVES))}')
        wanted = 1 if kind in self.iterators else 2
        if len(arguments) != wanted:
            raise GraphError(f'operator: {kind!r} in {where} takes {wanted} arguments, got {len(arguments)}')
        if kind in self.iterators:
            return self._iterator(kind, arguments[0], where)
        first = self(arguments[0], where, depth + 1)
        if kind in ('split', 'unfold'):
            return PRIMITIVES[kind](first, self(arguments[1], where, depth + 1))
        if kind == 'shift':
            return Shift(first, _integer(arguments[1], f'a shift in {where}'))
        return PRIMITIVES[kind](first, _size(arguments[1], where))

    def _iterator(self, kind: str, index: Any, where: str) -> Coordinate:
        known = self.iterators[kind]
        at = _integer(index, f'{kind!r} in {where}')
        if not 0 <= at < len(known):
            raise GraphError(f'operator: {where} uses {kind} {shown(index)}, and there are {len(known)}, '
                             f'counted from 0')
        return known[at]


def _integer(data: Any, where: str) -> int:
    if isinstance(data, bool) or not isinstance(data, int):
        raise GraphError(f'operator: {where} wants an integer, got {shown(data)}')
    return data


def _list(data: Any, where: str) -> list[Any]:
    if not isinstance(data, list) or len(data) > 64:
        raise GraphError(f'operator: {where} must be a list of at most 64 items, got {shown(data)}')
    return data


def _size(data: Any, where: str) -> Size:
    if not isinstance(data, str):
        raise GraphError(f'operator: a size in {where} must be text such as "C_in/g", got {shown(data)}')
    return Size.parse(data)
