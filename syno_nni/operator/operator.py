"""The operator: a legal graph, and everything that can be asked of it."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from . import cost, formula, serialize
from .canonical import canonical_form
from .expr import Coordinate
from .graph import Graph
from .legality import check
from .reference import reference
from .size import Binding, SizeLike


class Operator(Graph):
    """``out[o...] = sum over r of input[e...] * weight_1[f...] * ...``; immutable.

    The order of weights and of each weight's dimensions is kept as given, for ``weight_shapes`` and ``reference``;
    ``str``, ``id``, equality and hash use the canonical form, which no renaming or reordering changes.

    Raises:
        GraphError: the graph breaks a rule of `syno_nni.operator.legality`.
    """

    def __init__(self, outputs: Iterable[SizeLike], reductions: Iterable[SizeLike], inputs: Iterable[Coordinate],
                 weights: Iterable[Iterable[Coordinate]]) -> None:
        super().__init__(outputs, reductions, inputs, weights)
        check(self)

    # reading and writing
    @staticmethod
    def parse(text: str) -> Operator:
        """Reads a formula.

        Raises:
            FormulaError: the text is not a formula.
            GraphError: it is, and the operator is not legal.
        """
        return Operator(*formula.parse(text).structure)

    @staticmethod
    def from_json(text: str | bytes) -> Operator:
        """Reads the JSON text of `to_dict`; refuses duplicate keys and numbers that are not integers.

        Raises:
            GraphError: the text is not JSON, or not an operator.
        """
        return Operator(*serialize.from_json(text).structure)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Operator:
        """The inverse of `to_dict`; reads every released format version.

        Raises:
            GraphError: the data is malformed, of a newer format, or not a legal operator.
        """
        return Operator(*serialize.from_dict(data).structure)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description with a format version; keeps the order of weights and their dimensions."""
        return serialize.to_dict(self)

    def __str__(self) -> str:
        return self._formula

    def __repr__(self) -> str:
        return f'<Operator {self.id} {self}>'

    @cached_property
    def _formula(self) -> str:
        return formula.to_text(self.canonical)

    def pretty(self) -> str:
        """The formula over several lines: one tensor a line."""
        return formula.to_pretty(self.canonical)

    def loop_nest(self) -> str:
        """The operator as nested loops, for reading."""
        return formula.to_loop_nest(self.canonical)

    # identity
    @cached_property
    def canonical(self) -> Operator:
        """The isomorphic operator whose reductions, weights and weight dimensions stand in canonical order."""
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

    # cost and meaning
    def params(self, sizes: Binding) -> int:
        """The number of weight elements at a binding."""
        return cost.params(self, sizes)

    def macs(self, sizes: Binding) -> int:
        """Multiply-adds of the cheapest contraction order at a binding (see `syno_nni.operator.cost`)."""
        return cost.macs(self, sizes)

    def reference(self, x: np.ndarray, weights: Sequence[np.ndarray], sizes: Binding) -> np.ndarray:
        """What the operator computes, by its definition, in float64 numpy; slow and obviously right."""
        return reference(self, x, weights, sizes)
