"""The machinery of canonicalization: what a rule is, what it may know, and what rules are made of."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Iterator as Iter
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TypeVar, cast

import numpy as np

from syno_nni.operator import Operator
from syno_nni.operator.canonical import canonical_form
from syno_nni.operator.expr import Coordinate, Sum, Unfold, substitute
from syno_nni.operator.graph import remembered
from syno_nni.operator.legality import is_legal
from syno_nni.operator.size import ONE, Binding, Size

EXACT, PERMUTATION = 'exact', 'exact up to channel permutation'
MAX_REWRITES = 10_000  # every node of the largest operator may have to be rewritten several times
# Sizes that are compared by value: so many variables, with such exponents.
MAX_FACTORS = 3
MAX_EQUALS = 6  # sizes of one value that are tried
_EXPONENTS, _POSITIVE = (-2, -1, 1, 2, 3), (1, 2)
T = TypeVar('T', bound=Coordinate)
# For every coordinate, who uses it: (tensor, parent), with parent None where the tensor is indexed by it directly.
Uses = dict[Coordinate, list[tuple[int, Coordinate | None]]]
Complexity = tuple[int, int, int, int, int, tuple[object, ...]]
# The rewritings that a rule offers, best first; None for one that its law does not allow.
Rewrites = Iter['Operator | None']
# How sums are replaced: from the old ones by their numbers, and the new ones.
Replacement = Callable[[dict[int, Sum], Sequence[Sum]], dict[Coordinate, Coordinate]]


@dataclass(frozen=True)
class Context:
    """What a rule may know beside the operator: the bindings, which dimensions have no order, which variables may
    stand below a line, and which neither reductions nor weights may use."""

    bindings: tuple[Binding, ...] = ()
    unordered_inputs: frozenset[int] = frozenset()
    unordered_outputs: frozenset[int] = frozenset()
    coefficients: frozenset[str] = frozenset()
    banned: frozenset[str] = frozenset()

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

    def cuts(self, block: Size, size: Size) -> bool:
        """Whether ``block`` may be taken to divide ``size``. A remainder by a block that does not is legal, but no digit.
        Without bindings this is open for variables, which are then taken to divide where they stand below a line."""
        ratio = size / block
        return ratio.is_integer(self.bindings) if self.bindings else bool(ratio.powers) or ratio.coefficient.denominator == 1

    @cached_property
    def _equals(self) -> dict[Size, tuple[Size, ...]]:
        return {}

    def equals(self, size: Size) -> tuple[Size, ...]:
        """The simplest sizes that have the same value at every binding, and ``size`` itself; simplest first."""
        found = self._equals.get(size)
        if found is None:
            others = self._by_value.get(self._value(size), ()) if self.bindings and size.coefficient == 1 else ()
            found = self._equals[size] = tuple(sorted({size, *others}, key=self.complexity))
        return found

    def simplest(self, size: Size) -> Size:
        """The size with the fewest factors that has the same value at every binding; ``size`` itself without any."""
        return self.equals(size)[0]

    def _value(self, size: Size) -> tuple[Fraction, ...] | None:
        """The value at every binding; None where a variable has none."""
        return tuple(size.ratios(self.bindings)) if all(v in self.bindings[0] for v, _ in size.powers) else None

    @cached_property
    def _by_value(self) -> dict[tuple[Fraction, ...] | None, tuple[Size, ...]]:
        """For values that several sizes have, the simplest of the sizes. All of up to three variables with small exponents
        are compared, by the exponents of their prime factors at every binding."""
        names = sorted(self.bindings[0])
        rows = []
        for count in range(MAX_FACTORS + 1):
            for chosen in itertools.combinations(range(len(names)), count):
                ranges = [_EXPONENTS if names[n] in self.coefficients else _POSITIVE for n in chosen]
                for exponents in itertools.product(*ranges):
                    row = [0] * len(names)
                    for n, e in zip(chosen, exponents):
                        row[n] = e
                    if not count or max(exponents) > 0:
                        rows.append(row)
        _, group, counts = np.unique(np.array(rows) @ self._primes(names), axis=0, return_inverse=True, return_counts=True)
        members: dict[int, list[Size]] = {}
        for at in np.nonzero(counts[group.ravel()] > 1)[0].tolist():
            members.setdefault(int(group.ravel()[at]), []).append(ONE * Size(zip(names, rows[at])))
        return {self._value(sizes[0]): tuple(sorted(sizes, key=self.complexity)[:MAX_EQUALS]) for sizes in members.values()}

    def _primes(self, names: Sequence[str]) -> np.ndarray:
        """How often every prime divides every variable (rows) at every binding."""
        factors = [[_factors(b[name]) for b in self.bindings] for name in names]
        primes = sorted({p for row in factors for each in row for p in each})
        return np.array([[each.get(p, 0) for each in row for p in primes] for row in factors], dtype=np.int64)

    def complexity(self, size: Size) -> Complexity:
        """What sizes are preferred by: few factors, small powers, few below the line, coefficients."""
        exponents = [abs(e) for _, e in size.powers]
        # High powers after the sum: g/s^2 rather than s^3 keeps within the budgets of the variables.
        return (sum(v in self.banned for v, _ in size.powers), sum(exponents), max(exponents, default=0),
                sum(e < 0 for _, e in size.powers), sum(v not in self.coefficients for v, _ in size.powers), size.sort_key)


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
    """A rewrite of legal operators into legal operators.

    ``rewrites`` offers what the law allows; a rewriting may still be illegal, say because a tensor would use a coordinate
    twice, so it is no rewriting there.
    """

    name: str
    law: str
    kind: str
    rewrites: Callable[[Operator, Context], Rewrites]

    def apply(self, op: Operator, context: Context) -> Operator | None:
        """The operator after the first rewriting that is legal, or None where the rule does not match."""
        return next((other for other in self.rewrites(op, context) if other is not None and is_legal(other)), None)


RULES: list[Rule] = []


def rule(law: str, kind: str = EXACT) -> Callable[[Callable[[Operator, Context], Rewrites]], Rule]:
    """Registers a rule under the name of its function, which yields the rewritings."""
    def register(function: Callable[[Operator, Context], Rewrites]) -> Rule:
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
    return cast(Sequence[T], _nodes_by_kind(op).get(kind, ()))


@remembered
def _nodes_by_kind(op: Operator) -> dict[type[Coordinate], list[Coordinate]]:
    found: dict[type[Coordinate], list[Coordinate]] = {}
    for node in op.nodes():
        found.setdefault(type(node), []).append(node)
    return found


@remembered
def data_nodes(op: Operator) -> frozenset[Coordinate]:
    """The nodes that the input is computed from."""
    return frozenset(n for c in op.inputs for n in c.walk())


@remembered
def uses_of(op: Operator) -> Uses:
    """Who uses every node: tensor 0 is the input, tensor i weight i."""
    found: Uses = {}
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


# ---- what rules are made of; all give None where a window would be lost ----

def with_replacements(op: Operator, mapping: dict[Coordinate, Coordinate]) -> Operator | None:
    """Applies an index identity in every tensor."""
    return _windowed(op, mapping, Operator.trusted(op.outputs, op.reductions, _replaced(op.inputs, mapping),
                                                   (_replaced(w, mapping) for w in op.weights)))


def with_weights(op: Operator, weights: Iterable[Iterable[Coordinate]]) -> Operator | None:
    """The operator with other weights."""
    return _windowed(op, {}, Operator.trusted(op.outputs, op.reductions, op.inputs, weights))


def with_weight(op: Operator, number: int, weight: Iterable[Coordinate]) -> Operator | None:
    """The operator with another weight ``number`` (from 0)."""
    return with_weights(op, (weight if n == number else w for n, w in enumerate(op.weights)))


def with_sums(op: Operator, removed: Sequence[int], added: Sequence[Size],
              replace: Replacement, weights: Iterable[Iterable[Coordinate]] | None = None) -> Operator | None:
    """Removes reductions, appends others, renumbers, and puts ``replace(old sums, new sums)`` in their place."""
    kept = [i for i in range(len(op.reductions)) if i not in removed]
    sizes = [*(op.reductions[i] for i in kept), *added]
    old = {s.index: s for s in op.sums()}
    new = [Sum(len(kept) + n, size) for n, size in enumerate(added)]
    mapping: dict[Coordinate, Coordinate] = {old[i]: Sum(n, op.reductions[i]) for n, i in enumerate(kept)}
    mapping.update(replace(old, new))
    return _windowed(op, mapping, Operator.trusted(
        op.outputs, sizes, _replaced(op.inputs, mapping),
        (_replaced(w, mapping) for w in (op.weights if weights is None else weights))))


def _replaced(coordinates: Iterable[Coordinate], mapping: dict[Coordinate, Coordinate]) -> tuple[Coordinate, ...]:
    return tuple(substitute(c, mapping) for c in coordinates)


def _windowed(op: Operator, mapping: dict[Coordinate, Coordinate], other: Operator) -> Operator | None:
    """``other``, made of ``op`` by ``mapping``, if it has every window that ``op`` has.

    A product is 0 where a window reads outside, whichever tensor has it. An index that is otherwise free to go, as it has
    one value or another determines it, may hold the only window of its kind.
    """
    if windows := nodes_of(op, Unfold):
        kept = set(nodes_of(other, Unfold))
        for window in windows:
            new = substitute(window, mapping)
            if isinstance(new, Unfold) and not new.right.size.is_one and kept.isdisjoint((new, window)):
                return None
    return other
