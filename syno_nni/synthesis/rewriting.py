"""The machinery of canonicalization: what a rule is, what it may know, and what rules are made of."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Iterator as Iter
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TypeVar

from ..canonical import canonical_form
from ..expr import Coordinate, Sum, substitute
from ..operator import Operator
from ..size import ONE, Binding, Size, product

EXACT, PERMUTATION = 'exact', 'exact up to channel permutation'
MAX_REWRITES = 500
T = TypeVar('T', bound=Coordinate)
# For every coordinate, who uses it: (tensor, parent), with parent None where the tensor is indexed by it directly.
Uses = dict[Coordinate, list[tuple[int, Coordinate | None]]]


@dataclass(frozen=True)
class Context:
    """What a rule may know beside the operator: the bindings, and which dimensions have no order."""

    bindings: tuple[Binding, ...] = ()
    unordered_inputs: frozenset[int] = frozenset()
    unordered_outputs: frozenset[int] = frozenset()

    @cached_property
    def _quotients(self) -> dict[tuple[Size, Size], bool]:
        return {}

    def divides(self, small: Size, large: Size) -> bool:
        """Whether ``large / small`` is a whole size: no variable below the line, or an integer at every binding."""
        found = self._quotients.get((small, large))
        if found is None:
            ratio = large / small
            found = self._quotients[small, large] = ratio.is_integer(self.bindings) if self.bindings else (
                ratio.coefficient.denominator == 1 and all(e > 0 for _, e in ratio.powers))
        return found

    @cached_property
    def _simplest(self) -> dict[Size, Size]:
        return {}

    def simplest(self, size: Size) -> Size:
        """The size with the fewest factors that has the same value at every binding; ``size`` itself without any."""
        found = self._simplest.get(size)
        if found is None:
            found = self._simplest[size] = min((size, *self._equals(size)), key=_complexity)
        return found

    def _equals(self, size: Size) -> Iter[Size]:
        """Sizes with the same value at every binding, as far as small powers of the relations lead."""
        for exponents in itertools.product((-2, -1, 0, 1, 2), repeat=len(self._units)):
            other = product((size, *(unit ** e for unit, e in zip(self._units, exponents))))
            whole = all(e >= 0 or v in self._constant for v, e in other.powers)
            if other.is_one or (whole and any(e > 0 for _, e in other.powers)):
                yield other

    @cached_property
    def _constant(self) -> frozenset[str]:
        """Variables that stand below a line in some unit relation, or have one value everywhere."""
        first = self.bindings[0] if self.bindings else {}
        return frozenset(v for v in first if all(b[v] == first[v] for b in self.bindings))

    @cached_property
    def _units(self) -> tuple[Size, ...]:
        """Monomials that are 1 at every binding: the relations between the variables."""
        return unit_monomials(self.bindings)


def _complexity(size: Size) -> tuple:
    return sum(abs(e) for _, e in size.powers), sum(e < 0 for _, e in size.powers), size.sort_key


def unit_monomials(bindings: Sequence[Binding]) -> tuple[Size, ...]:
    """Monomials of the variables that are 1 at every binding; all others are products of their rational powers."""
    if not bindings:
        return ()
    names = sorted(bindings[0])
    rows: list[list[Fraction]] = []
    for binding in bindings:
        factors = [_factors(binding[name]) for name in names]
        for prime in sorted(set().union(*factors)):
            rows.append([Fraction(f.get(prime, 0)) for f in factors])
    pivots: list[tuple[int, list[Fraction]]] = []
    for row in rows:
        for column, pivot in pivots:
            row = [a - row[column] * b for a, b in zip(row, pivot)]
        lead = next((n for n, a in enumerate(row) if a), None)
        if lead is not None:
            row = [a / row[lead] for a in row]
            pivots = [(c, [a - p[lead] * b for a, b in zip(p, row)]) for c, p in pivots] + [(lead, row)]
    found = []
    for free in set(range(len(names))) - {column for column, _ in pivots}:
        vector = [Fraction(0)] * len(names)
        vector[free] = Fraction(1)
        for column, pivot in pivots:
            vector[column] = -pivot[free]
        scale = 1
        for value in vector:
            scale = scale * value.denominator // _gcd(scale, value.denominator)
        exponents = [int(v * scale) for v in vector]
        if max(map(abs, exponents)) <= 8:
            found.append(ONE * Size(zip(names, exponents)))
    return tuple(sorted(found))


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def _factors(number: int) -> dict[int, int]:
    found: dict[int, int] = {}
    divisor = 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found[divisor] = found.get(divisor, 0) + 1
            number //= divisor
        divisor += 1
    if number > 1:
        found[number] = found.get(number, 0) + 1
    return found


@dataclass(frozen=True)
class Rule:
    """A rewrite: ``apply(op, context)`` gives the rewritten operator, or None where the rule does not match."""

    name: str
    law: str
    kind: str
    apply: Callable[[Operator, Context], Operator | None]


RULES: list[Rule] = []


def rule(law: str, kind: str = EXACT) -> Callable[[Callable[[Operator, Context], Operator | None]], Rule]:
    """Registers a rule under the name of its function."""
    def register(function: Callable[[Operator, Context], Operator | None]) -> Rule:
        made = Rule(function.__name__.replace('_', '-'), law, kind, function)
        RULES.append(made)
        return made
    return register


def normalize(op: Operator, context: Context = Context(), trace: list[str] | None = None) -> Operator:
    """The canonical representative: every rule applied until none matches, then canonical order.

    ``trace``, if given, collects the names of the rules that fired. Rewriting never adds a construction step.
    """
    for _ in range(MAX_REWRITES):
        for each in RULES:
            rewritten = each.apply(op, context)
            if rewritten is not None:
                if trace is not None:
                    trace.append(each.name)
                op = rewritten
                break
        else:
            return canonical_form(op)
    raise AssertionError(f'canonicalization does not end on {op}')


# ---- what rules look at; remembered with the operator, which is immutable ----

def nodes_of(op: Operator, kind: type[T]) -> Sequence[T]:
    """The nodes of one kind, in the order of `Operator.nodes`."""
    found = op.__dict__.get('_nodes_by_kind')
    if found is None:
        found = op.__dict__['_nodes_by_kind'] = {}
        for node in op.nodes():
            found.setdefault(type(node), []).append(node)
    return found.get(kind, ())


def data_nodes(op: Operator) -> frozenset[Coordinate]:
    """The nodes that the input is computed from."""
    found = op.__dict__.get('_data_nodes')
    if found is None:
        found = op.__dict__['_data_nodes'] = frozenset(n for c in op.inputs for n in c.walk())
    return found


def uses_of(op: Operator) -> Uses:
    """Who uses every node: tensor 0 is the input, tensor i weight i."""
    found: Uses | None = op.__dict__.get('_uses')
    if found is None:
        found = op.__dict__['_uses'] = {}
        for number, coordinates in enumerate((op.inputs, *op.weights)):
            seen: set[tuple[Coordinate, Coordinate]] = set()
            for coordinate in coordinates:
                found.setdefault(coordinate, []).append((number, None))
                for node in coordinate.walk():
                    for child in node.bottom:
                        if (node, child) not in seen:
                            seen.add((node, child))
                            found.setdefault(child, []).append((number, node))
    return found


# ---- what rules are made of ----

def substituted(op: Operator, mapping: dict[Coordinate, Coordinate]) -> Operator:
    """Applies an index identity in every tensor."""
    return Operator.trusted(op.outputs, op.reductions, (substitute(c, mapping) for c in op.inputs),
                            (tuple(substitute(c, mapping) for c in w) for w in op.weights))


def with_weights(op: Operator, weights: Iterable[Iterable[Coordinate]]) -> Operator:
    """The operator with other weights."""
    return Operator.trusted(op.outputs, op.reductions, op.inputs, weights)


def with_weight(op: Operator, number: int, weight: Iterable[Coordinate]) -> Operator:
    """The operator with another weight ``number`` (from 0)."""
    return with_weights(op, (weight if n == number else w for n, w in enumerate(op.weights)))


def with_sums(op: Operator, removed: Sequence[int], added: Sequence[Size],
              replace: Callable[[dict[int, Sum], Sequence[Sum]], dict[Coordinate, Coordinate]],
              weights: Iterable[Iterable[Coordinate]] | None = None) -> Operator:
    """Removes reductions, appends others, renumbers, and substitutes ``replace(old sums, new sums)``."""
    kept = [i for i in range(len(op.reductions)) if i not in removed]
    sizes = [*(op.reductions[i] for i in kept), *added]
    old = {s.index: s for s in op.sums()}
    new = [Sum(len(kept) + n, size) for n, size in enumerate(added)]
    mapping: dict[Coordinate, Coordinate] = {old[i]: Sum(n, op.reductions[i]) for n, i in enumerate(kept)}
    mapping.update(replace(old, new))
    return Operator.trusted(
        op.outputs, sizes, (substitute(c, mapping) for c in op.inputs),
        (tuple(substitute(c, mapping) for c in w) for w in (op.weights if weights is None else weights)))
