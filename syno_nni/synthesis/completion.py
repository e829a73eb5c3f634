"""Guided completion: random walks through the construction tree towards operators within the budgets.

A walk draws how long the operator shall become and how many weights it shall have, adds reductions whose volume fits
the MACs allowed, spends the steps that the shape distance leaves on random views, follows one of the ways to the input
that the distance knows, and spreads what may be weighted over the weights. Every choice is checked against the
distance, so that walks rarely die; after a number of walks that did, the search turns exhaustive, so that "none" is a
proof.
"""
from __future__ import annotations

from collections.abc import Hashable, Sequence
from collections.abc import Iterator as Iter
from functools import cached_property
from typing import NamedTuple

import numpy as np

from syno_nni.errors import SpaceError
from syno_nni.operator import Operator
from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Out, Split
from syno_nni.operator.size import Size, product

from .construction import REDUCE, UNFOLD, VIEW, WEIGH, Finish, Match, Reduce, State, View, steps
from .distance import Item, Route
from .membership import affordable
from .randomness import Random
from .spreading import Spreading
from .tree import StateTree
from .views import DRAWN

WALKS = 200
REDUCTION_DRAWS = 96   # sets of reductions drawn until their volume fits the MACs
ROUTE_DRAWS = 6       # ways to the input tried from one state
WEIGHT_DRAWS = 32      # assignments of coordinates to weights tried for one data graph
COSTED_DRAWS = 8       # those of them whose MACs are computed
TRIES = 6              # random views of one kind tried
POOLED = 0.05          # how often a way is taken that makes sense only with an unweighted sum
MAX_OPTIONS = 50_000   # remembered lists of ways; then memory is given back
RANK_WINDOWS = 0.15    # how often a reduction that could be a window is left to weights
CUT = 0.1              # how often a Merge is made for the weights
STRAIGHT = 0.9         # how often axes stay where they are
EXHAUSTED_STATES = 4_000
UNBOUNDED_STEPS = 20   # how long operators become where the space sets no limit
COMPLEXITY = 0.65      # how long operators become if nobody says, from 0 (short ones too) to 1 (long ones only)
WINDOW, PART, OTHER = range(3)  # what a reduction is likely for
ROLE_WEIGHTS = {WINDOW: 1.0, PART: 1.0, OTHER: 0.4}


class _Option(NamedTuple):
    """A way to the input, and the live coordinates that only weights shall use, by their places."""

    route: Route
    ranks: tuple[int, ...]
    chance: float
    quality: float  # how likely it leads to an operator that is neither too dear nor simpler than it looks


class Remembered:
    """What all walks through one tree share: ways to the input, and what reductions are likely for."""

    def __init__(self, tree: StateTree) -> None:
        self.tree = tree
        self.options: dict[Hashable, tuple[_Option, ...]] = {}

    @cached_property
    def reductions_by_role(self) -> dict[int, list[Size]]:
        """Every size that a reduction may have, by what it is likely for."""
        found: dict[int, list[Size]] = {}
        for size in self.tree.domain.reductions():
            found.setdefault(self._role(size), []).append(size)
        return found

    def _role(self, size: Size) -> int:
        """A window along a dimension that keeps its order (an image side), a part of the input, or something else."""
        domain = self.tree.domain
        if domain.window(size) and any(domain.unfoldable(w, size) for w in domain.wanted if domain.has_banned(w)):
            return WINDOW
        return PART if any(domain.whole(w / size) for w in domain.wanted) else OTHER


class Completer:
    """Draws completions of states of one tree. ``walks`` and ``successes`` count what it took.

    Args:
        complexity: how long operators become, from 0 (every number of steps alike) to 1 (as many as the limits allow).
        remembered: what earlier walks through the tree have found out; it changes no result.
    """

    def __init__(self, tree: StateTree, rng: np.random.Generator, *, complexity: float = COMPLEXITY,
                 remembered: Remembered | None = None) -> None:
        self.tree, self.signature, self.views, self.weighing = tree, tree.signature, tree.views, tree.weighing
        self.limits, self.domain = tree.limits, tree.domain
        self.random = Random(rng)
        self.complexity = complexity
        self.remembered = remembered or Remembered(tree)
        self.walks = 0
        self.successes = 0

    def complete(self, state: State, min_steps: int = 0, thorough: bool = True) -> Operator | None:
        """A random operator of at least ``min_steps`` steps that a state leads to. None proves that there is none if
        ``thorough``, and says that random walks found none if not.

        Raises:
            SpaceError: ``thorough``, and neither an operator nor a proof was found in reasonable time.
        """
        for _ in range(WALKS):
            self.walks += 1
            op = self._walk(state, min_steps)
            if op is not None:
                self.successes += 1
                return op
        return self._exhaust(state, min_steps) if thorough else None

    def _walk(self, state: State, min_steps: int) -> Operator | None:
        limit = self.limits.steps if self.limits.steps >= 0 else max(UNBOUNDED_STEPS, min_steps)
        # Long operators are many and short ones few: drawn evenly, short ones would mostly be repeats.
        target = max(min_steps, state.steps, 3 + round((limit - 3) * self.random.uniform() ** (1 - self.complexity)))
        most = self.limits.weights if self.limits.weights >= 0 else 4
        # The more weights, the more ways there are to share the coordinates out.
        more = max(1, most - len(state.weights))
        weights = len(state.weights) + 1 + max(self.random.below(more), self.random.below(more))
        found: State | None = state
        if state.stage == REDUCE:
            found = self._reduce(state, target, weights)
        if found is not None and found.stage in (REDUCE, VIEW):
            found = self._view(found, target, weights)
        if found is None:
            return None
        state = found
        if state.stage == WEIGH:
            return self._weigh(state, weights, min_steps)
        return self._accept(state, min_steps)

    def _accept(self, state: State, min_steps: int) -> Operator | None:
        op = self.tree.finish(state)
        return op if op is not None and steps(op) >= min_steps else None

    # ---- reductions ----

    def _reduce(self, start: State, target: int, weights: int) -> State | None:
        """Adds reductions: a random number, of a volume that the MACs allow, from which the input can be reached."""
        limits = self.limits
        most = min(limits.reductions if limits.reductions >= 0 else target, target - 2)
        for draw in range(REDUCTION_DRAWS):
            if draw % 8 == 0:
                # Long operators mostly have many reductions: there are only so many views of few coordinates.
                number = 1 + round((most - 1) * max(self.random.uniform(), self.random.uniform()))
            sizes = self._draw_reductions(start.reductions, number)
            if sizes is None or not self._volume_fits(sizes, weights):
                continue
            key = (sizes, target - start.steps, weights)
            if start == self.tree.root and not self.remembered.options.get(key, True):
                continue
            state = start
            for size in sizes[len(start.reductions):]:
                state = Reduce(size).apply(state)
            options = self._options(state, target, weights)
            self.remembered.options[key] = options
            if options and self.random.uniform() < max(o.quality for o in options):
                return state
        return None

    def _draw_reductions(self, first: tuple[Size, ...], number: int) -> tuple[Size, ...] | None:
        """``first`` and random reductions within the variables' budgets; windows, parts of the input's dimensions, and
        the rest take turns."""
        left = {v.name: v.budget for v in self.signature.variables}
        for size in first:
            for variable, exponent in size.powers:
                left[variable] -= abs(exponent)
        drawn: list[Size] = []
        roles = list(self.remembered.reductions_by_role)
        chances = [ROLE_WEIGHTS[r] for r in roles]
        for _ in range(number - len(first)):
            for _ in range(TRIES):
                size = self.random.choice(self.remembered.reductions_by_role[self.random.weighted(roles, chances)])
                if all(left[variable] >= abs(exponent) for variable, exponent in size.powers):
                    break
            else:
                return None
            drawn.append(size)
            for variable, exponent in size.powers:
                left[variable] -= abs(exponent)
        return (*first, *sorted(drawn, key=lambda s: s.sort_key))

    def _volume_fits(self, reductions: Sequence[Size], weights: int) -> float:
        """How promising the product of output elements and reductions is with regard to the MACs; 0 for not at all."""
        allowed = self.signature.macs_ratio
        if allowed is None:
            return 1.0
        volume = self.signature.budgets.volume_over_layer(reductions)
        if volume < allowed[0]:
            return 0.0
        # The MACs are at most the volume with one weight, and mostly less only if an unweighted sum is taken first.
        if weights > 1 or volume <= allowed[1]:
            return 1.0
        return POOLED if volume <= allowed[1] * self.limits.heuristics.max_pooling else 0.0

    # ---- views ----

    def _view(self, state: State, target: int, weights: int) -> State | None:
        """Random views while there are steps to spare, then a way to the input; ends matched."""
        routes = self.tree.routes(state, target - state.steps, min(weights, 2))
        spare = target - state.steps - min(r.cost for r in routes) if routes else 0
        for _ in range(spare):
            view = self._draw_view(state, target, weights)
            if view is None:
                break
            state = self.tree.step(state, view)
        return self._to_input(state, target, weights, ROUTE_DRAWS)

    def _draw_view(self, state: State, target: int, weights: int) -> View | None:
        """A random view from which the input can still be reached, its kind drawn first."""
        kinds = [k for k in DRAWN if self.views.left(state, k.primitive)]
        while kinds:
            kind = self.random.weighted(kinds, [k.chance for k in kinds])
            kinds.remove(kind)
            for _ in range(TRIES):
                view = kind.draw(self.views, state.live, self.random)
                if view is not None and self._options(self.tree.step(state, view), target, weights):
                    return view
        return None

    def _to_input(self, state: State, target: int, weights: int, draws: int) -> State | None:
        """Follows random ways to the input that the MACs allow."""
        options = self._options(state, target, weights)
        if not options and self.tree.steps_left(state) + state.steps > target:
            options = self._options(state, state.steps + self.tree.steps_left(state), weights)
        chances = [o.chance for o in options]
        for _ in range(min(draws, len(options))):
            number = self.random.weighted(range(len(options)), chances)
            chances[number] = 0.0
            matched = self._follow(state, options[number], target, weights)
            if matched is not None:
                return matched
        return None

    def _options(self, state: State, target: int, weights: int) -> tuple[_Option, ...]:
        """Ways to the input whose MACs may fit; remembered by what they depend on."""
        items = tuple(self.tree.items(state))
        allowance = self.tree.allowance(state)
        halves = tuple((n, m) for n, a in enumerate(state.live) for m, b in enumerate(state.live[:n]) if _siblings(a, b))
        key = (items, state.reductions, target - state.steps, weights, allowance, halves)
        found = self.remembered.options.get(key)
        if found is None:
            if len(self.remembered.options) >= MAX_OPTIONS:
                self.remembered.options.clear()
            found = self.remembered.options[key] = tuple(self._list_options(state, items, target, weights, halves))
        return found

    def _list_options(self, state: State, items: Sequence[Item], target: int, weights: int,
                      halves: Sequence[tuple[int, int]]) -> Iter[_Option]:
        for route in self.tree.routes(state, target - state.steps, min(weights, 2)):
            if weights == 1 and any(route.rest >> n & route.rest >> m & 1 for n, m in halves):
                continue  # a weight that holds both halves holds the whole
            held = [n for n in range(len(items)) if route.rest >> n & 1 and items[n].bare_sum and items[n].droppable]
            least = tuple(n for n in held if not items[n].window)
            # Cheap ways are preferred, which leave room for more.
            chance, quality = 0.5 ** route.cost, 1.0
            # Sums that are joined and that one weight holds are one sum.
            if weights == 1 and any(sum(items[n].bare_sum for n in range(len(items)) if way.mask >> n & 1) > 1
                                    for way in route.ways):
                quality = POOLED
            yield from self._option(state, route, least, weights, chance, quality)
            if weights > 1:
                for n in held:
                    if items[n].window:  # mostly they are used as such
                        yield from self._option(state, route, tuple(sorted((*least, n))), weights, RANK_WINDOWS * chance,
                                                quality)

    def _option(self, state: State, route: Route, ranks: tuple[int, ...], weights: int, chance: float,
                quality: float) -> Iter[_Option]:
        """The option if reductions may be left to weights (two weights use them as one), and the MACs may fit."""
        domain = self.domain
        used = list(state.reductions)
        if ranks:
            joint = product(state.live[n].size for n in ranks)
            if weights < 2 or (weights == 2 and not (domain.rank(joint) and domain.reduction(joint))):
                return
            for n in ranks:
                used.remove(state.live[n].size)
        quality *= self._volume_fits(used, weights)
        if quality:
            yield _Option(route, ranks, chance * quality, quality)

    def _follow(self, state: State, option: _Option, target: int, weights: int) -> State | None:
        live, route, ranks = state.live, option.route, option.ranks
        wanted = self.signature.wanted
        again = False
        for way in route.ways:
            nodes = self.random.shuffled([live[i] for i in range(len(live)) if way.mask >> i & 1])
            if way.shifts:
                # Only a Split with a small inner block may be shifted and cut.
                nodes.sort(key=lambda n: self.domain.upper(n.right.size if isinstance(n, Split) else n.size))
            # Splits nest to the right: what has been joined stands on the right of what joins it.
            node = nodes[0]
            for other in nodes[1:]:
                view = self.views.split(other, node) or self.views.split(node, other)
                if view is None:
                    return None
                state, node = self.tree.step(state, view), view.new[0]
            if way.shifts:
                view = self.views.shift(node)
                if view is None:
                    return None
                state, node = self.tree.step(state, view), view.new[0]
            if way.merges:
                blocks = [b for b in self.domain.blocks(node.size) if b in wanted or node.size / b in wanted]
                views = [v for b in blocks if (v := self.views.merge(node, b)) is not None]
                if not views:
                    return None
                state = self.tree.step(state, self.random.choice(views))
                again |= way.merges > 1
        kept = [c for c in state.live if not (c in live and route.rest >> live.index(c) & 1)]
        for number, node in enumerate(live):
            if route.rest >> number & 1 and number not in ranks:
                following = self._eliminate(state, node, kept)
                if following is None:
                    return None
                state = following
        if again:
            return self._to_input(state, target, weights, 2)
        left = self.limits.steps - state.steps if self.limits.steps >= 0 else 1
        if left < 1:
            return None
        matches = list(self.tree.matches(state))
        return self.tree.step(state, self._match(state, matches)) if matches else None

    def _eliminate(self, state: State, node: Coordinate, kept: list[Coordinate]) -> State | None:
        """Makes a coordinate a window along one of those ``kept`` for the input, or leaves it to a weight."""
        item = self.tree.item(node)
        if item.window and self.views.left(state, UNFOLD):
            targets = [v for t in kept if (v := self.views.unfold(t, node)) is not None]
            if targets := [v for v in targets if self.signature.banned(v.old[0].size)] or targets:
                view = self.random.choice(targets)
                kept[kept.index(view.old[0])] = view.new[0]
                return self.tree.step(state, view)
        return state if item.droppable else None

    def _match(self, state: State, matches: Sequence[Match]) -> Match:
        """One that leaves the axes where they are, mostly: a transposed map does not line up with a residual."""
        def straight(match: Match) -> bool:
            order = [leaf.index for c in match.inputs for leaf in c.iterators()
                     if isinstance(leaf, Out) and self.signature.banned(leaf.size)]
            return order == sorted(order)

        kept = [m for m in matches if straight(m)]
        if kept and self.random.uniform() < STRAIGHT:
            matches = kept
        return self.random.choice(matches)

    # ---- weights ----

    def _weigh(self, state: State, number: int, min_steps: int) -> Operator | None:
        """Spreads what may index weights over them at random until the operator is within the budgets."""
        if self.tree.steps_left(state) > number and self.random.uniform() < CUT and (cuts := self.weighing.cuts(state)):
            state = self.tree.step(state, self.random.choice(cuts))
        left = self.tree.steps_left(state)
        _, ranks = self.weighing.needs(state)
        number = min(max(number - len(state.weights), 2 if ranks else 1), left)
        if self.limits.weights >= 0:
            number = min(number, self.limits.weights - len(state.weights))
        if not state.weights and number < (2 if ranks else 1):
            return None
        if number < 1:
            return self._accept(self.tree.step(state, Finish()), min_steps)
        spreading = Spreading(self.weighing, state, number, self.random)
        costed = 0
        for _ in range(WEIGHT_DRAWS):
            final = spreading.draw()
            if final is None or not affordable(self.signature, final.operator):
                continue
            costed += 1
            if (op := self._accept(final, min_steps)) is not None:
                return op
            if costed == COSTED_DRAWS:
                break
        return None

    # ---- proof ----

    def _exhaust(self, state: State, min_steps: int) -> Operator | None:
        """Depth-first search of all that the state leads to, in random order; None proves that there is nothing."""
        seen: set[Hashable] = set()
        stack = [state]
        while stack:
            state = stack.pop()
            if state.is_final:
                op = self.tree.finish(state)
                if op is not None and steps(op) >= min_steps:
                    return op
                continue
            if state.key in seen:
                continue
            seen.add(state.key)
            if len(seen) > EXHAUSTED_STATES:
                raise SpaceError(f'no completion found in {WALKS} walks, and {EXHAUSTED_STATES} states did not settle whether '
                                 f'there is one: loosen the limits or the budgets')
            actions = self.random.shuffled(self.tree.actions(state))
            stack.extend(self.tree.step(state, action) for action in actions)
        return None


def _siblings(a: Coordinate, b: Coordinate) -> bool:
    """Whether two coordinates are the halves of one Merge."""
    return (isinstance(a, (MergeLeft, MergeRight)) and isinstance(b, (MergeLeft, MergeRight))
            and type(a) is not type(b) and a.block == b.block and a.of == b.of)


__all__ = ['COMPLEXITY', 'Completer', 'Remembered']
