"""The graph of an operator as plain data: sizes and coordinates, their shapes, and what is remembered about them.

Whether a graph is legal, how it is written, ordered, priced and run are questions for the modules above this one; they
take a `Graph`. `syno_nni.operator.operator.Operator` is a legal graph that answers all of them.
"""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from collections.abc import Iterator as Iter
from functools import cached_property, wraps
from typing import Any, Self, TypeVar, cast

from syno_nni.errors import GraphError, SizeError, shown

from .expr import Coordinate, Iterator, Out, Sum
from .size import Binding, Size, SizeLike, check_binding

MAX_EXTENT = 2 ** 62
G = TypeVar('G', bound='Graph')
T = TypeVar('T')
Structure = tuple[tuple[Size, ...], tuple[Size, ...], tuple[Coordinate, ...], tuple[tuple[Coordinate, ...], ...]]


class Graph:
    """``out[o...] = sum over r of input[e...] * weight_1[f...] * ...``; immutable, legal or not.

    Attributes:
        outputs, reductions: the sizes of the output indices and of the summed ones.
        inputs: the coordinates that index the input, one for each dimension.
        weights: the coordinates of every weight, in the order given.

    Raises:
        GraphError: something that must be a list is not.
        SizeError: a size is malformed.
    """

    def __init__(self, outputs: Iterable[SizeLike], reductions: Iterable[SizeLike], inputs: Iterable[Coordinate],
                 weights: Iterable[Iterable[Coordinate]]) -> None:
        self.outputs: tuple[Size, ...] = tuple(Size.of(s) for s in _each(outputs, 'the outputs'))
        self.reductions: tuple[Size, ...] = tuple(Size.of(s) for s in _each(reductions, 'the reductions'))
        self.inputs: tuple[Coordinate, ...] = _each(inputs, 'the inputs')
        self.weights: tuple[tuple[Coordinate, ...], ...] = tuple(
            _each(w, f'weight {n}') for n, w in enumerate(_each(weights, 'the weights'), 1))
        self._memory: dict[Callable[..., Any], Any] = {}

    @classmethod
    def trusted(cls, outputs: Iterable[Size], reductions: Iterable[Size], inputs: Iterable[Coordinate],
                weights: Iterable[Iterable[Coordinate]]) -> Self:
        """A graph whose legality the caller vouches for (rewrites of a legal one): nothing is checked or converted."""
        graph = cls.__new__(cls)
        graph.outputs, graph.reductions, graph.inputs = tuple(outputs), tuple(reductions), tuple(inputs)
        graph.weights = tuple(tuple(w) for w in weights)
        graph._memory = {}
        return graph

    def __reduce__(self) -> tuple[Any, ...]:
        # What is remembered can be found again, and may be large.
        return type(self).trusted, self.structure

    @property
    def structure(self) -> Structure:
        """What the graph is, as given: comparable and hashable."""
        return self.outputs, self.reductions, self.inputs, self.weights

    # nodes
    def nodes(self) -> Collection[Coordinate]:
        """Every node of the graph that some tensor reaches, without repeats, in a fixed order."""
        seen: dict[Coordinate, None] = {}
        for coordinates in (self.inputs, *self.weights):
            for coordinate in coordinates:
                for node in coordinate.walk():
                    seen.setdefault(node)
        return seen.keys()

    def outs(self) -> tuple[Out, ...]:
        """The output iterators."""
        return tuple(Out(i, s) for i, s in enumerate(self.outputs))

    def sums(self) -> tuple[Sum, ...]:
        """The reduction iterators."""
        return tuple(Sum(i, s) for i, s in enumerate(self.reductions))

    def iterators(self) -> tuple[Iterator, ...]:
        """The output iterators, then the reduction iterators."""
        return (*self.outs(), *self.sums())

    # sizes and shapes
    @cached_property
    def variables(self) -> frozenset[str]:
        """The variables that a binding must give."""
        found: set[str] = set()
        for size in (*self.outputs, *self.reductions):
            found |= size.variables
        for node in self.nodes():
            found |= node.size.variables
            if isinstance(node.argument, Size):
                found |= node.argument.variables
        return frozenset(found)

    def check_sizes(self, sizes: Binding) -> dict[str, int]:
        """``sizes`` as a dict, after checking that every size of the graph is a positive integer there.

        Raises:
            SizeError: a size is not an integer (names the size, the binding and the remainder), or too large to index.
        """
        binding = check_binding(sizes)
        wanted = dict.fromkeys((*self.outputs, *self.reductions))
        for node in self.nodes():
            wanted.setdefault(node.size)
            if isinstance(node.argument, Size):
                wanted.setdefault(node.argument)
        for size in wanted:
            if (value := size.value(binding)) > MAX_EXTENT:
                raise SizeError(f'size {size} is {value} at {binding}, and an index must fit 62 bits; bind smaller '
                                'values')
        return binding

    def input_shape(self, sizes: Binding) -> tuple[int, ...]:
        """The shape of the input."""
        return tuple(c.size.value(sizes) for c in self.inputs)

    def output_shape(self, sizes: Binding) -> tuple[int, ...]:
        """The shape of the output."""
        return tuple(s.value(sizes) for s in self.outputs)

    def weight_shapes(self, sizes: Binding) -> tuple[tuple[int, ...], ...]:
        """The shape of every weight, in the order given when the operator was made."""
        return tuple(tuple(c.size.value(sizes) for c in w) for w in self.weights)


def tensors(graph: Graph) -> Iter[tuple[str, tuple[Coordinate, ...]]]:
    """The name and the coordinates of the input and of every weight."""
    yield 'in', graph.inputs
    for number, weight in enumerate(graph.weights, 1):
        yield f'w{number}', weight


def remembered(function: Callable[[G], T]) -> Callable[[G], T]:
    """Decorates a function of a graph: its result is computed once and kept with the graph.

    A graph is immutable and hashing it is dear, so this is the place for what is asked of it again and again. What is
    kept is not part of the graph: copies and pickles are without it. The function must not change its result.
    """
    @wraps(function)
    def lookup(graph: G) -> T:
        memory = graph._memory
        if function not in memory:
            memory[function] = function(graph)
        return cast(T, memory[function])
    return lookup


def _each(items: Iterable[Any], what: str) -> tuple[Any, ...]:
    try:
        return tuple(items)
    except TypeError:
        raise GraphError(f'{what} of an operator must be a list, got {shown(items)}') from None
