"""Coordinates and the primitives that make them: the nodes of an operator graph.

An operator is read from its output: every coordinate of the input and of the weights is an integer expression of
output iterators and reduction iterators. A primitive takes *bottom* coordinates (nearer the output) and makes *top*
coordinates (nearer the input):

======== ===================== ================================ =================================
name     bottom -> top         index of the top                 what it does to a tensor (top-down)
======== ===================== ================================ =================================
Split    (l: a, r: b) -> a*b   ``l*b + r``                      reshapes one dimension into two
Unfold   (l: n, r: k) -> n     ``l + r - k//2``, 0 outside      slides a zero-padded window of k
Merge    n -> (n/B, B)         ``i // B`` and ``i % B``         reshapes two dimensions into one
Shift    n -> n                ``(i + offset) % n``, cyclic     rolls a dimension
Stride   n -> n*s              ``i * s``                        keeps every s-th element
======== ===================== ================================ =================================

Share and Expand need no node: a coordinate that a weight uses is shared with it, and a coordinate that the input
does not use is expanded (repeated). Semantics: "Syno", ASPLOS 2025, section 4.
"""
from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator as Iter
from typing import Any, ClassVar

from syno_nni.errors import GraphError, shown

from .size import Size, SizeLike


class Coordinate:
    """A node of the graph: immutable, compared by structure, with a symbolic ``size`` (its number of values)."""

    __slots__ = ('_hash', 'depth', 'size')
    size: Size
    depth: int
    kind: ClassVar[str]

    def _set(self, size: Size, *key: object) -> None:
        self.size = size
        self.depth = 1 + max((c.depth for c in self.bottom), default=0)
        self._hash = hash((self.kind, *key))

    @property
    def bottom(self) -> tuple[Coordinate, ...]:
        """The coordinates that this one is computed from."""
        return ()

    @property
    def argument(self) -> object:
        """The parameter of the primitive, if it has one."""
        return None

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (type(self) is type(other) and self._hash == other._hash and self.size == other.size
                and self.argument == other.argument and self.bottom == other.bottom)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        # The cached hash differs between processes, so a pickle must not carry it.
        return type(self), (*self.bottom, *(() if self.argument is None else (self.argument,)))

    def __copy__(self) -> Coordinate:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Coordinate:
        return self

    def rebuild(self, *bottom: Coordinate) -> Coordinate:
        """The same primitive over other bottom coordinates."""
        return self

    def walk(self) -> Iter[Coordinate]:
        """This node and all below it, depth first, tops first."""
        yield self
        for child in self.bottom:
            yield from child.walk()

    def iterators(self) -> Iter[Iterator]:
        """The leaves, left to right."""
        for node in self.walk():
            if isinstance(node, Iterator):
                yield node

    def __repr__(self) -> str:
        inside = [repr(c) for c in self.bottom] + ([str(self.argument)] if self.argument is not None else [])
        return f'{type(self).__name__}({", ".join(inside)})'


class Iterator(Coordinate):
    """A free index: position ``index`` of the output (``Out``) or of the reductions (``Sum``)."""

    __slots__ = ('index',)

    def __init__(self, index: int, size: Size) -> None:
        self.index = index
        self._set(size, index, size)

    @property
    def argument(self) -> int:
        return self.index

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.index, self.size)


class Out(Iterator):
    """Output coordinate ``index``."""

    __slots__ = ()
    kind = 'out'


class Sum(Iterator):
    """Reduction coordinate ``index``: all its values are summed."""

    __slots__ = ()
    kind = 'sum'


def _check_coordinates(kind: str, *bottom: object) -> None:
    for node in bottom:
        if not isinstance(node, Coordinate):
            raise GraphError(f'a {kind} is made from coordinates, got {shown(node)}')


class _Pair(Coordinate):
    __slots__ = ('left', 'right')

    def __init__(self, left: Coordinate, right: Coordinate) -> None:
        _check_coordinates(self.kind, left, right)
        self.left, self.right = left, right
        self._set(self._size(), left, right)

    def _size(self) -> Size:
        raise AssertionError('a pair primitive defines its size')

    @property
    def bottom(self) -> tuple[Coordinate, Coordinate]:
        return self.left, self.right

    def rebuild(self, *bottom: Coordinate) -> Coordinate:
        return self if bottom[0] is self.left and bottom[1] is self.right else type(self)(*bottom)


class Split(_Pair):
    """``(left, right) -> left * |right| + right``."""

    __slots__ = ()
    kind = 'split'

    def _size(self) -> Size:
        return self.left.size * self.right.size


class Unfold(_Pair):
    """``(left, right) -> left + right - |right| // 2``; reads outside ``[0, |left|)`` give 0."""

    __slots__ = ()
    kind = 'unfold'

    def _size(self) -> Size:
        return self.left.size


class _Single(Coordinate):
    __slots__ = ('of',)
    of: Coordinate

    @property
    def bottom(self) -> tuple[Coordinate]:
        return (self.of,)

    def rebuild(self, *bottom: Coordinate) -> Coordinate:
        return self if bottom[0] is self.of else PRIMITIVES[self.kind](bottom[0], self.argument)


class Shift(_Single):
    """``i -> (i + offset) mod |i|``."""

    __slots__ = ('offset',)
    kind = 'shift'

    def __init__(self, of: Coordinate, offset: int = 1) -> None:
        _check_coordinates(self.kind, of)
        self.of, self.offset = of, offset
        self._set(of.size, of, offset)

    @property
    def argument(self) -> int:
        return self.offset


class Stride(_Single):
    """``i -> i * step``; the top has ``step`` times as many values, and all but every step-th are dropped."""

    __slots__ = ('step',)
    kind = 'stride'

    def __init__(self, of: Coordinate, step: SizeLike) -> None:
        _check_coordinates(self.kind, of)
        step = Size.of(step)
        self.of, self.step = of, step
        self._set(of.size * step, of, step)

    @property
    def argument(self) -> Size:
        return self.step


class _Half(_Single):
    __slots__ = ('block',)

    def __init__(self, of: Coordinate, block: SizeLike) -> None:
        _check_coordinates(self.kind, of)
        block = Size.of(block)
        self.of, self.block = of, block
        self._set(self._size(), of, block)

    def _size(self) -> Size:
        raise AssertionError('a merge half defines its size')

    @property
    def argument(self) -> Size:
        return self.block


class MergeLeft(_Half):
    """``i -> i // block``: the outer half of a Merge."""

    __slots__ = ()
    kind = 'div'

    def _size(self) -> Size:
        return self.of.size / self.block


class MergeRight(_Half):
    """``i -> i % block``: the inner half of a Merge."""

    __slots__ = ()
    kind = 'mod'

    def _size(self) -> Size:
        return self.block


Merge = MergeLeft | MergeRight
PRIMITIVES: dict[str, Callable[..., Coordinate]] = {
    c.kind: c for c in (Split, Unfold, Shift, Stride, MergeLeft, MergeRight)}


def sibling(half: Merge) -> Merge:
    """The other half of the same Merge."""
    other = MergeRight if isinstance(half, MergeLeft) else MergeLeft
    return other(half.of, half.block)


def substitute(node: Coordinate, mapping: dict[Coordinate, Coordinate]) -> Coordinate:
    """``node`` with every occurrence of a key of ``mapping`` replaced; keys are looked up tops first."""
    if node in mapping:
        return mapping[node]
    if not node.bottom:
        return node
    return node.rebuild(*(substitute(child, mapping) for child in node.bottom))
