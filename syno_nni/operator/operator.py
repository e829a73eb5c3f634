"""The operator: output and reduction sizes, the coordinates that index the input, and those of every weight."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from syno_nni.errors import GraphError, SizeError, shown

from .expr import Coordinate, Iterator, Out, Sum
from .size import Binding, Size, SizeLike, check_binding

if TYPE_CHECKING:
    import numpy as np

MAX_EXTENT = 2 ** 62


class Operator:
    """``out[o...] = sum over r of input[e...] * weight_1[f...] * ...``; immutable.

    The order of weights and of each weight's dimensions is kept as given, for ``weight_shapes`` and ``reference``;
    ``str``, ``id``, equality and hash use the canonical form, which no renaming or reordering changes.

    Raises:
        GraphError: the graph breaks a rule of `syno_nni.operator.legality`.
    """

    def __init__(self, outputs: Iterable[SizeLike], reductions: Iterable[SizeLike], inputs: Iterable[Coordinate],
                 weights: Iterable[Iterable[Coordinate]]) -> None:
        self.outputs: tuple[Size, ...] = tuple(Size.of(s) for s in _each(outputs, 'the outputs'))
        self.reductions: tuple[Size, ...] = tuple(Size.of(s) for s in _each(reductions, 'the reductions'))
        self.inputs: tuple[Coordinate, ...] = _each(inputs, 'the inputs')
        self.weights: tuple[tuple[Coordinate, ...], ...] = tuple(
            _each(w, f'weight {n}') for n, w in enumerate(_each(weights, 'the weights'), 1))
        from .legality import check
        check(self)

    @classmethod
    def trusted(cls, outputs: Iterable[Size], reductions: Iterable[Size], inputs: Iterable[Coordinate],
                weights: Iterable[Iterable[Coordinate]]) -> Operator:
        """An operator whose legality the caller vouches for (rewrites of a legal one): skips the check."""
        op = cls.__new__(cls)
        op.outputs, op.reductions, op.inputs = tuple(outputs), tuple(reductions), tuple(inputs)
        op.weights = tuple(tuple(w) for w in weights)
        return op

    # reading and writing
    @staticmethod
    def parse(text: str) -> Operator:
        """Reads a formula.

        Raises:
            FormulaError: the text is not a formula.
            GraphError: it is, and the operator is not legal.
        """
        from .formula import parse
        return parse(text)

    @staticmethod
    def from_json(text: str | bytes) -> Operator:
        """Reads the JSON text of `to_dict`; refuses duplicate keys and numbers that are not integers.

        Raises:
            GraphError: the text is not JSON, or not an operator.
        """
        from .serialize import from_json
        return from_json(text)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Operator:
        """The inverse of `to_dict`; reads every released format version."""
        from .serialize import from_dict
        return from_dict(data)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description with a format version; keeps the order of weights and their dimensions."""
        from .serialize import to_dict
        return to_dict(self)

    def __str__(self) -> str:
        return self._formula

    def __repr__(self) -> str:
        return f'<Operator {self.id} {self}>'

    @cached_property
    def _formula(self) -> str:
        from .formula import to_text
        return to_text(self.canonical)

    def pretty(self) -> str:
        """The formula over several lines: one tensor a line."""
        from .formula import to_pretty
        return to_pretty(self.canonical)

    def loop_nest(self) -> str:
        """The operator as nested loops, for reading."""
        from .formula import to_loop_nest
        return to_loop_nest(self.canonical)

    # identity
    @cached_property
    def canonical(self) -> Operator:
        """The isomorphic operator whose reductions, weights and weight dimensions stand in canonical order."""
        from .canonical import canonical_form
        return canonical_form(self)

    @cached_property
    def id(self) -> str:
        """12 hex digits; the same for isomorphic operators, on every machine and in every Python."""
        text = json.dumps(self.canonical.to_dict(), separators=(',', ':'), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Operator):
            return NotImplemented
        return (self is other or self.structure == other.structure
                or self.canonical.structure == other.canonical.structure)

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def structure(self) -> tuple:
        """What the graph is, as given: comparable and hashable."""
        return self.outputs, self.reductions, self.inputs, self.weights

    # shapes and cost
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

    def nodes(self) -> Iterable[Coordinate]:
        """Every node of the graph that some tensor reaches, without repeats, in a fixed order."""
        seen: dict[Coordinate, None] = {}
        for coordinates in (self.inputs, *self.weights):
            for coordinate in coordinates:
                for node in coordinate.walk():
                    seen.setdefault(node)
        return seen

    def outs(self) -> tuple[Out, ...]:
        return tuple(Out(i, s) for i, s in enumerate(self.outputs))

    def sums(self) -> tuple[Sum, ...]:
        return tuple(Sum(i, s) for i, s in enumerate(self.reductions))

    def iterators(self) -> tuple[Iterator, ...]:
        return (*self.outs(), *self.sums())

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
        return tuple(c.size.value(sizes) for c in self.inputs)

    def output_shape(self, sizes: Binding) -> tuple[int, ...]:
        return tuple(s.value(sizes) for s in self.outputs)

    def weight_shapes(self, sizes: Binding) -> tuple[tuple[int, ...], ...]:
        """The shape of every weight, in the order given when the operator was made."""
        return tuple(tuple(c.size.value(sizes) for c in w) for w in self.weights)

    def params(self, sizes: Binding) -> int:
        """The number of weight elements at a binding."""
        from .cost import params
        return params(self, sizes)

    def macs(self, sizes: Binding) -> int:
        """Multiply-adds of the cheapest evaluation order at a binding (see `syno_nni.operator.cost`)."""
        from .cost import macs
        return macs(self, sizes)

    def reference(self, x: np.ndarray, weights: Sequence[np.ndarray], sizes: Binding) -> np.ndarray:
        """What the operator computes, by its definition, in float64 numpy; slow and obviously right."""
        from .reference import reference
        return reference(self, x, weights, sizes)


def _each(items: Iterable, what: str) -> tuple:
    try:
        return tuple(items)
    except TypeError:
        raise GraphError(f'{what} of an operator must be a list, got {shown(items)}') from None
