"""The symbolic sizes that a space deals in: which are legal, and which a reduction or a Merge may take."""
from __future__ import annotations

from collections.abc import Iterator as Iter
from collections.abc import Sequence
from enum import Enum, auto
from fractions import Fraction
from typing import Any, NamedTuple

from syno_nni.errors import SpaceError
from syno_nni.operator.size import ONE, Binding, Size

from .limits import Limits, Variable


class SizeFault(Enum):
    """What makes a size illegal."""

    UNKNOWN_VARIABLE = auto()
    DIVIDES_BY_PRIMARY = auto()
    HAS_NUMBER = auto()
    NOTHING_ABOVE = auto()
    TOO_MANY_VARIABLES = auto()
    TOO_HIGH_POWERS = auto()
    NOT_WHOLE = auto()
    ONE = auto()


class SizeComplaint(NamedTuple):
    """Why a size is not legal; ``str`` says it in words."""

    fault: SizeFault
    text: str

    def __str__(self) -> str:
        return self.text


class SizeDomain:
    """Sizes over given variables, checked at all bindings at once; every answer is remembered.

    Without bindings only the symbolic conditions are checked.
    """

    def __init__(self, variables: Sequence[Variable], bindings: Sequence[Binding], limits: Limits,
                 wanted: Sequence[Size]) -> None:
        self.variables = {v.name: v for v in variables}
        self.bindings = tuple(bindings)
        self.limits = limits
        self.wanted = tuple(wanted)
        self.banned = frozenset(v.name for v in variables if v.budget == 0)
        self._ratios: dict[Size, tuple[Fraction | int, ...]] = {}
        self._upper: dict[Size, Fraction | int] = {}
        self._legal: dict[Size, bool] = {}
        self._windows: dict[Size, bool] = {}
        self._blocks: dict[Size, tuple[Size, ...]] = {}
        self._reductions: tuple[Size, ...] | None = None

    def ratios(self, size: Size) -> tuple[Fraction | int, ...]:
        """The value at every binding."""
        found = self._ratios.get(size)
        if found is None:
            ratios = (size.ratio(b) for b in self.bindings)
            # Whole numbers as int: they compare much faster than fractions.
            found = self._ratios[size] = tuple(r.numerator if r.denominator == 1 else r for r in ratios)
        return found

    def upper(self, size: Size) -> Fraction | int:
        """The greatest value at any binding; 0 without bindings."""
        found = self._upper.get(size)
        if found is None:
            found = self._upper[size] = max(self.ratios(size), default=0)
        return found

    def lower(self, size: Size) -> Fraction | int:
        """The least value at any binding; a large number without bindings."""
        return min(self.ratios(size), default=10 ** 9)

    def legal(self, size: Size) -> bool:
        """Whether a dimension may have this size: whole at every binding, no primary variable in the denominator."""
        found = self._legal.get(size)
        if found is None:
            found = self._legal[size] = self.complaint(size) is None
        return found

    def complaint(self, size: Size) -> SizeComplaint | None:
        """Why a size is not legal; None where it is."""
        for name, exponent in size.powers:
            variable = self.variables.get(name)
            if variable is None:
                return SizeComplaint(SizeFault.UNKNOWN_VARIABLE, f'size {size} uses {name}, which is no variable of the space '
                                     f'({", ".join(self.variables)})')
            if variable.primary and exponent < 0:
                return SizeComplaint(SizeFault.DIVIDES_BY_PRIMARY, f'size {size} divides by the primary variable {name}')
        if size.coefficient != 1:
            return SizeComplaint(SizeFault.HAS_NUMBER, f'size {size} has the number {size.coefficient}; the space builds sizes '
                                 'of variables only')
        if not any(e > 0 for _, e in size.powers) and size != ONE:
            return SizeComplaint(SizeFault.NOTHING_ABOVE, f'size {size} has no variable above the line')
        if 0 <= self.limits.size_variables < len(size.powers):
            return SizeComplaint(SizeFault.TOO_MANY_VARIABLES, f'size {size} has {len(size.powers)} variables, the limit is '
                                 f'{self.limits.size_variables}')
        if 0 <= self.limits.size_powers < sum(abs(e) for _, e in size.powers):
            return SizeComplaint(SizeFault.TOO_HIGH_POWERS, f'size {size} has exponents summing to more than '
                                 f'{self.limits.size_powers}')
        for binding, ratio in zip(self.bindings, self.ratios(size)):
            if ratio.denominator != 1:
                return SizeComplaint(SizeFault.NOT_WHOLE, f'size {size} is {ratio}, not whole, at {dict(binding)}')
        if self.bindings and size != ONE and self.upper(size) == 1:
            return SizeComplaint(SizeFault.ONE, f'size {size} is 1 at every binding')
        return None

    def has_banned(self, size: Size) -> bool:
        """Whether a size has a variable that neither reductions nor weights may use."""
        return any(size.exponent(v) for v in self.banned)

    def whole(self, ratio: Size) -> bool:
        """Whether a quotient of sizes is a legal size or 1."""
        return ratio.is_one or self.legal(ratio)

    def window(self, size: Size) -> bool:
        """Whether a window may have this size."""
        found = self._windows.get(size)
        if found is None:
            rules = self.limits.heuristics
            found = self.legal(size) and not self.has_banned(size)
            if found and self.bindings:
                found = self.upper(size) <= rules.max_window and not (
                    rules.odd_windows and any(r.denominator == 1 and r.numerator % 2 == 0 for r in self.ratios(size)))
            self._windows[size] = found
        return found

    def unfoldable(self, left: Size, window: Size) -> bool:
        """Whether a dimension is long enough for a window."""
        if not self.bindings:
            return True
        ratio = Fraction(self.limits.heuristics.window_ratio).limit_denominator(1000)
        return all(a >= ratio * b for a, b in zip(self.ratios(left), self.ratios(window)))

    def rank(self, size: Size) -> bool:
        """Whether a reduction of this size may be used by weights only."""
        rules = self.limits.heuristics
        return not self.bindings or rules.min_rank <= self.upper(size) <= rules.max_rank

    def reduction(self, size: Size) -> bool:
        """Whether a reduction may have this size."""
        if not self.legal(size) or size.is_one or self.has_banned(size):
            return False
        if any(self.whole(w / size) for w in self.wanted if not self.has_banned(w)):
            return True
        return not self.bindings or self.upper(size) <= self.limits.heuristics.small_reduction

    def usable(self) -> list[Variable]:
        """The variables that sizes of reductions and weights may have."""
        return [v for v in self.variables.values() if v.budget > 0]

    def reductions(self) -> tuple[Size, ...]:
        """Every size that a reduction may have, in a fixed order."""
        if self._reductions is None:
            ranges = []
            for v in self.usable():
                least = 0 if v.primary else -min(v.budget, self.limits.coefficient_exponent)
                most = min(v.budget, self.limits.max_exponent if v.primary else self.limits.coefficient_exponent)
                ranges.append([(v.name, e) for e in range(least, most + 1)])
            self._reductions = tuple(sorted(s for s in self._monomials(ranges) if self.reduction(s)))
        return self._reductions

    def blocks(self, size: Size) -> tuple[Size, ...]:
        """Every block size with which a dimension of ``size`` may be merged, in a fixed order."""
        found = self._blocks.get(size)
        if found is None:
            ranges = []
            for v in self.variables.values():
                e = size.exponent(v.name)
                if v.primary:
                    ranges.append([(v.name, x) for x in range(e + 1)])
                else:
                    most = min(v.budget, self.limits.coefficient_exponent)
                    ranges.append([(v.name, x) for x in range(min(0, e) - most, max(0, e) + most + 1)])
            found = self._blocks[size] = tuple(sorted(
                b for b in self._monomials(ranges) if not b.is_one and self.legal(b) and b != size and self.legal(size / b)))
        return found

    def _monomials(self, ranges: list[list[tuple[str, int]]]) -> Iter[Size]:
        limit = self.limits.size_variables

        def extend(at: int, used: tuple[tuple[str, int], ...]) -> Iter[Size]:
            if at == len(ranges):
                if any(e > 0 for _, e in used):
                    yield ONE * Size(used)  # the interned one: comparing it is comparing identities
                return
            for name, exponent in ranges[at]:
                if exponent == 0:
                    yield from extend(at + 1, used)
                elif limit < 0 or len(used) < limit:
                    yield from extend(at + 1, (*used, (name, exponent)))

        yield from extend(0, ())


def check_bindings(bindings: Sequence[Binding], variables: Sequence[Variable]) -> tuple[dict[str, int], ...]:
    """Complete bindings: coefficients that a binding leaves out take their default value.

    Raises:
        SpaceError: a primary variable is missing or a value is not a positive integer.
    """
    result = []
    for number, binding in enumerate(bindings, 1):
        full: dict[str, Any] = {v.name: v.value for v in variables if v.value is not None}
        if not hasattr(binding, 'items'):
            raise SpaceError(f'binding {number} must be a dict such as {{"C_in": 64, ...}}, got {binding!r:.60}')
        full.update(binding)
        for v in variables:
            value: Any = full.get(v.name)
            if isinstance(value, bool) or not hasattr(value, '__index__') or value < 1:
                raise SpaceError(f'binding {number}: variable {v.name} must be a positive integer, got {value!r}; '
                                 f'a binding gives {", ".join(v.name for v in variables)}')
        result.append({k: int(x) for k, x in full.items()})
    return tuple(result)


def partitions(count: int) -> list[tuple[tuple[int, ...], ...]]:
    """All set partitions of ``range(count)``."""
    result: list[list[list[int]]] = [[]]
    for item in range(count):
        grown = []
        for blocks in result:
            for at in range(len(blocks)):
                grown.append([b + [item] if n == at else b for n, b in enumerate(blocks)])
            grown.append([*blocks, [item]])
        result = grown
    return [tuple(tuple(b) for b in blocks) for blocks in result]


__all__ = ['SizeComplaint', 'SizeDomain', 'SizeFault', 'check_bindings', 'partitions']
