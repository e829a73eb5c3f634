"""Reads the ``graph.dot`` files of the original Syno artifact.

Edges run from the input side to the output side; a label ``"size (X->Y)"`` gives the dimension's size, the port X of
the source (L or R of a Split or Unfold) and the port Y of the destination (L or R of a Merge or Share). The order of
weights and of each weight's dimensions is kept.
"""
from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import GraphError, SynoError
from .expr import Coordinate, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold
from .legality import MAX_DEPTH
from .operator import Operator
from .size import Size

MAX_LENGTH = 200_000
MAX_STATEMENTS = 2_000
_NODE = re.compile(r'(\w+)\s*\[\s*label\s*=\s*"([^"]*)"[^\]]*\]\s*;?')
_EDGE = re.compile(r'(\w+)\s*->\s*(\w+)\s*\[\s*label\s*=\s*"([^"]*)"[^\]]*\]\s*;?')
_EDGE_LABEL = re.compile(r'([^()]*?)\s*(?:\((L|R)?->(L|R)?\))?')
_TERMINAL_LABEL = re.compile(r'(.+)\((\d+)\)')
_TOPS = {'Split': 1, 'Unfold': 1, 'Shift': 1, 'Stride': 1, 'Merge': 2, 'Share': 2}
_BOTTOMS = {'Split': 2, 'Unfold': 2, 'Shift': 1, 'Stride': 1, 'Merge': 1, 'Share': 1}


@dataclass(frozen=True)
class _Edge:
    source: str
    target: str
    size: Size
    out_port: str
    in_port: str


def read_graph_dot(text: str) -> Operator:
    """The operator of a ``graph.dot`` file.

    Raises:
        GraphError: the text is not such a file; names the node or line.
    """
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        raise GraphError(f'graph.dot: wanted the text of a file of at most {MAX_LENGTH} characters, got '
                         f'{f"{len(text)} characters" if isinstance(text, str) else type(text).__name__}')
    try:
        return _Reader(text).operator()
    except GraphError:
        raise
    except SynoError as error:
        raise GraphError(f'graph.dot: {error}') from None


class _Reader:
    def __init__(self, text: str) -> None:
        self.labels: dict[str, str] = {}
        self.out_edges: dict[str, list[_Edge]] = {}
        self.in_edges: dict[str, list[_Edge]] = {}
        statements = [line.strip() for line in text.splitlines() if line.strip()]
        if not statements or not re.match(r'digraph\b', statements[0]):
            raise GraphError('graph.dot: wanted a file that starts with "digraph"')
        if len(statements) > MAX_STATEMENTS:
            raise GraphError(f'graph.dot: at most {MAX_STATEMENTS} lines are allowed, got {len(statements)}')
        for statement in statements:
            if edge := _EDGE.fullmatch(statement):
                self._add_edge(*edge.groups())
            elif node := _NODE.fullmatch(statement):
                name, label = node.groups()
                if name in self.labels:
                    raise GraphError(f'graph.dot: node {name} is declared twice')
                self.labels[name] = label
        self.reductions = {n: i for i, n in enumerate(n for n in self.labels if n.startswith('reduce_'))}
        self.active: set[_Edge] = set()
        self.cache: dict[_Edge, Coordinate] = {}

    def _add_edge(self, source: str, target: str, label: str) -> None:
        match = _EDGE_LABEL.fullmatch(label)
        if match is None:
            raise GraphError(f'graph.dot: cannot read the edge label {label!r} of {source} -> {target}; wanted '
                             f'"size" or "size (L->R)"')
        edge = _Edge(source, target, Size.parse(match[1]), match[2] or '', match[3] or '')
        self.out_edges.setdefault(source, []).append(edge)
        self.in_edges.setdefault(target, []).append(edge)

    def operator(self) -> Operator:
        outputs = self._terminals('out')
        if not outputs:
            raise GraphError('graph.dot: no output node such as out_0 [label="N(0)"]')
        for name in self.reductions:
            if self.labels[name] != 'Sum':
                raise GraphError(f'graph.dot: reduction {name} is {self.labels[name]!r}; only Sum is known')
        self.outputs = {name: Out(i, size) for i, (name, size) in enumerate(outputs)}
        self.sums = {name: Sum(i, self._single(self.in_edges, name).size) for name, i in self.reductions.items()}
        tensors: list[list[Coordinate]] = []
        while terminals := self._terminals(f'in_{len(tensors)}'):
            tensors.append([self._terminal_coordinate(name, size) for name, size in terminals])
        if not tensors:
            raise GraphError('graph.dot: no input node such as in_0_0 [label="N(0)"]')
        extra = [n for n in self.labels if n.startswith('in_') and int((re.findall(r'\d+', n) or [0])[0]) >= len(tensors)]
        if extra:
            raise GraphError(f'graph.dot: tensors are numbered from 0 without gaps, and {extra[0]} is beyond in_{len(tensors) - 1}')
        self._check_consumed()
        return Operator([s for _, s in outputs], [s.size for s in self.sums.values()], tensors[0], tensors[1:])

    def _terminals(self, prefix: str) -> list[tuple[str, Size]]:
        result: list[tuple[str, Size]] = []
        while (name := f'{prefix}_{len(result)}') in self.labels:
            match = _TERMINAL_LABEL.fullmatch(self.labels[name])
            if match is None or int(match[2]) != len(result):
                raise GraphError(f'graph.dot: {name} has label {self.labels[name]!r}; wanted "size({len(result)})"')
            result.append((name, Size.parse(match[1])))
        return result

    def _terminal_coordinate(self, name: str, size: Size) -> Coordinate:
        coordinate = self._top(self._single(self.out_edges, name), 0)
        if coordinate.size != size:
            raise GraphError(f'graph.dot: {name} is declared with size {size}, and its coordinate {coordinate!r} has size '
                             f'{coordinate.size}')
        return coordinate

    def _check_consumed(self) -> None:
        for name, label in self.labels.items():
            wanted_in, wanted_out = _TOPS.get(label, 0), _BOTTOMS.get(label, 1 if label == 'Expand' else 0)
            if name.startswith('op_'):
                if label not in _TOPS and label != 'Expand':
                    raise GraphError(f'graph.dot: {name} is {label!r}; known are Expand, {", ".join(_TOPS)}')
                got = len(self.in_edges.get(name, ())), len(self.out_edges.get(name, ()))
                if got != (wanted_in, wanted_out):
                    raise GraphError(f'graph.dot: {label} {name} has {got[0]} edges in and {got[1]} out; wanted {wanted_in} '
                                     f'and {wanted_out}')

    def _single(self, edges: dict[str, list[_Edge]], name: str) -> _Edge:
        found = edges.get(name, [])
        if len(found) != 1:
            raise GraphError(f'graph.dot: {name} must have exactly one edge, got {len(found)}')
        return found[0]

    def _bottom(self, name: str, depth: int, port: str = '') -> Coordinate:
        """The coordinate below a primitive, at port L or R when there are two."""
        found = [e for e in self.out_edges.get(name, []) if e.out_port == port]
        if len(found) != 1:
            raise GraphError(f'graph.dot: {self.labels.get(name)!r} {name} must have one edge out of port {port or "(only)"}, '
                             f'got {len(found)}')
        return self._top(found[0], depth)

    def _top(self, edge: _Edge, depth: int) -> Coordinate:
        """The coordinate that an edge stands for: the top of its target."""
        if edge in self.cache:
            return self.cache[edge]
        if edge in self.active:
            raise GraphError(f'graph.dot: {edge.source} -> {edge.target} is part of a cycle')
        if depth > 4 * MAX_DEPTH:
            raise GraphError(f'graph.dot: more than {4 * MAX_DEPTH} primitives in a row at {edge.target}')
        self.active.add(edge)
        node = self._read(edge, depth + 1)
        self.active.discard(edge)
        if node.size != edge.size:
            raise GraphError(f'graph.dot: {edge.source} -> {edge.target} is labelled {edge.size}, and its size is {node.size}')
        self.cache[edge] = node
        return node

    def _read(self, edge: _Edge, depth: int) -> Coordinate:
        name = edge.target
        if name in self.outputs:
            return self.outputs[name]
        if name in self.sums:
            return self.sums[name]
        kind = self.labels.get(name)
        if kind == 'Share':
            return self._bottom(name, depth)
        if kind in ('Split', 'Unfold'):
            return {'Split': Split, 'Unfold': Unfold}[kind](self._bottom(name, depth, 'L'), self._bottom(name, depth, 'R'))
        if kind == 'Shift':
            return Shift(self._bottom(name, depth), 1)
        if kind == 'Stride':
            below = self._bottom(name, depth)
            return Stride(below, edge.size / below.size)
        if kind == 'Merge':
            block = [e.size for e in self.in_edges[name] if e.in_port == 'R']
            if len(block) != 1 or edge.in_port not in ('L', 'R'):
                raise GraphError(f'graph.dot: Merge {name} must have one edge into port L and one into R')
            return (MergeLeft if edge.in_port == 'L' else MergeRight)(self._bottom(name, depth), block[0])
        raise GraphError(f'graph.dot: {edge.source} -> {name} leads to {kind!r}, which is no output, reduction or primitive')
