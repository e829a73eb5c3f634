"""The formula: an operator as one line of text that people read and that parses back.

``out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1, j:k_1] in[n, c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]``

Names on the left and in ``sum`` introduce indices with their sizes; everything else is index arithmetic:
``a*S + b`` (Split; S is the size of b), ``a//S`` and ``a%S`` (Merge), ``unfold(a, b)`` (a + b - |b|//2, zero outside),
``shift(a, 1)`` (cyclic), ``stride(a, s)`` (a*s). Weights follow the input, joined by ``*``.
"""
from __future__ import annotations

import re
from itertools import chain, count, islice

from syno_nni.errors import FormulaError, SizeError

from .expr import Coordinate, Iterator, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold
from .graph import Graph, tensors
from .legality import MAX_DEPTH
from .size import MAX_NAME, Size, read_factor, read_size
from .tokens import Tokens

MAX_LENGTH = 100_000
MAX_NESTING = 3 * MAX_DEPTH  # a primitive may print as a function inside parentheses
_FUNCTIONS = {'unfold': Unfold, 'shift': Shift, 'stride': Stride}
_RESERVED = {'out', 'in', 'sum', *_FUNCTIONS}
_OUT_NAMES = {'N': 'n', 'C_out': 'o', 'H': 'h', 'W': 'w', 'T': 't', 'L': 'l', 'C_in': 'c'}
_WINDOW_NAMES = 'ijpquv'
_CHANNEL_NAMES = 'cdef'
_OTHER_NAMES = 'rabxyz'


# ---- printing ----

def names(op: Graph) -> dict[Iterator, str]:
    """A short name for every iterator: n, o, h, w for outputs, i, j for windows, c, d for channels, r, a for others."""
    taken: set[str] = {*_RESERVED, *op.variables}
    result: dict[Iterator, str] = {}
    windows = {leaf for node in op.nodes() if isinstance(node, Unfold) for leaf in node.right.iterators()}
    for it in op.iterators():
        if isinstance(it, Out):
            first = [_OUT_NAMES[v] for v in _OUT_NAMES if it.size.exponent(v) > 0][:1]
            pool = [*first, *('w' if first == ['h'] else ''), *_OTHER_NAMES[3:]]
        elif it in windows:
            pool = list(_WINDOW_NAMES)
        elif any(v.startswith('C') for v in it.size.variables):
            pool = list(_CHANNEL_NAMES)
        else:
            pool = list(_OTHER_NAMES)
        numbered = (f'{pool[-1]}{n}' for n in count(1))
        name = next(p for p in chain(pool, numbered) if p not in taken)
        taken.add(name)
        result[it] = name
    return result


def coordinate_text(node: Coordinate, name: dict[Iterator, str], inner: bool = False) -> str:
    """A coordinate as index arithmetic; ``inner`` puts sums and products in parentheses."""
    if isinstance(node, Iterator):
        return name[node]
    if isinstance(node, Split):
        left, right = (coordinate_text(c, name, True) for c in node.bottom)
        text = f'{left}*{_factor(node.right.size)} + {right}'
        return f'({text})' if inner else text
    if isinstance(node, (MergeLeft, MergeRight)):
        symbol = '//' if isinstance(node, MergeLeft) else '%'
        text = f'{coordinate_text(node.of, name, True)}{symbol}{_factor(node.block)}'
        return f'({text})' if inner else text
    arguments = [coordinate_text(c, name) for c in node.bottom]
    if node.argument is not None:
        arguments.append(str(node.argument))
    return f'{node.kind}({", ".join(arguments)})'


def _factor(size: Size) -> str:
    text = str(size)
    return text if re.fullmatch(r'\w+', text) else f'({text})'


def _tensor_texts(op: Graph) -> tuple[str, str, list[str]]:
    """The left side, the sum and the tensors of the formula."""
    name = names(op)
    left = 'out[' + ', '.join(f'{name[o]}:{o.size}' for o in op.outs()) + ']'
    total = 'sum[' + ', '.join(f'{name[s]}:{s.size}' for s in op.sums()) + ']' if op.reductions else ''
    return left, total, [f'{t}[{", ".join(coordinate_text(c, name) for c in cs)}]' for t, cs in tensors(op)]


def to_text(op: Graph) -> str:
    """The one-line formula of an operator as it stands (`Operator.__str__` prints the canonical one)."""
    left, total, factors = _tensor_texts(op)
    return f'{left} = {total + " " if total else ""}{" * ".join(factors)}'


def to_pretty(op: Graph) -> str:
    """The formula with one tensor a line."""
    left, total, factors = _tensor_texts(op)
    return '\n'.join([f'{left} =', *([f'    {total}'] if total else []), f'      {factors[0]}',
                      *(f'    * {t}' for t in factors[1:])])


def to_loop_nest(op: Graph) -> str:
    """The operator as nested loops, every index and boundary test spelled out.

    It is Python: with the variables bound to integers, ``in_`` and ``w1``, ... to arrays and ``out`` to zeros, it runs.
    """
    name = names(op)
    lines = [f'for {name[it]} in range({_size_code(it.size)}):' for it in op.iterators()]
    lines += [f'if 0 <= {_index_code(node, name)} < {_size_code(node.size)}:'
              for node in op.nodes() if isinstance(node, Unfold)]
    product = ' * '.join(f'{"in_" if tensor == "in" else tensor}[{", ".join(_index_code(c, name) for c in cs) or "()"}]'
                         for tensor, cs in tensors(op))
    lines.append(f'out[{", ".join(name[o] for o in op.outs()) or "()"}] += {product}')
    return '\n'.join('    ' * depth + line for depth, line in enumerate(lines))


def _index_code(node: Coordinate, name: dict[Iterator, str], inner: bool = False) -> str:
    """A coordinate as Python arithmetic; ``inner`` puts sums and products in parentheses."""
    if isinstance(node, Iterator):
        return name[node]
    first, *second = (_index_code(c, name, True) for c in node.bottom)
    if isinstance(node, Split):
        text = f'{first} * {_size_code(node.right.size, True)} + {second[0]}'
    elif isinstance(node, Unfold):
        text = f'{first} + {second[0]} - {_size_code(node.right.size, True)} // 2'
    elif isinstance(node, Shift):
        sign = '-' if node.offset < 0 else '+'
        text = f'({first} {sign} {abs(node.offset)}) % {_size_code(node.size, True)}'
    else:
        assert isinstance(node, (MergeLeft, MergeRight, Stride)), node
        symbol = {'div': '//', 'mod': '%', 'stride': '*'}[node.kind]
        text = f'{first} {symbol} {_size_code(node.argument, True)}'
    return f'({text})' if inner else text


def _size_code(size: Size, inner: bool = False) -> str:
    """A size as Python arithmetic; exact, since the numerator comes first."""
    text = str(size).replace('/', '//').replace('^', '**')
    return f'({text})' if inner and not re.fullmatch(r'\w+', text) else text


# ---- parsing ----

def parse(text: str) -> Graph:
    """The graph of a formula; whether it is legal is not asked here.

    Raises:
        FormulaError: the text is not a formula; says where and what was wanted.
    """
    if not isinstance(text, str):
        raise FormulaError(f'a formula must be text, got {type(text).__name__}')
    if len(text) > MAX_LENGTH:
        raise FormulaError(f'a formula may have at most {MAX_LENGTH} characters, got {len(text)}')
    try:
        return _Parser(text).graph()
    except SizeError as error:  # sizes that are well written, and whose product is beyond every limit
        raise FormulaError(f'cannot read formula: {error}') from None


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = Tokens(text, 'formula', FormulaError, MAX_NESTING)
        self.index: dict[str, Iterator] = {}

    def graph(self) -> Graph:
        tokens = self.tokens
        tokens.expect('out')
        outputs = self._declarations(Out)
        tokens.expect('=')
        reductions: list[Size] = self._declarations(Sum) if tokens.take('sum') else []
        tokens.expect('in')
        inputs = self._coordinates()
        weights: list[list[Coordinate]] = []
        while tokens.take('*'):
            name = f'w{len(weights) + 1}'
            if not tokens.take(name):
                raise tokens.wanted(f'weight {name!r} (weights are numbered from 1)')
            weights.append(self._coordinates())
        if not tokens.at_end:
            raise tokens.wanted('"*" and a weight, or the end')
        return Graph(outputs, reductions, inputs, weights)

    def _declarations(self, make: type[Iterator]) -> list[Size]:
        tokens = self.tokens
        sizes: list[Size] = []
        tokens.expect('[')
        while not tokens.take(']'):
            if sizes:
                tokens.expect(',')
            name = tokens.next('name')
            if not name:
                raise tokens.wanted('an index name')
            if name in self.index or name in _RESERVED:
                raise tokens.wanted('an index name that is not in use or reserved')
            if len(name) > MAX_NAME:
                raise tokens.wanted(f'an index name of at most {MAX_NAME} characters')
            tokens.read()
            tokens.expect(':')
            size = read_size(tokens)
            self.index[name] = make(len(sizes), size)
            sizes.append(size)
        return sizes

    def _coordinates(self) -> list[Coordinate]:
        result: list[Coordinate] = []
        self.tokens.expect('[')
        while not self.tokens.take(']'):
            if result:
                self.tokens.expect(',')
            result.append(self._sum())
        return result

    def _sum(self) -> Coordinate:
        """One coordinate: ``a``, ``a*S + b``, ``a//S`` or ``a%S``."""
        tokens = self.tokens
        tokens.descend('primitives')
        node = self._halves(self._atom())
        while tokens.take('*'):
            size = read_factor(tokens)
            tokens.expect('+')
            right = self._halves(self._atom())
            if right.size != size:
                raise tokens.error(f'in a*S + b, S must be the size of b, which is {right.size}; got {size}')
            node = Split(node, right)
        tokens.ascend()
        return node

    def _halves(self, node: Coordinate) -> Coordinate:
        """``node`` with the ``//S`` and ``%S`` that follow it."""
        while (symbol := self.tokens.next()) in ('//', '%'):
            self.tokens.read()
            node = (MergeLeft if symbol == '//' else MergeRight)(node, read_factor(self.tokens))
        return node

    def _atom(self) -> Coordinate:
        tokens = self.tokens
        node: Coordinate
        if tokens.take('('):
            node = self._sum()
            tokens.expect(')')
            return node
        name = tokens.next('name')
        if not name:
            raise tokens.wanted('an index, a function or "("')
        if name in _FUNCTIONS:
            tokens.read()
            tokens.expect('(')
            first = self._sum()
            tokens.expect(',')
            if name == 'unfold':
                node = Unfold(first, self._sum())
            elif name == 'shift':
                node = Shift(first, self._integer())
            else:
                node = Stride(first, read_size(tokens))
            tokens.expect(')')
            return node
        if name not in self.index:
            known = ', '.join(islice(self.index, 12)) + ', ...' * (len(self.index) > 12)
            raise tokens.wanted(f'one of the indices {known or "(none)"}')
        tokens.read()
        return self.index[name]

    def _integer(self) -> int:
        sign = -1 if self.tokens.take('-') else 1
        digits = self.tokens.next('number')
        if not digits or len(digits) >= 12:
            raise self.tokens.wanted('an integer of at most 11 digits')
        return sign * int(self.tokens.read())


__all__ = ['coordinate_text', 'names', 'parse', 'to_loop_nest', 'to_pretty', 'to_text']
