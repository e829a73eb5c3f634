"""The construction tree of a space: its root, the legal steps from a state, and how far a state is from an operator."""
from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from collections.abc import Iterator as Iter
from functools import cached_property
from types import MappingProxyType

from syno_nni.errors import SpaceError
from syno_nni.operator import Operator
from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Out, Shift, Split, Sum

from .construction import (
    FINAL,
    MERGE,
    REDUCE,
    SHIFT,
    SPLIT,
    UNFOLD,
    WEIGH,
    Action,
    Match,
    Primitive,
    Reduce,
    State,
    View,
    steps,
)
from .distance import FREE, INFINITE, NEVER, SHIFTED, SMALL, Allowance, Item, Route, ShapeDistance
from .limits import UNBOUNDED, bounded
from .membership import canonical, outside
from .signature import Signature, shape_text
from .views import Views
from .weighing import Weighing

MAX_ITEMS = 100_000  # remembered; then memory is given back
_REDUCE, _ANY_VIEW = 'Reduce', 'View'  # beside the names of primitives, what steps are counted by


class StateTree:
    """All states between the output of a space and its operators. ``step`` and ``actions`` are its edges.

    Raises:
        SpaceError: no way leads from the output to the input within the limits.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.domain = signature.domain
        self.limits = signature.limits
        self.distance = ShapeDistance(self.domain, signature.wanted)
        self.views = Views(signature)
        self.weighing = Weighing(signature, self.views)
        self._items: dict[Coordinate, Item] = {}
        if self.lower_bound(self.root) > self.steps_left(self.root):
            limits = self.limits
            raise SpaceError(f'impossible space: inputs {shape_text(signature.inputs)} cannot be reached from outputs '
                             f'{shape_text(signature.outputs)} within {limits.steps} steps, {limits.reductions} reductions, '
                             f'{limits.splits} splits, {limits.merges} merges and the budgets of the variables; '
                             'raise a limit')

    # ---- edges ----

    @cached_property
    def root(self) -> State:
        """The state before the first step: only the output is there."""
        outputs = self.signature.outputs
        return State(outputs, (), tuple(Out(i, s) for i, s in enumerate(outputs) if i not in self.signature.tied))

    def actions(self, state: State) -> list[Action]:
        """The legal next steps that can still lead to an operator of the space, as far as the shape distance tells."""
        if state.stage == FINAL:
            return []
        if state.stage == WEIGH:
            return self.weighing.actions(state)
        found: list[Action] = list(self.matches(state))
        if state.stage == REDUCE:
            found += (a for a in self.reductions(state) if self.within(state, a))
        if self.steps_left(state) > 0:
            found += (a for a in self.views.all(state) if self.within(state, a))
        return found

    def step(self, state: State, action: Action) -> State:
        """The state after a step."""
        return action.apply(state)

    def finish(self, state: State) -> Operator | None:
        """The canonical operator of a final state, or None if a limit or budget of the finished operator fails."""
        op = canonical(self.signature, state.operator)
        return None if outside(self.signature, op) else op

    def operators(self) -> Iter[Operator]:
        """Every operator that the tree leads to, each canonical form once."""
        limit = self.limits.steps
        known_states: set[Hashable] = set()
        known: set[Operator] = set()
        stack = [self.root]
        while stack:
            state = stack.pop()
            for action in self.actions(state):
                following = self.step(state, action)
                if following.is_final:
                    op = self.finish(following)
                    if op is not None and op not in known and steps(op) <= limit:
                        known.add(op)
                        yield op
                elif following.key not in known_states:
                    known_states.add(following.key)
                    stack.append(following)

    def steps_left(self, state: State) -> int:
        """How many steps the limit leaves."""
        return self.signature.steps_left(state)

    # ---- kinds of steps; views and weights have modules of their own ----

    def reductions(self, state: State) -> list[Reduce]:
        """Every reduction that the limits and budgets allow, whatever the distance."""
        if len(state.reductions) >= bounded(self.limits.reductions) or self.steps_left(state) < 2:
            return []
        spent = {v.name: sum(abs(s.exponent(v.name)) for s in state.reductions) for v in self.signature.variables}
        return [action for action in self._all_reductions
                if all(spent[v] + abs(e) <= self.domain.variables[v].budget for v, e in action.size.powers)]

    @cached_property
    def _all_reductions(self) -> tuple[Reduce, ...]:
        return tuple(Reduce(size) for size in self.domain.reductions())

    def matches(self, state: State) -> Iter[Match]:
        """Every way to take live coordinates as the input, if the rest may be dropped."""
        wanted = self.signature.wanted
        if self.steps_left(state) < 1:
            return

        def assigned(at: int, taken: tuple[Coordinate, ...]) -> Iter[tuple[Coordinate, ...]]:
            if at == len(wanted):
                yield taken
                return
            for node in state.live:
                if node.size == wanted[at] and node not in taken:
                    yield from assigned(at + 1, (*taken, node))

        for taken in assigned(0, ()):
            rest = [c for c in state.live if c not in taken]
            if all(self.item(c).droppable for c in rest) and not (
                    any(isinstance(c, Sum) for c in rest) and self.steps_left(state) < 2):
                yield Match(self._with_tied(taken))

    def _with_tied(self, taken: Sequence[Coordinate]) -> tuple[Coordinate, ...]:
        untied = iter(taken)
        back = {into: out for out, into in self.signature.tied.items()}
        return tuple(Out(back[i], s) if i in back else next(untied) for i, s in enumerate(self.signature.inputs))

    # ---- the shape distance of states ----

    def lower_bound(self, state: State) -> int:
        """At least so many steps remain until an operator is complete; INFINITE if there is no way."""
        if state.stage in (WEIGH, FINAL):
            return 0 if state.weights or state.stage == FINAL else 1
        return self._bound(state, state.live, {})

    def _bound(self, state: State, live: Sequence[Coordinate], spent: Mapping[str, int]) -> int:
        allowance = self.allowance(state, spent)
        if min(allowance) < 0:
            return INFINITE
        return self.distance.steps([self.item(c) for c in live], allowance)

    def within(self, state: State, action: Reduce | View, budget: int | None = None) -> bool:
        """Whether the shape distance leaves room for a step, within ``budget`` steps (default: those that are left)."""
        left = (self.steps_left(state) if budget is None else min(self.steps_left(state), budget)) - 1
        if isinstance(action, Reduce):
            live = (*state.live, Sum(len(state.reductions), action.size))
            return self._bound(state, live, {_REDUCE: 1}) <= left
        kept = [c for c in state.live if c not in action.old]
        return self._bound(state, (*kept, *action.new), {action.name: 1, _ANY_VIEW: 1}) <= left

    def routes(self, state: State, budget: int, weights: int) -> list[Route]:
        """Ways to the input within ``budget`` steps that the shape distance knows from a state, without more reductions
        and with as many ``weights``; over the positions of ``state.live``."""
        allowance = self.allowance(state)._replace(weights=weights, reductions=0)
        return self.distance.routes(self.items(state), allowance, budget)

    def allowance(self, state: State, spent: Mapping[str, int] = MappingProxyType({})) -> Allowance:
        """How many steps of each kind are left after those of ``state`` and ``spent``."""
        limits = self.limits

        def left(limit: int, primitive: Primitive) -> int:
            return UNBOUNDED if limit < 0 else limit - state.count(primitive.node) - spent.get(primitive.name, 0)

        reducing = state.stage == REDUCE and not spent.get(_ANY_VIEW)
        return Allowance(
            max(0, bounded(limits.reductions) - len(state.reductions) - spent.get(_REDUCE, 0)) if reducing else 0,
            left(limits.splits, SPLIT), left(limits.merges, MERGE), left(limits.unfolds, UNFOLD),
            bounded(limits.weights), left(limits.shifts, SHIFT))

    def items(self, state: State) -> list[Item]:
        """What the shape distance needs to know of the live coordinates."""
        return [self.item(c) for c in state.live]

    def item(self, node: Coordinate) -> Item:
        """What the shape distance needs to know of a live coordinate."""
        found = self._items.get(node)
        if found is None:
            if len(self._items) >= MAX_ITEMS:
                self._items.clear()
            bare = isinstance(node, Sum)
            held = isinstance(node, (Out, MergeLeft, MergeRight)) or (
                bare and self.domain.rank(node.size) and self.limits.weights != 1)
            found = self._items[node] = Item(node.size, held and not self.domain.has_banned(node.size), bare,
                                             self.domain.window(node.size), self._merge(node))
        return found

    def _merge(self, node: Coordinate) -> int:
        """What a Merge of a coordinate takes."""
        if isinstance(node, Sum):
            return NEVER
        rules = self.limits.heuristics
        if isinstance(node, Split) and not rules.merge_of_split:
            return SHIFTED if self.domain.upper(node.right.size) <= rules.max_shifted_block else NEVER
        if isinstance(node, MergeLeft):
            return SHIFTED
        return SMALL if isinstance(node, Shift) else FREE


__all__ = ['StateTree']
