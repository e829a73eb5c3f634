"""Reads the ``graph.dot`` files of the original Syno artifact.

Edges run from the input side to the output side; a label ``"size (X->Y)"`` gives the dimension's size, the port X of
the source (L or R of a Split or Unfold) and the port Y of the destination (L or R of a Merge or Share). The order of
weights and of each weight's dimensions is kept. Statements about layout (ranks, clusters) are skipped.
"""
from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from syno_nni.errors import GraphError, SynoError, shown
from syno_nni.files import DESCRIPTION_BYTES, read_text

from .expr import Coordinate, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold
from .legality import MAX_DEPTH
from .operator import Operator
from .size import Size

MAX_LENGTH = 200_000
MAX_STATEMENTS = 2_000
MAX_CHAIN = 4 * MAX_DEPTH  # Shares count here, and make no coordinate
_NODE = re.compile(r'(\w+)\s*\[\s*label\s*=\s*"([^"]*)"[^\]]*\]\s*;?')
_EDGE = re.compile(r'(\w+)\s*->\s*(\w+)\s*\[\s*label\s*=\s*"([^"]*)"[^\]]*\]\s*;?')
_LAYOUT = re.compile(r'(?:node|edge|graph)\s*\[')
_EDGE_LABEL = re.compile(r'([^()]*)(?:\((L|R)?->(L|R)?\))?')
_TERMINAL_LABEL = re.compile(r'([^()]+)\(([0-9]{1,4})\)')
# edges in (tops) and out (bottoms)
_DEGREES = {'Split': (1, 2), 'Unfold': (1, 2), 'Shift': (1, 1), 'Stride': (1, 1), 'Merge': (2, 1), 'Share': (2, 1),
            'Expand': (0, 1)}


@dataclass(frozen=True)
class _Edge:
    source: str
    target: str
    size: Size
    out_port: str
    in_port: str

    def __str__(self) -> str:
        return f'{self.source} -> {self.target}'


def read_graph_dot(text: str) -> Operator:
    """The operator of a ``graph.dot`` file.

    Raises:
        GraphError: the text is not such a file; names the node, edge or line.
    """
    if not isinstance(text, str):
        raise _error(f'wanted the text of a file, got {shown(text)}')
    if len(text) > MAX_LENGTH:
        raise _error(f'a file may have at most {MAX_LENGTH} characters, got {len(text)}')
    try:
        return _Reader(text).operator()
    except GraphError:
        raise
    except SynoError as error:
        raise _error(str(error)) from None


def load_graph_dot(path: str | os.PathLike[str]) -> Operator:
    """The operator of the ``graph.dot`` file at a path.

    Raises:
        GraphError: it cannot be read, or as :func:`read_graph_dot`.
    """
    return read_graph_dot(read_text(path, limit=DESCRIPTION_BYTES, error=GraphError, what='the graph'))


def _error(message: str) -> GraphError:
    return GraphError(f'graph.dot: {message}')


class _Reader:
    def __init__(self, text: str) -> None:
        self.labels: dict[str, str] = {}
        self.out_edges: dict[str, list[_Edge]] = {}
        self.in_edges: dict[str, list[_Edge]] = {}
        self.active: set[_Edge] = set()
        self.cache: dict[_Edge, Coordinate] = {}
        statements = [line.strip() for line in text.splitlines() if line.strip()]
        if not statements or not re.match(r'digraph\b', statements[0]):
            raise _error(f'wanted a file that starts with "digraph", got {shown(text[:40])}')
        if len(statements) > MAX_STATEMENTS:
            raise _error(f'at most {MAX_STATEMENTS} lines are allowed, got {len(statements)}')
        for statement in statements[1:]:
            self._add(statement)
        self.reductions = {name: i for i, name in enumerate(n for n in self.labels if n.startswith('reduce_'))}

    def _add(self, statement: str) -> None:
        if edge := _EDGE.fullmatch(statement):
            self._add_edge(*edge.groups())
        elif node := _NODE.fullmatch(statement):
            name, label = node.groups()
            if name in self.labels:
                raise _error(f'node {shown(name)} is declared twice')
            self.labels[name] = label
        elif not statement.startswith(('//', '#', '/*')) and not _LAYOUT.match(statement) and (
                '->' in statement or '[' in statement):
            raise _error(f'cannot read {shown(statement)}; wanted name [label="..."]; or a -> b [label="size"];')

    def _add_edge(self, source: str, target: str, label: str) -> None:
        match = _EDGE_LABEL.fullmatch(label)
        if match is None:
            raise _error(f'cannot read label {shown(label)} of {shown(source)} -> {shown(target)}; wanted "size" or '
                         f'"size (L->R)"')
        edge = _Edge(source, target, Size.parse(match[1].strip()), match[2] or '', match[3] or '')
        self.out_edges.setdefault(source, []).append(edge)
        self.in_edges.setdefault(target, []).append(edge)

    def operator(self) -> Operator:
        outputs = self._terminals('out')
        if not outputs:
            raise _error('no output node such as out_0 [label="N(0)"]')
        for name in self.reductions:
            if self.labels[name] != 'Sum':
                raise _error(f'reduction {shown(name)} is {shown(self.labels[name])}; only Sum is known')
        self.outputs = {name: Out(i, size) for i, (name, size) in enumerate(outputs)}
        self.sums = {name: Sum(i, self._single(self.in_edges, name).size) for name, i in self.reductions.items()}
        terminals: list[list[tuple[str, Size]]] = []
        while found := self._terminals(f'in_{len(terminals)}'):
            terminals.append(found)
        if not terminals:
            raise _error('no input node such as in_0_0 [label="N(0)"]')
        self._check_numbering(name for dimensions in (outputs, *terminals) for name, _ in dimensions)
        self._check_primitives()
        tensors = [[self._terminal_coordinate(name, size) for name, size in dimensions] for dimensions in terminals]
        return Operator([s for _, s in outputs], [s.size for s in self.sums.values()], tensors[0], tensors[1:])

    def _terminals(self, prefix: str) -> list[tuple[str, Size]]:
        """The nodes ``prefix_0``, ``prefix_1``, ... with their sizes."""
        result: list[tuple[str, Size]] = []
        while (name := f'{prefix}_{len(result)}') in self.labels:
            match = _TERMINAL_LABEL.fullmatch(self.labels[name])
            if match is None or int(match[2]) != len(result):
                raise _error(f'{name} has label {shown(self.labels[name])}; wanted "size({len(result)})"')
            result.append((name, Size.parse(match[1])))
        return result

    def _terminal_coordinate(self, name: str, size: Size) -> Coordinate:
        coordinate = self._top(self._single(self.out_edges, name), 0)
        if coordinate.size != size:
            raise _error(f'{name} is declared with size {size}, and its coordinate has size {coordinate.size}')
        return coordinate

    def _check_numbering(self, terminals: Iterable[str]) -> None:
        """No terminal lies beyond a gap in the numbering, where it would be dropped silently."""
        known = set(terminals)
        for name in self.labels:
            if name.startswith(('in_', 'out_')) and name not in known:
                raise _error(f'tensors and dimensions are numbered from 0 without gaps; {shown(name)} is beyond a gap')

    def _check_primitives(self) -> None:
        for name, label in self.labels.items():
            if not name.startswith('op_'):
                continue
            if label not in _DEGREES:
                raise _error(f'{shown(name)} is {shown(label)}; known are {", ".join(_DEGREES)}')
            above, below = self.in_edges.get(name, []), self.out_edges.get(name, [])
            if (len(above), len(below)) != _DEGREES[label]:
                raise _error(f'{label} {shown(name)} has {len(above)} edges in and {len(below)} out; wanted '
                             f'{_DEGREES[label][0]} and {_DEGREES[label][1]}')
            if len(above) == 2 and {e.in_port for e in above} != {'L', 'R'}:
                raise _error(f'{label} {shown(name)} must have one edge into port L and one into port R')

    def _single(self, edges: dict[str, list[_Edge]], name: str) -> _Edge:
        found = edges.get(name, [])
        if len(found) != 1:
            raise _error(f'{shown(name)} must have exactly one edge, got {len(found)}')
        return found[0]

    def _bottom(self, name: str, depth: int, port: str = '') -> Coordinate:
        """The coordinate below a primitive, at port L or R when there are two."""
        found = [e for e in self.out_edges.get(name, []) if e.out_port == port]
        if len(found) != 1:
            raise _error(f'{self.labels[name]} {shown(name)} must have one edge out of port {port or "(unnamed)"}, got '
                         f'{len(found)}')
        return self._top(found[0], depth)

    def _top(self, edge: _Edge, depth: int) -> Coordinate:
        """The coordinate that an edge stands for: the top of its target."""
        if edge in self.cache:
            return self.cache[edge]
        if edge in self.active:
            raise _error(f'{shown(str(edge))} is part of a cycle')
        if depth > MAX_CHAIN:
            raise _error(f'more than {MAX_CHAIN} primitives in a row at {shown(edge.target)}')
        self.active.add(edge)
        node = self._read(edge, depth + 1)
        self.active.discard(edge)
        if node.size != edge.size:
            raise _error(f'{shown(str(edge))} is labelled {edge.size}, and its size is {node.size}')
        self.cache[edge] = node
        return node

    def _read(self, edge: _Edge, depth: int) -> Coordinate:
        name = edge.target
        if name in self.outputs:
            return self.outputs[name]
        if name in self.sums:
            return self.sums[name]
        kind = self.labels.get(name) if name.startswith('op_') else None
        if kind == 'Share':
            return self._bottom(name, depth)
        if kind in ('Split', 'Unfold'):
            pair = Split if kind == 'Split' else Unfold
            return pair(self._bottom(name, depth, 'L'), self._bottom(name, depth, 'R'))
        if kind == 'Shift':
            return Shift(self._bottom(name, depth), 1)
        if kind == 'Stride':
            below = self._bottom(name, depth)
            return Stride(below, edge.size / below.size)
        if kind == 'Merge':
            block = next(e.size for e in self.in_edges[name] if e.in_port == 'R')
            half = MergeLeft if edge.in_port == 'L' else MergeRight
            return half(self._bottom(name, depth), block)
        raise _error(f'{shown(str(edge))} leads to {shown(kind or name)}, which is no output, reduction or primitive')
