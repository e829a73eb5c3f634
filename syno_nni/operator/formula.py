"""The formula: an operator as one line of text that people read and that parses back.

``out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1, j:k_1] in[n, c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]``

Names on the left and in ``sum`` introduce indices with their sizes; everything else is index arithmetic:
``a*S + b`` (Split; S is the size of b), ``a//S`` and ``a%S`` (Merge), ``unfold(a, b)`` (a + b - |b|//2, zero outside),
``shift(a, 1)`` (cyclic), ``stride(a, s)`` (a*s). Weights follow the input, joined by ``*``.
"""
from __future__ import annotations

import re
from itertools import chain, count, islice
from typing import TYPE_CHECKING

from syno_nni.errors import FormulaError, SizeError

from .expr import Coordinate, Iterator, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold
from .legality import MAX_DEPTH
from .size import MAX_NAME, Size

if TYPE_CHECKING:
    from .operator import Operator

MAX_LENGTH = 100_000
MAX_NESTING = 3 * MAX_DEPTH  # a primitive may print as a function inside parentheses
_TOKEN = re.compile(r'\s*(?:(?P<name>[A-Za-z_][A-Za-z_0-9]*)|(?P<number>[0-9]+)|(?P<symbol>//|[\[\](),:=*/%+^-]))')
_FUNCTIONS = {'unfold': Unfold, 'shift': Shift, 'stride': Stride}
_RESERVED = {'out', 'in', 'sum', *_FUNCTIONS}
_OUT_NAMES = {'N': 'n', 'C_out': 'o', 'H': 'h', 'W': 'w', 'T': 't', 'L': 'l', 'C_in': 'c'}
_WINDOW_NAMES = 'ijpquv'
_CHANNEL_NAMES = 'cdef'
_OTHER_NAMES = 'rabxyz'


# ---- printing ----

def names(op: Operator) -> dict[Iterator, str]:
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


def tensor_texts(op: Operator) -> tuple[str, str, list[str]]:
    """The left side, the sum and the tensors of the formula."""
    name = names(op)
    left = 'out[' + ', '.join(f'{name[o]}:{o.size}' for o in op.outs()) + ']'
    total = 'sum[' + ', '.join(f'{name[s]}:{s.size}' for s in op.sums()) + ']' if op.reductions else ''
    tensors = [('in', op.inputs), *((f'w{n}', w) for n, w in enumerate(op.weights, 1))]
    return left, total, [f'{t}[{", ".join(coordinate_text(c, name) for c in cs)}]' for t, cs in tensors]


def to_text(op: Operator) -> str:
    """The one-line formula of an operator as it stands (`Operator.__str__` prints the canonical one)."""
    left, total, tensors = tensor_texts(op)
    return f'{left} = {total + " " if total else ""}{" * ".join(tensors)}'


def to_pretty(op: Operator) -> str:
    """The formula with one tensor a line."""
    left, total, tensors = tensor_texts(op)
    return '\n'.join([f'{left} =', *([f'    {total}'] if total else []), f'      {tensors[0]}',
                      *(f'    * {t}' for t in tensors[1:])])


def to_loop_nest(op: Operator) -> str:
    """The operator as nested loops, every index and boundary test spelled out.

    It is Python: with the variables bound to integers, ``in_`` and ``w1``, ... to arrays and ``out`` to zeros, it runs.
    """
    name = names(op)
    lines = [f'for {name[it]} in range({_size_code(it.size)}):' for it in op.iterators()]
    lines += [f'if 0 <= {_index_code(node, name)} < {_size_code(node.size)}:'
              for node in op.nodes() if isinstance(node, Unfold)]
    tensors = [('in_', op.inputs), *((f'w{n}', w) for n, w in enumerate(op.weights, 1))]
    product = ' * '.join(f'{tensor}[{", ".join(_index_code(c, name) for c in cs) or "()"}]' for tensor, cs in tensors)
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

def parse(text: str) -> Operator:
    """The operator of a formula.

    Raises:
        FormulaError: the text is not a formula; says where and what was wanted.
        GraphError: the operator it describes is not legal.
    """
    if not isinstance(text, str):
        raise FormulaError(f'a formula must be text, got {type(text).__name__}')
    if len(text) > MAX_LENGTH:
        raise FormulaError(f'a formula may have at most {MAX_LENGTH} characters, got {len(text)}')
    return _Parser(text).operator()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        end = 0
        stripped = text.rstrip()
        while end < len(stripped):
            match = _TOKEN.match(stripped, end)
            if match is None:
                at = end + len(stripped[end:]) - len(stripped[end:].lstrip())
                raise FormulaError(f'cannot read formula: unexpected {stripped[at]!r} at column {at + 1} of '
                                   f'{self._quote(at)}')
            end = match.end()
            kind = match.lastgroup or ''
            self.tokens.append((kind, match[kind], match.start(kind)))
        self.position = 0
        self.index: dict[str, Iterator] = {}
        self.depth = 0

    # tokens
    def _quote(self, at: int) -> str:
        piece = self.text[max(0, at - 30):at + 30]
        return f'{piece!r}'

    def _fail(self, wanted: str) -> FormulaError:
        if self.position < len(self.tokens):
            _, token, at = self.tokens[self.position]
            return FormulaError(f'cannot read formula: wanted {wanted}, got {token[:40]!r} at column {at + 1} of '
                                f'{self._quote(at)}')
        return FormulaError(f'cannot read formula: wanted {wanted}, but the text ends after {self.text[-30:]!r}')

    def _peek(self, offset: int = 0) -> str:
        at = self.position + offset
        return self.tokens[at][1] if at < len(self.tokens) else ''

    def _take(self, token: str) -> bool:
        if self._peek() == token:
            self.position += 1
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise self._fail(repr(token))

    def _name(self, what: str) -> str:
        if self.position < len(self.tokens) and self.tokens[self.position][0] == 'name':
            self.position += 1
            return self.tokens[self.position - 1][1]
        raise self._fail(what)

    # grammar
    def operator(self) -> Operator:
        from .operator import Operator
        self._expect('out')
        outputs = self._declarations(Out)
        self._expect('=')
        reductions: list[Size] = self._declarations(Sum) if self._take('sum') else []
        self._expect('in')
        inputs = self._coordinates()
        weights: list[list[Coordinate]] = []
        while self._take('*'):
            name = self._name('a weight such as w1')
            if name != f'w{len(weights) + 1}':
                self.position -= 1
                raise self._fail(f"weight 'w{len(weights) + 1}' (weights are numbered from 1)")
            weights.append(self._coordinates())
        if self.position != len(self.tokens):
            raise self._fail('"*" and a weight, or the end')
        return Operator(outputs, reductions, inputs, weights)

    def _declarations(self, make: type[Iterator]) -> list[Size]:
        sizes: list[Size] = []
        self._expect('[')
        while not self._take(']'):
            if sizes:
                self._expect(',')
            name = self._name('an index name')
            if name in self.index or name in _RESERVED:
                self.position -= 1
                raise self._fail('an index name that is not in use or reserved')
            if len(name) > MAX_NAME:
                self.position -= 1
                raise self._fail(f'an index name of at most {MAX_NAME} characters')
            self._expect(':')
            size = self._size()
            self.index[name] = make(len(sizes), size)
            sizes.append(size)
        return sizes

    def _size(self) -> Size:
        size = self._size_factor()
        while self._peek() in ('*', '/'):
            times = self._take('*') or not self._take('/')
            size = size * self._size_factor() if times else size / self._size_factor()
        return size

    def _size_factor(self) -> Size:
        if self._take('('):
            self.depth += 1
            if self.depth > MAX_NESTING:
                raise self._fail(f'at most {MAX_NESTING} nested parentheses')
            size = self._size()
            self._expect(')')
            self.depth -= 1
            return size
        if self.position == len(self.tokens) or self.tokens[self.position][0] == 'symbol':
            raise self._fail('a size such as C_in/g')
        piece = self._peek()
        self.position += 1
        try:
            size = Size.parse(piece)
            if self._take('^'):
                sign = '-' if self._take('-') else ''
                piece = f'{piece}^{sign}{self._peek()}'
                self.position += 1
                size = Size.parse(piece)
        except SizeError as error:
            raise FormulaError(f'cannot read formula: {error}') from None
        return size

    def _coordinates(self) -> list[Coordinate]:
        result: list[Coordinate] = []
        self._expect('[')
        while not self._take(']'):
            if result:
                self._expect(',')
            result.append(self._sum())
        return result

    def _sum(self) -> Coordinate:
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise self._fail(f'at most {MAX_NESTING} nested primitives')
        node = self._atom()
        while self._peek() in ('//', '%', '*'):
            symbol = self._peek()
            self.position += 1
            size = self._size_factor()
            if symbol == '*':
                self._expect('+')
                right = self._atom()
                while self._peek() in ('//', '%'):
                    half = MergeLeft if self._take('//') else MergeRight
                    if half is MergeRight:
                        self._expect('%')
                    right = half(right, self._size_factor())
                if right.size != size:
                    raise FormulaError(f'cannot read formula: in a*S + b, S must be the size of b, which is '
                                       f'{right.size}; got {size}')
                node = Split(node, right)
            else:
                node = (MergeLeft if symbol == '//' else MergeRight)(node, size)
        self.depth -= 1
        return node

    def _atom(self) -> Coordinate:
        node: Coordinate
        if self._take('('):
            node = self._sum()
            self._expect(')')
            return node
        name = self._name('an index, a function or "("')
        if name in _FUNCTIONS and self._take('('):
            first = self._sum()
            self._expect(',')
            if name == 'unfold':
                node = Unfold(first, self._sum())
            elif name == 'shift':
                node = Shift(first, self._integer())
            else:
                node = Stride(first, self._size())
            self._expect(')')
            return node
        if name not in self.index:
            self.position -= 1
            known = ', '.join(islice(self.index, 12)) + ', ...' * (len(self.index) > 12)
            raise self._fail(f'one of the indices {known or "(none)"}')
        return self.index[name]

    def _integer(self) -> int:
        sign = -1 if self._take('-') else 1
        if self.position < len(self.tokens) and self.tokens[self.position][0] == 'number' and len(self._peek()) < 12:
            self.position += 1
            return sign * int(self.tokens[self.position - 1][1])
        raise self._fail('an integer of at most 11 digits')


__all__ = ['coordinate_text', 'names', 'parse', 'tensor_texts', 'to_loop_nest', 'to_pretty', 'to_text']
