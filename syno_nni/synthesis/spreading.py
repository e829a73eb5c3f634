"""Random weights for one data graph: spreads the coordinates that may index weights over a number of weights."""
from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from syno_nni.operator.expr import Coordinate, Iterator, MergeLeft, MergeRight, Out, Split, Sum, Unfold

from .construction import Finish, State, Weigh
from .mixed_radix import determined
from .randomness import Random
from .signature import Signature
from .weighing import Weighing, compatible

# How often a coordinate is held: iterators, dropped parts and halves made for weights; what the data uses too.
LIKELY, POSSIBLE = 0.95, 0.4
SHARED = 0.2  # how often several weights hold the same coordinate


class _Weightable(NamedTuple):
    """A coordinate that may index weights."""

    node: Coordinate
    chance: float
    copies: int                            # how many weights must hold it at least
    powers: tuple[tuple[str, int], ...]    # of the variables whose budget weights use up
    extents: tuple[int, ...]               # at every binding
    sums: int                              # the reductions it indexes, as a bit set
    clashes: int                           # the coordinates that cannot stand beside it, as a bit set


class MacsBound:
    """An upper bound of the MACs of a data graph with weights, relative to the layers replaced: those of contracting one
    weight after another over plain iterators. Most weights drawn make the MACs too low, which the bound tells far quicker
    than the search for the cheapest order."""

    def __init__(self, signature: Signature, state: State) -> None:
        self.budgets, self.weights = signature.budgets, state.weights
        leaves: list[Iterator] = [*(Out(i, s) for i, s in enumerate(state.outputs)),
                                  *(Sum(i, s) for i, s in enumerate(state.reductions))]
        self.bits = {leaf: 1 << n for n, leaf in enumerate(leaves)}
        self.sums = sum(self.bits[leaf] for leaf in leaves if isinstance(leaf, Sum))
        self.extents = [signature.domain.ratios(leaf.size) for leaf in leaves]
        self.data = self._leaves(state.inputs)
        self.volumes: dict[int, float] = {}

    def __call__(self, weights: Sequence[Sequence[Coordinate]]) -> float:
        masks = [self._leaves(w) for w in (*self.weights, *weights)]
        return min(map(self._chain, itertools.permutations(masks)))

    def _chain(self, masks: Sequence[int]) -> float:
        """Contracts the data with the weights in order; what nothing later uses is summed first."""
        total, data = 0.0, self.data
        later = [0]
        for mask in reversed(masks):
            later.append(later[-1] | mask)
        if (private := data & self.sums & ~later[-1]):
            total += self._volume(data)
            data &= ~private
        for mask, rest in zip(masks, reversed(later[:-1])):
            data |= mask
            total += self._volume(data)
            data &= ~(self.sums & ~rest)
        return total

    def _leaves(self, coordinates: Sequence[Coordinate]) -> int:
        mask = 0
        for c in coordinates:
            for leaf in c.iterators():
                mask |= self.bits[leaf]
        return mask

    def _volume(self, mask: int) -> float:
        found = self.volumes.get(mask)
        if found is None:
            chosen = [row for n, row in enumerate(self.extents) if mask >> n & 1]
            found = self.volumes[mask] = float(sum(map(math.prod, zip(*chosen)))) / self.budgets.layer_macs
        return found


class Spreading:
    """Draws weights for a state of stage weigh. ``count``: how many weights to add."""

    def __init__(self, weighing: Weighing, state: State, count: int, random: Random) -> None:
        self.weighing, self.signature = weighing, weighing.signature
        self.state, self.count, self.random = state, count, random
        self.parts, self.ranks = weighing.needs(state)
        self.used = {leaf for c in state.inputs for leaf in c.iterators()}
        self.budget = self._budget()
        self.weightable = self._rows()
        self.single = self._single_pairs()
        self._bound = MacsBound(self.signature, state) if self.signature.macs_ratio and self.signature.bindings else None
        self._rank_bits = sum(1 << n for n, c in enumerate(self.weightable) if c.node in self.ranks)

    def _budget(self) -> dict[str, int]:
        """What reductions and weights so far leave of the primary variables' budgets."""
        left = {v.name: v.budget for v in self.signature.variables if v.primary}
        for size in (*self.state.reductions, *(c.size for w in self.state.weights for c in w)):
            for variable, exponent in size.powers:
                if variable in left:
                    left[variable] -= abs(exponent)
        return left

    def _rows(self) -> list[_Weightable]:
        signature, state = self.signature, self.state
        windows = {n.right for n in state.nodes if isinstance(n, Unfold)}
        nodes = self.weighing.weightable(state)
        halves = {half(of, block) for of, block in state.cuts for half in (MergeLeft, MergeRight)}
        found = []
        for node in nodes:
            likely = isinstance(node, Sum) or node in state.live or node in halves
            held = any(node in w for w in state.weights)
            must = node in self.ranks or (not held and (node in self.parts or (
                node in windows and isinstance(node, Sum) and not signature.limits.heuristics.unweighted_windows)))
            found.append(_Weightable(
                node, LIKELY if likely else POSSIBLE,
                2 if node in self.ranks else int(must and node.bottom == ()),
                tuple((v, abs(e)) for v, e in node.size.powers if v in self.budget),
                tuple(int(r) for r in signature.domain.ratios(node.size)),
                sum(1 << leaf.index for leaf in set(node.iterators()) if isinstance(leaf, Sum)),
                sum(1 << n for n, other in enumerate(nodes) if other is not node and not compatible(node, other))))
        return found

    def _single_pairs(self) -> list[tuple[Coordinate, Coordinate]]:
        """Sums that act as one if the same weights hold them: joined by a Split, or unused by the data."""
        free: list[Coordinate] = [s for i, size in enumerate(self.state.reductions) if (s := Sum(i, size)) not in self.used]
        pairs = [(a, b) for n, a in enumerate(free) for b in free[:n]]
        return pairs + [(n.left, n.right) for n in self.state.nodes
                        if isinstance(n, Split) and isinstance(n.left, Sum) and isinstance(n.right, Sum)]

    def draw(self) -> State | None:
        """A final state, or None where the drawn weights break a limit or leave something out."""
        weights = self._spread()
        if weights is None:
            return None
        given = {c for w in (*self.state.weights, *weights) for c in w}
        if sum(not determined(p, given) for p in self.parts) > max(0, self.signature.limits.repeats):
            return None
        state = self.state
        allowed = self.signature.macs_ratio
        if self._bound and allowed and self._bound(weights) < allowed[0]:
            return None
        for weight in weights:
            state = Weigh(weight).apply(state)
        return None if self.signature.steps_left(state) < 0 else Finish().apply(state)

    def _spread(self) -> list[tuple[Coordinate, ...]] | None:
        rules = self.signature.limits.heuristics
        left = dict(self.budget)
        holders: dict[Coordinate, list[int]] = {}
        chosen: list[int] = [0] * self.count                    # coordinates, as bit sets
        sums = [0] * self.count
        extents = [[1] * len(self.signature.bindings) for _ in range(self.count)]
        members: list[list[Coordinate]] = [[] for _ in range(self.count)]
        for at in self.random.shuffled(range(len(self.weightable))):
            each = self.weightable[at]
            held = holders[each.node] = []
            for weight in self._holders(each):
                if chosen[weight] & each.clashes or any(left[v] < e for v, e in each.powers):
                    continue
                for variable, exponent in each.powers:
                    left[variable] -= exponent
                chosen[weight] |= 1 << at
                sums[weight] |= each.sums
                extents[weight] = [e * x for e, x in zip(extents[weight], each.extents)]
                members[weight].append(each.node)
                held.append(weight)
            if len(held) < each.copies:
                return None
        if not all(chosen) or (rules.reducing_weights and not all(sums)):
            return None
        if self.signature.bindings and min(map(min, extents)) < rules.min_weight:
            return None
        if not self.state.weights and any(holders[a] == holders[b] for a, b in self.single):
            return None
        if not self.state.weights and any(self._merges(chosen[a], chosen[b]) for a in range(self.count) for b in range(a)):
            return None
        return [tuple(m) for m in members]

    def _merges(self, first: int, second: int) -> bool:
        """Whether two weights, given by the coordinates that they hold, amount to one: one of them determines the other,
        or what they are summed over has full rank."""
        alone = (first & ~second, second & ~first)
        if not all(alone):
            return True
        ranks = first & second & self._rank_bits
        return bool(ranks) and self.count == 2 and any(self._at_least(ranks, side) for side in alone)

    def _at_least(self, more: int, less: int) -> bool:
        """Whether some coordinates together take as many values as others, at every binding."""
        for binding in range(len(self.signature.bindings)):
            sizes = [math.prod(c.extents[binding] for n, c in enumerate(self.weightable) if bits >> n & 1)
                     for bits in (more, less)]
            if sizes[0] < sizes[1]:
                return False
        return bool(self.signature.bindings)

    def _holders(self, each: _Weightable) -> Sequence[int]:
        if each.copies > 1:
            return sorted(self.random.shuffled(range(self.count))[:2])
        if not each.copies and self.random.uniform() > each.chance:
            return ()
        if self.count > 1 and self.random.uniform() < SHARED:
            return range(self.count)
        return (self.random.below(self.count),)

