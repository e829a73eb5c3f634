"""Shape distance: a lower bound on the steps that remain until the data coordinates can become the input.

The live coordinates and the wanted input dimensions are partitioned into groups. Coordinates of a group are joined by
Splits and cut by Merges into its wanted dimensions; what is left of a group, and coordinates in no group, must go:
dropped for nothing where a weight may hold them ("contraction as one step": one weight takes any number), or unfolded
as a window for one step. A missing factor may still come from a new reduction. What a Split has joined can be cut again
only after a Shift, and then only into small blocks; a bare reduction is never cut. Every part is a relaxation of what
the construction allows, so the bound never exceeds the true distance ("Syno", section 6, which ignores contraction).
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from syno_nni.operator.size import ONE, Size, product

from .domain import SizeDomain, partitions

INFINITE = 10 ** 6
MAX_ROUTES = 200
MAX_KNOWN = 100_000  # remembered bounds and routes; then memory is given back
CODE_BASE = 2 ** 12  # exponents stay far below half of it
# What a Merge of a coordinate takes: at will; into small blocks only (a Shift); after a Shift, into small blocks (a
# Split of a small block, the outer half of a Merge); not at all (other Splits, a bare reduction).
FREE, SMALL, SHIFTED, NEVER = range(4)


class Item(NamedTuple):
    """What the distance needs to know of a live coordinate."""

    size: Size
    droppable: bool  # a weight may take it over
    bare_sum: bool   # then two weights must: a reduction in one weight only is redundant
    window: bool     # it may become the window of an Unfold
    merge: int = 0   # what a Merge of it takes: see FREE, SMALL, SHIFTED, NEVER


class Allowance(NamedTuple):
    """How many steps of each kind are left (large numbers for no bound)."""

    reductions: int
    splits: int
    merges: int
    unfolds: int
    weights: int
    shifts: int


class _Way(NamedTuple):
    """A way to make some wanted dimensions from one set of items, and what it spends."""

    mask: int
    splits: int
    merges: int
    shifts: int
    reductions: int
    cost: int
    supply: Size | None = None  # the size of the new reduction


class _Fit(NamedTuple):
    """A union of wanted dimensions in a product of items: what is left over, and what a new reduction must supply."""

    union: int
    rest: Size
    small: bool
    merges: int
    supply: Size | None


class Route(NamedTuple):
    """A way to the input: sets of items that become wanted dimensions, and the items to drop or unfold (bit masks)."""

    cost: int
    ways: tuple[_Way, ...]
    rest: int


class ShapeDistance:
    """The bound for fixed wanted sizes; remembered by the sorted live items and the allowance."""

    def __init__(self, domain: SizeDomain, wanted: Sequence[Size]) -> None:
        self.domain = domain
        self.wanted = tuple(wanted)
        # Every product of wanted dimensions that a group may stand for, and how many dimensions that is.
        self._unions: list[tuple[Size, int]] = []
        self._partitions: list[tuple[int, ...]] = []
        self._pieces: list[list[tuple[Size, ...]]] = []
        for blocks in partitions(len(self.wanted)):
            unions = [(product(self.wanted[i] for i in block), len(block)) for block in blocks]
            for union, block in zip(unions, blocks):
                pieces = tuple(sorted((self.wanted[i] for i in block), key=str))
                if union not in self._unions:
                    self._unions.append(union)
                    self._pieces.append([])
                if pieces not in self._pieces[number := self._unions.index(union)]:
                    self._pieces[number].append(pieces)
            numbers = tuple(sorted(self._unions.index(u) for u in unions))
            if numbers not in self._partitions:
                self._partitions.append(numbers)
        self._partitions.sort(key=len, reverse=True)
        self._joined_merge = FREE if domain.limits.heuristics.merge_of_split else SHIFTED
        self._wide_merge = FREE if domain.limits.heuristics.merge_of_split else NEVER
        self._known: dict[tuple[tuple[Item, ...], Allowance], int] = {}
        self._known_routes: dict[tuple[tuple[Item, ...], Allowance, int], tuple[Route, ...]] = {}
        self._known_ways: dict[tuple[tuple[Item, ...], int, bool], list[list[_Way]]] = {}
        self._known_fits: dict[int, list[_Fit]] = {}
        self._known_supplied: dict[int, list[_Fit]] = {}
        self._codes: dict[Size, int] = {}

    def steps(self, items: Sequence[Item], allowance: Allowance) -> int:
        """Least number of reductions, views and weights still needed; INFINITE if there is no way."""
        key = (tuple(sorted(items, key=_item_key)), allowance)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            found = self._known[key] = self._least_steps(key[0], allowance)
        return found

    def _least_steps(self, items: tuple[Item, ...], allowance: Allowance) -> int:
        best = INFINITE

        def budget() -> int:
            return best

        for cost, _, _ in self._solutions(items, allowance, budget):
            best = min(best, cost)
        return best

    def routes(self, items: Sequence[Item], allowance: Allowance, budget: int) -> list[Route]:
        """Ways to get from ``items`` (in their order) to the wanted dimensions that the bound knows, within ``budget``."""
        order = sorted(range(len(items)), key=lambda n: _item_key(items[n]))
        key = (tuple(items[n] for n in order), allowance, budget)
        found = self._known_routes.get(key)
        if found is None:
            if len(self._known_routes) >= MAX_KNOWN:
                self._known_routes.clear()
            solutions = self._solutions(key[0], allowance, lambda: budget + 1)
            found = self._known_routes[key] = tuple(
                Route(cost, ways, rest) for cost, ways, rest in itertools.islice(solutions, MAX_ROUTES))
        if order == sorted(order):
            return list(found)

        def renumbered(mask: int) -> int:
            return sum(1 << order[n] for n in range(len(order)) if mask >> n & 1)

        return [Route(p.cost, tuple(w._replace(mask=renumbered(w.mask)) for w in p.ways), renumbered(p.rest)) for p in found]

    def _solutions(self, items: tuple[Item, ...], allowance: Allowance,
                   bound: Callable[[], int]) -> Iterator[tuple[int, tuple[_Way, ...], int]]:
        """Disjoint ways for all wanted dimensions that cost less than ``bound()``: (cost, ways, items left over)."""
        ways = self._ways(items, allowance)
        everything = (1 << len(items)) - 1

        def choose(numbers: tuple[int, ...], used: int, total: _Way,
                   chosen: tuple[_Way, ...]) -> Iterator[tuple[int, tuple[_Way, ...], int]]:
            if total.cost + 1 >= bound():
                return
            if not numbers:
                cost = self._eliminate(items, everything & ~used, allowance, total)
                if cost < bound():
                    yield cost, chosen, everything & ~used
                return
            for way in ways[numbers[0]]:
                if not way.mask & used:
                    both = _Way(0, total.splits + way.splits, total.merges + way.merges, total.shifts + way.shifts,
                                total.reductions + way.reductions, total.cost + way.cost)
                    if (both.splits <= allowance.splits and both.merges <= allowance.merges
                            and both.shifts <= allowance.shifts and both.reductions <= allowance.reductions):
                        yield from choose(numbers[1:], used | way.mask, both, (*chosen, way))

        for numbers in self._partitions:
            if all(ways[n] for n in numbers):
                yield from choose(numbers, 0, _Way(0, 0, 0, 0, 0, 0), ())

    def _ways(self, items: tuple[Item, ...], allowance: Allowance) -> list[list[_Way]]:
        """For every union of wanted dimensions, the sets of items that can make it, cheapest first."""
        key = (items, allowance.splits, allowance.reductions > 0)
        found = self._known_ways.get(key)
        if found is None:
            if len(self._known_ways) >= MAX_KNOWN:
                self._known_ways.clear()
            found = self._known_ways[key] = self._list_ways(items, allowance.splits, allowance.reductions > 0)
        return found

    def _list_ways(self, items: tuple[Item, ...], splits: int, reducible: bool) -> list[list[_Way]]:
        ways: list[list[_Way]] = [[] for _ in self._unions]
        # Products of sizes are sums of codes: cheap for the many sets that fit nothing.
        codes = [self._code(item.size) for item in items]
        products = [0] * (1 << len(items))
        known = self._known_fits
        # A Split can be shifted, and then cut, only if its inner block is small.
        small = sum(1 << n for n, item in enumerate(items) if self._small(item.size))
        for mask in range(1 << len(items)):
            low = mask & -mask
            if mask:
                products[mask] = code = products[mask ^ low] + codes[low.bit_length() - 1]
            else:
                code = 0
            count = mask.bit_count()
            if count > splits + 1:
                continue
            fits = known.get(code)
            if fits is None:
                fits = known[code] = self._fits(product(i.size for n, i in enumerate(items) if mask >> n & 1))
            if fits and count:
                joined = self._joined_merge if small & mask else self._wide_merge
                merge = items[low.bit_length() - 1].merge if count == 1 else joined
                for fit in fits:
                    if merge == NEVER and fit.merges:
                        continue
                    if (way := self._way(items, mask, count, merge, fit)) is not None:
                        ways[fit.union].append(way)
            if reducible and count <= splits:
                ways_supplied = self._known_supplied.get(code)
                if ways_supplied is None:
                    size = product(i.size for n, i in enumerate(items) if mask >> n & 1)
                    ways_supplied = self._known_supplied[code] = self._supplied_fits(size)
                for fit in ways_supplied:
                    fine = small & mask or self._small(fit.supply or ONE)
                    merge = NEVER if not count else self._joined_merge if fine else self._wide_merge
                    if (way := self._way(items, mask, count + 1, merge, fit)) is not None:
                        ways[fit.union].append(way)
        for each in ways:
            each.sort(key=lambda way: way.cost)
        return ways

    def _way(self, items: tuple[Item, ...], mask: int, count: int, merge: int, fit: _Fit) -> _Way | None:
        """What it takes to turn ``count`` items, those of ``mask`` and perhaps a new reduction, into a union of wanted
        dimensions, if it can be done."""
        if fit.merges and (merge == NEVER or (merge != FREE and not fit.small)):
            return None
        if merge != FREE and self._unions[fit.union][1] > 1 and not self._separable(items, mask, fit):
            return None
        shifts = int(fit.merges > 0 and merge == SHIFTED)
        return _Way(mask, count - 1, fit.merges, shifts, int(fit.supply is not None),
                    count - 1 + fit.merges + shifts + (fit.supply is not None), fit.supply)

    def _separable(self, items: tuple[Item, ...], mask: int, fit: _Fit) -> bool:
        """Whether joined items can end up as several wanted dimensions when only small blocks are exchanged."""
        chosen = [i for n, i in enumerate(items) if mask >> n & 1]
        sizes = [i.size for i in chosen if i.merge != FREE] + ([fit.supply] if fit.supply else [])
        # Others may be cut into any blocks before they are joined: they fill what is left.
        fill = len(sizes) < len(chosen) + (fit.supply is not None)

        def spread(at: int, left: tuple[Size, ...]) -> bool:
            if at == len(sizes):
                return all(r.is_one or self._small(r) or self._small(ONE / r) or (fill and self.domain.legal(r)) for r in left)
            return any(spread(at + 1, (*left[:n], left[n] / sizes[at], *left[n + 1:])) for n in range(len(left)))

        return any(spread(0, pieces) for pieces in self._pieces[fit.union])

    def _small(self, size: Size) -> bool:
        return self.domain.legal(size) and self.domain.upper(size) <= self.domain.limits.heuristics.max_shifted_block

    def _fits(self, size: Size) -> list[_Fit]:
        """The unions that a dimension of ``size`` contains. What is left over must go, so it has no banned variable."""
        found = []
        for number, (wanted, pieces) in enumerate(self._unions):
            rest = size / wanted
            if rest.is_one or (self.domain.legal(rest) and not any(rest.exponent(v) for v in self.domain.banned)):
                found.append(_Fit(number, rest, rest.is_one or self._small(rest), pieces - 1 + (not rest.is_one), None))
        return found

    def _supplied_fits(self, size: Size) -> list[_Fit]:
        """The unions that a dimension of ``size`` would contain with one more reduction."""
        found = []
        # The product may exceed what is wanted by a small block, or any where Splits can be cut.
        over = (ONE, *self._small_sizes) if self._joined_merge == SHIFTED else (ONE, *self.domain.reductions())
        for number, (wanted, pieces) in enumerate(self._unions):
            for rest in over:
                if self.domain.reduction(supply := rest * wanted / size):
                    found.append(_Fit(number, rest, True, pieces - 1 + (not rest.is_one), supply))
                    break
        return found

    def _code(self, size: Size) -> int:
        """The exponents of a size as digits of one number: the code of a product is the sum of codes."""
        code = self._codes.get(size)
        if code is None:
            places = {name: CODE_BASE ** n for n, name in enumerate(self.domain.variables)}
            code = self._codes[size] = sum(places[v] * e for v, e in size.powers)
        return code

    @cached_property
    def _small_sizes(self) -> tuple[Size, ...]:
        most = self.domain.limits.heuristics.max_shifted_block
        return tuple(s for s in self.domain.reductions() if self.domain.upper(s) <= most)

    def _eliminate(self, items: tuple[Item, ...], mask: int, allowance: Allowance, total: _Way) -> int:
        """The whole bound once the items of ``mask`` are dropped or become windows."""
        must_unfold = either = 0
        two_weights = False
        for number, item in enumerate(items):
            if not mask >> number & 1:
                continue
            if item.droppable and not item.bare_sum:
                continue
            held = item.droppable and allowance.weights >= 2
            if held and item.window:
                either += 1
            elif held:
                two_weights = True
            elif item.window:
                must_unfold += 1
            else:
                return INFINITE
        if must_unfold > allowance.unfolds:
            return INFINITE
        cost = total.cost + must_unfold
        if two_weights or not either:
            return cost + (2 if two_weights else 1)
        fits = must_unfold + either <= allowance.unfolds
        return cost + 1 + (1 if not fits else min(either, 1))


def _item_key(item: Item) -> tuple[object, ...]:
    return item.size.sort_key, item[1:]
