"""Guided completion: a random walk through the construction tree that backs up from dead ends.

Actions are drawn by kind first, so that the few Unfolds are not lost among many Merges, and only among those that the
shape distance leaves. A walk that ends in an operator outside the budgets is taken back a few steps and goes on; after
a number of walks the search turns exhaustive, so that "none" is a proof.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator as Iter, Sequence
import itertools
from typing import TYPE_CHECKING

import numpy as np

from ..errors import SpaceError
from ..expr import Coordinate, MergeLeft, MergeRight, Out, Shift, Split, Sum, Unfold
from ..operator import Operator
from ..size import Size
from .construction import FINAL, REDUCE, VIEW, WEIGH, Action, Finish, Match, Reduce, State, View, Weigh, steps
from .distance import Plan

if TYPE_CHECKING:
    from .space import OperatorSpace

WALKS = 200
WEIGHT_DRAWS = 12
PLAN_DRAWS = 6
TRIES = 12
REDRAWS = 4
STRAIGHT = 0.9
EXHAUSTED_STATES = 20_000
# How often each kind of step is drawn, relative to the others that are possible.
KIND_WEIGHTS = {'Convolve': 6.0, 'Split': 2.5, 'Unfold': 1.0, 'Shift': 0.7, 'Stride': 0.7, 'Merge': 1.2}


class Completer:
    """Draws completions of states of one space. ``walks`` and ``successes`` count what it took."""

    def __init__(self, space: OperatorSpace, rng: np.random.Generator) -> None:
        self.space = space
        self.rng = rng
        self.walks = 0
        self.successes = 0

    def complete(self, state: State, min_steps: int = 0, thorough: bool = True) -> Operator | None:
        for _ in range(WALKS):
            self.walks += 1
            op = self._walk(state, min_steps)
            if op is not None:
                self.successes += 1
                return op
        return self._exhaust(state, min_steps) if thorough else None

    def _walk(self, state: State, min_steps: int) -> Operator | None:
        limit = self.space.limits.steps if self.space.limits.steps >= 0 else 20
        # How long the operator shall become, and how many reductions it shall have.
        # Long operators are many and short ones few: drawn evenly, short ones would mostly be repeats.
        target = max(min_steps, 3 + round((limit - 3) * float(self.rng.random()) ** 0.5))
        reductions = int(self.rng.integers(1, min(max(self.space.limits.reductions, 1), max(1, target - 2)) + 1))
        while state.stage in (REDUCE, VIEW):
            action = self._draw(state, target, reductions)
            if action is None:
                return None
            state = self.space.step(state, action)
        # Weights are cheap to draw again, and much of the MACs depends on them.
        for _ in range(REDRAWS if state.stage == WEIGH else 1):
            final = self._draw_weights(state) if state.stage == WEIGH else state
            if final is None or final.stage != FINAL:
                return None
            op = self.space.finish(final)
            if op is not None and steps(op) >= min_steps:
                return op
        return None

    def _draw(self, state: State, target: int, reductions: int) -> Action | None:
        """The next step of a walk: towards a random one of the plans that the distance knows, or now and then any step
        that the distance allows while there are steps to spare."""
        if state.stage == REDUCE and len(state.reductions) < reductions:
            if (action := self._first(state, self._ordered_reductions(state))) is not None:
                return action
        plans = self.space.plans(state)
        if not plans:
            return None
        spare = target - state.steps - min(p.cost for p in plans)
        if spare > 0 and self.rng.random() < 0.6:
            if (action := self._first(state, self._ordered_views(state))) is not None:
                return action
        # Cheap plans leave room for windows and low-rank factors.
        chances = np.array([0.5 ** p.cost for p in plans])
        count = min(PLAN_DRAWS, len(plans))
        for number in self.rng.choice(len(plans), count, replace=False, p=chances / chances.sum()):
            if (action := self._towards(state, plans[number])) is not None:
                return action
        return self._first(state, self._ordered_views(state))

    def _match(self, state: State, matches: Sequence[Match]) -> Match:
        """One that leaves the axes where they are, mostly: a transposed map does not line up with a residual."""
        def straight(match: Match) -> bool:
            order = [leaf.index for c in match.inputs for leaf in c.iterators()
                     if isinstance(leaf, Out) and any(leaf.size.exponent(v) for v in self.space.domain.banned)]
            return order == sorted(order)

        kept = [m for m in matches if straight(m)]
        if kept and self.rng.random() < STRAIGHT:
            matches = kept
        return matches[self.rng.integers(len(matches))]

    def _first(self, state: State, actions: Iterable[Reduce | View]) -> Action | None:
        if self.space._steps_left(state) < 1:
            return None
        return next((a for a in itertools.islice(actions, TRIES) if self.space._within(state, a)), None)

    def _towards(self, state: State, plan: Plan) -> Action | None:
        """A random step of a plan that the rules allow; the match when no step is missing."""
        space, live = self.space, state.live
        wanted_steps: list[View | Reduce] = []
        missing = False
        for way in plan.ways:
            nodes = [live[i] for i in range(len(live)) if way.mask >> i & 1]
            if way.supply is not None:
                return Reduce(way.supply) if Reduce(way.supply) in self.space._reductions(state) else None
            if len(nodes) > 1:
                missing = True
                pair = self.rng.permutation(len(nodes))[:2]
                wanted_steps.append(View('Split', (nodes[pair[0]], nodes[pair[1]]), (Split(nodes[pair[0]], nodes[pair[1]]),)))
            elif way.shifts:
                missing = True
                wanted_steps.append(View('Shift', (nodes[0],), (Shift(nodes[0], 1),)))
            elif way.merges:
                missing = True
                blocks = [b for b in space.domain.blocks(nodes[0].size)
                          if b in space.wanted or nodes[0].size / b in space.wanted]
                for block in blocks:
                    wanted_steps.append(View('Merge', (nodes[0],), (MergeLeft(nodes[0], block), MergeRight(nodes[0], block))))
        for i, node in enumerate(live):
            item = space._item(node)
            if not plan.rest >> i & 1 or (item.droppable and not (item.window and self.rng.random() < 0.85)):
                continue
            missing = True
            targets = [t for t in live if t is not node and space._allowed(Unfold(t, node))]
            long = [t for t in targets if any(t.size.exponent(v) for v in space.domain.banned)]
            if targets := long or targets:
                target = targets[self.rng.integers(len(targets))]
                wanted_steps.append(View('Unfold', (target, node), (Unfold(target, node),)))
        if not missing:
            matches = list(space._matches(state))
            return self._match(state, matches) if matches else None
        allowed = [a for a in wanted_steps if self._legal(state, a)]
        if not allowed:
            return None
        action = allowed[self.rng.integers(len(allowed))]
        return action if space._within(state, action) else None

    def _legal(self, state: State, action: View) -> bool:
        return all(self.space._allowed(n) for n in action.new) and self.space._view_allowed(action)

    def _ordered_reductions(self, state: State) -> Iter[Reduce]:
        """In random order; windows, parts of the input's dimensions, and the rest take turns."""
        domain = self.space.domain
        groups: dict[object, list[Reduce]] = {}
        for action in self.space._reductions(state):
            groups.setdefault(self._role(action.size), []).append(action)
        return self._interleaved(groups, {0: 1.0, 1: 1.0, 2: 0.4})

    def _role(self, size: Size) -> int:
        """0: a window for a dimension that keeps its order (an image side); 1: a part of the input; 2: another."""
        domain = self.space.domain
        if domain.window(size) and any(domain.unfoldable(w, size) for w in self.space.wanted
                                       if any(w.exponent(v) for v in domain.banned)):
            return 0
        return 1 if any(domain.whole(w / size) for w in self.space.wanted) else 2

    def _ordered_views(self, state: State) -> Iter[View]:
        """In random order, kinds drawn by `KIND_WEIGHTS`; a window that is a reduction by itself, along a dimension of
        the output that has an order, comes before other windows, since that is what convolutions do."""
        kinds = [k for k in KIND_WEIGHTS]
        chances = np.array([KIND_WEIGHTS[k] for k in kinds])
        for kind in self.rng.choice(kinds, len(kinds), replace=False, p=chances / chances.sum()):
            name = 'Unfold' if kind == 'Convolve' else str(kind)
            views = [v for v in self.space._views(state, name) if name != 'Unfold' or self._convolves(v) == (kind == 'Convolve')]
            yield from (views[i] for i in self.rng.permutation(len(views))[:TRIES // 3])

    def _convolves(self, view: View) -> bool:
        return isinstance(view.old[1], Sum) and any(view.old[0].size.exponent(v) for v in self.space.domain.banned)

    def _interleaved(self, groups: dict, weights: dict) -> Iter:
        while groups:
            keys = list(groups)
            chances = np.array([weights[k] for k in keys])
            key = keys[self.rng.choice(len(keys), p=chances / chances.sum())]
            group = groups[key]
            yield group.pop(self.rng.integers(len(group)))
            if not group:
                del groups[key]

    def _draw_weights(self, state: State) -> State | None:
        """Spreads the candidates over one or more weights at random, until all that must be held is."""
        space = self.space
        most = min(space.limits.weights if space.limits.weights >= 0 else 4, space.limits.steps - state.steps
                   if space.limits.steps >= 0 else 4)
        _, ranks = space.needs(state)
        candidates = space.candidates(state)
        for _ in range(WEIGHT_DRAWS):
            least = 2 if ranks else 1
            if most < least:
                return None
            number = least if self.rng.random() < 0.5 else int(self.rng.integers(least, most + 1))
            weights: list[list[Coordinate]] = [[] for _ in range(number)]
            for node in self._shuffled(candidates):
                whole = isinstance(node, Sum) or node in state.live
                for weight in self._holders(number, node in ranks, whole):
                    held = {leaf for c in weights[weight] for leaf in c.iterators()}
                    if not held & set(node.iterators()):
                        weights[weight].append(node)
            following: State | None = state
            for weight in weights:
                if not weight or not space._weight_allowed(following, tuple(weight)):
                    following = None
                    break
                following = Weigh(tuple(weight)).apply(following)
            if following is None:
                continue
            parts, missing = space.needs(following)
            if not missing and len(parts) <= max(space.limits.repeats, 0):
                return Finish().apply(following)
        return None

    def _shuffled(self, candidates: Sequence[Coordinate]) -> list[Coordinate]:
        return [candidates[i] for i in self.rng.permutation(len(candidates))]

    def _holders(self, number: int, everywhere: bool, likely: bool) -> list[int]:
        if everywhere:
            return list(self.rng.permutation(number)[:2])
        if self.rng.random() > (0.95 if likely else 0.4):
            return []
        if number > 1 and self.rng.random() < 0.2:
            return list(range(number))
        return [int(self.rng.integers(number))]

    def _exhaust(self, state: State, min_steps: int) -> Operator | None:
        """Depth-first search of all that the state leads to, in random order; None proves that there is nothing."""
        seen: set[tuple] = set()
        stack = [state]
        while stack:
            state = stack.pop()
            if state.is_final:
                op = self.space.finish(state)
                if op is not None and steps(op) >= min_steps:
                    return op
                continue
            if state.key in seen:
                continue
            seen.add(state.key)
            if len(seen) > EXHAUSTED_STATES:
                raise SpaceError(f'no completion found in {WALKS} walks, and {EXHAUSTED_STATES} states did not settle whether '
                                 f'there is one: loosen the limits or the budgets')
            actions = self.space.actions(state)
            stack.extend(self.space.step(state, actions[i]) for i in self.rng.permutation(len(actions)))
        return None
