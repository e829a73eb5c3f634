"""The operator space: which operators may fill the slots, and how to construct, sample, vary and list them."""
from __future__ import annotations

import difflib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Iterator as Iter
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from syno_nni.errors import SizeError, SpaceError
from syno_nni.operator import Operator
from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Out, Shift, Split, Sum, Unfold
from syno_nni.operator.size import Binding, Size, SizeLike

from .completion import OTHER, PART, WINDOW, Completer
from .construction import FINAL, REDUCE, WEIGH, Action, Match, Reduce, State, View, steps
from .distance import FREE, INFINITE, NEVER, SHIFTED, SMALL, Allowance, Item, Plan, ShapeDistance
from .domain import SizeDomain, check_bindings
from .limits import Limits, Variable
from .membership import complaints, sum_complaints
from .paths import path
from .presets import PRESETS, Preset
from .rules import Context, normalize
from .views import Views
from .weighing import Weighing

UNBOUNDED = 99
MAX_ITEMS = 100_000
MAX_WEIGHTS = 8  # what an operator may have at all
COMPLEXITY = 0.65


@dataclass(frozen=True)
class Containment:
    """The answer of `OperatorSpace.contains`: true when inside; ``str`` says why not."""

    reason: str = ''

    def __bool__(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        return self.reason or 'inside'


class OperatorSpace:
    """All canonical operators with a given signature, within limits and budgets, legal at all bindings.

    Args:
        inputs, outputs: symbolic shapes.
        variables: the size variables with their budgets.
        bindings: one per slot that the operator shall fill; coefficients may be left out. A repeated binding counts
            twice in the budgets.
        tied: output position -> input position of dimensions that pass through untouched (the batch).
        unordered_inputs, unordered_outputs: positions of dimensions whose order does not matter (channels).
        layer: the operator replaced; budgets are relative to it.
        macs_ratio, params_ratio: allowed range of MACs and params, summed over all bindings, relative to ``layer``.
        complexity: what sampling prefers, from 0 (every number of steps alike) to 1 (as many steps as the limits allow).

    Raises:
        SpaceError: the space is impossible; says why.
    """

    def __init__(self, inputs: Sequence[SizeLike], outputs: Sequence[SizeLike], variables: Sequence[Variable], *,
                 bindings: Sequence[Binding] | None = None, default_bindings: Sequence[Binding] = (),
                 tied: Mapping[int, int] | None = None, unordered_inputs: Iterable[int] = (),
                 unordered_outputs: Iterable[int] = (), layer: Operator | None = None, limits: Limits | None = None,
                 macs_ratio: tuple[float, float] | None = None, params_ratio: tuple[float, float] | None = None,
                 complexity: float = COMPLEXITY) -> None:
        self.inputs = tuple(Size.of(s) for s in inputs)
        self.outputs = tuple(Size.of(s) for s in outputs)
        self.variables = tuple(variables)
        self.limits = limits or Limits()
        self.tied = dict(tied or {})
        self.layer = layer
        self.declared_bindings = None if bindings is None else check_bindings(bindings, variables)
        self.bindings = self.declared_bindings if self.declared_bindings is not None else check_bindings(
            default_bindings, variables)
        self.macs_ratio = _range('macs_ratio', macs_ratio)
        self.params_ratio = _range('params_ratio', params_ratio)
        if isinstance(complexity, bool) or not isinstance(complexity, (int, float)) or not 0 <= complexity <= 1:
            raise SpaceError(f'complexity must be a number from 0 (short ones too) to 1 (long ones only), got {complexity!r}')
        self.complexity = complexity
        self.unordered_inputs = frozenset(unordered_inputs)
        self.unordered_outputs = frozenset(unordered_outputs)
        self.context = Context(self.bindings, self.unordered_inputs, self.unordered_outputs,
                               frozenset(v.name for v in self.variables if not v.primary),
                               frozenset(v.name for v in self.variables if v.budget == 0))
        self.wanted = tuple(s for i, s in enumerate(self.inputs) if i not in self.tied.values())
        self.domain = SizeDomain(self.variables, self.bindings, self.limits, self.wanted)
        self.distance = ShapeDistance(self.domain, self.wanted)
        self.views = Views(self)
        self.weighing = Weighing(self)
        self.options: dict[tuple, tuple] = {}
        self._items: dict[Coordinate, Item] = {}
        self._roles: dict[Size, int] = {}
        self._volumes: dict[tuple[Size, ...], float] = {}
        self._check_possible()

    # ---- declaring ----

    @classmethod
    def preset(cls, name: str, *, bindings: Sequence[Binding] | None = None, macs_ratio: tuple[float, float] | None = None,
               params_ratio: tuple[float, float] | None = None, complexity: float = COMPLEXITY, **limits: Any) -> OperatorSpace:
        """A ready-made space (see `syno_nni.synthesis.presets`), with some limits changed by name.

        Without ``bindings``, sampling and budgets use the preset's own, and ``contains`` checks no other numbers.
        """
        if name not in PRESETS:
            near = difflib.get_close_matches(str(name), PRESETS, 1)
            raise SpaceError(f'unknown preset {name!r}' + (f'; did you mean {near[0]!r}?' if near else '')
                             + f' Known: {", ".join(PRESETS)}')
        preset: Preset = PRESETS[name]
        return cls(preset.inputs, preset.outputs, preset.variables, bindings=bindings, default_bindings=preset.bindings,
                   tied=preset.tied, unordered_inputs=preset.unordered_inputs, unordered_outputs=preset.unordered_outputs,
                   layer=Operator.parse(preset.layer), limits=Limits().updated({**preset.limits, **limits}),
                   macs_ratio=macs_ratio, params_ratio=params_ratio, complexity=complexity)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> OperatorSpace:
        """A space from plain data, as in YAML: ``{preset: conv2d, bindings: [...], macs_ratio: [0.15, 0.9], steps: 10}``."""
        if not isinstance(data, Mapping) or 'preset' not in data:
            raise SpaceError(f'a space is declared by a mapping with the key "preset" ({", ".join(PRESETS)}), got {data!r:.80}')
        rest = dict(data)
        return cls.preset(rest.pop('preset'), **rest)

    def _check_possible(self) -> None:
        for out, into in self.tied.items():
            if self.outputs[out] != self.inputs[into]:
                raise SpaceError(f'output {out} of size {self.outputs[out]} is tied to input {into} of size '
                                 f'{self.inputs[into]}; tied dimensions must have one size')
        if self.declared_bindings is not None and not self.declared_bindings:
            raise SpaceError('the list of bindings is empty: no slot to fill; give one binding per slot')
        for size in (*self.inputs, *self.outputs):
            complaint = self.domain.complaint(size)
            if complaint and 'is 1 at' not in complaint:
                raise SpaceError(f'impossible signature: {complaint}')
        for window in (self.macs_ratio, self.params_ratio):
            if window and self.layer is None:
                raise SpaceError('a ratio needs the layer that it is relative to')
        self._check_budgets()
        if self.lower_bound(self.root) > self.steps_left(self.root):
            raise SpaceError(f'impossible space: inputs {_shape(self.inputs)} cannot be reached from outputs '
                             f'{_shape(self.outputs)} within {self.limits.steps} steps, {self.limits.reductions} reductions, '
                             f'{self.limits.splits} splits, {self.limits.merges} merges and the budgets of the variables; '
                             'raise a limit')

    def _check_budgets(self) -> None:
        """Refuses budgets that no operator meets, by crude bounds."""
        rules = self.limits.heuristics
        if rules.min_rank > rules.max_rank:
            raise SpaceError(f'contradictory limits: min_rank {rules.min_rank} exceeds max_rank {rules.max_rank}')
        if not self.bindings:
            return
        weights = self.limits.weights if self.limits.weights > 0 else MAX_WEIGHTS
        reduced = [math.prod(b[v.name] ** v.budget for v in self.variables) for b in self.bindings]
        free = [math.prod(s.value(b) for s in self.outputs if not self.banned(s)) for b in self.bindings]
        reads = sum(math.prod(s.value(b) for s in self.inputs) for b in self.bindings)
        if self.macs_ratio:
            # Every element of the input is multiplied or added at least once, unless strides skip some.
            least = reads / self.layer_macs if self.limits.strides == 0 else 0.0
            most = weights * sum(o * r for o, r in zip(self._output_elements, reduced)) / self.layer_macs
            self._check_range('macs_ratio', self.macs_ratio, least, most)
        if self.params_ratio:
            least = rules.min_weight * len(self.bindings) / self._layer_params
            most = weights * sum(f * r for f, r in zip(free, reduced)) / self._layer_params
            self._check_range('params_ratio', self.params_ratio, least, most)

    def _check_range(self, name: str, allowed: tuple[float, float], least: float, most: float) -> None:
        if allowed[1] < least or allowed[0] > most:
            raise SpaceError(f'impossible space: {name} {allowed} cannot be met; any operator of these shapes and budgets has '
                             f'between {least:.4g} and {most:.4g} of the layers replaced')

    # ---- membership ----

    def canonical(self, op: Operator) -> Operator:
        """The representative of ``op`` in this space: exact rules and channel relabelling applied."""
        return normalize(op, self.context)

    def contains(self, op: Operator) -> Containment:
        """Whether an operator, or its canonical equivalent, is in the space; if not, which limit or rule excludes it."""
        if not isinstance(op, Operator):
            raise SpaceError(f'contains: wanted an Operator, got {type(op).__name__}')
        if op.outputs != self.outputs:
            return Containment(f'signature: the output is {_shape(op.outputs)}, the space wants {_shape(self.outputs)}')
        sizes = tuple(c.size for c in op.inputs)
        if sizes != self.inputs:
            return Containment(f'signature: the input is {_shape(sizes)}, the space wants {_shape(self.inputs)}')
        for out, into in self.tied.items():
            uses = [c for n, c in enumerate((*op.inputs, *(c for w in op.weights for c in w))) if n != into]
            if op.inputs[into] != Out(out, self.outputs[out]) or any(
                    isinstance(leaf, Out) and leaf.index == out for c in uses for leaf in c.iterators()):
                return Containment(f'tied: output {out} must index input {into}, and nothing else')
        if self.declared_bindings is not None:
            return self._check(op)
        answer = self._symbolic._check(op)
        if answer and (self.macs_ratio or self.params_ratio):
            try:
                return Containment(next(self._budget(op), ''))
            except SizeError as error:
                return Containment(f'sizes: {error}')
        return answer

    @cached_property
    def _symbolic(self) -> OperatorSpace:
        """The same space without bindings: numeric conditions are left out."""
        return OperatorSpace(self.inputs, self.outputs, self.variables, bindings=None, tied=self.tied,
                             unordered_inputs=self.unordered_inputs, unordered_outputs=self.unordered_outputs,
                             layer=self.layer, limits=self.limits)

    def _check(self, op: Operator) -> Containment:
        canonical = self.canonical(op)
        reason = self._reason(canonical)
        # Some equivalences turn one limited primitive into another: what is inside as it stands counts as inside.
        if reason and canonical != op and not self._reason(op):
            reason = ''
        return Containment(reason)

    def _reason(self, op: Operator) -> str:
        return next(itertools.chain(complaints(self, op), self._budget(op)), '')

    def _budget(self, op: Operator) -> Iter[str]:
        if self.bindings and self.params_ratio:
            ratio = self.params_over_layer(op)
            if not self.params_ratio[0] <= ratio <= self.params_ratio[1]:
                yield f'params_ratio: the params are {ratio:.3f} of the layers replaced, allowed is {self.params_ratio}'
        if self.bindings and self.macs_ratio:
            ratio = self.macs_over_layer(op)
            if not self.macs_ratio[0] <= ratio <= self.macs_ratio[1]:
                yield f'macs_ratio: the MACs are {ratio:.3f} of the layers replaced, allowed is {self.macs_ratio}'

    @cached_property
    def layer_macs(self) -> int:
        """The MACs of the layers replaced, summed over all bindings."""
        return sum(self.layer.macs(b) for b in self.bindings)

    @cached_property
    def _layer_params(self) -> int:
        return sum(self.layer.params(b) for b in self.bindings)

    def macs_over_layer(self, op: Operator) -> float:
        """MACs relative to the layers replaced, summed over all bindings."""
        return sum(count * op.macs(b) for b, count in self._counted_bindings) / self.layer_macs

    def volume_over_layer(self, reductions: Iterable[Size]) -> float:
        """Products of output elements and reductions, summed over all bindings, relative to the MACs of the layers."""
        key = tuple(reductions)
        found = self._volumes.get(key)
        if found is None:
            if len(self._volumes) >= MAX_ITEMS:
                self._volumes.clear()
            volumes = self._output_elements
            for size in key:
                volumes = [v * r for v, r in zip(volumes, self.domain.ratios(size))]
            found = self._volumes[key] = float(sum(volumes)) / self.layer_macs
        return found

    @cached_property
    def _output_elements(self) -> list[int]:
        return [math.prod(s.value(b) for s in self.outputs) for b in self.bindings]

    def role(self, size: Size) -> int:
        """What a reduction is likely for: a window along a dimension that keeps its order (an image side), a part of the
        input, or something else."""
        found = self._roles.get(size)
        if found is None:
            long = any(self.domain.unfoldable(w, size) for w in self.wanted if self.banned(w))
            found = self._roles[size] = (WINDOW if long and self.domain.window(size) else
                                         PART if any(self.domain.whole(w / size) for w in self.wanted) else OTHER)
        return found

    def affordable(self, state: State) -> bool:
        """Whether a final state is within the budgets as it stands: a quick check ahead of `finish`."""
        op = state.operator
        return next(itertools.chain(sum_complaints(self, op), self._budget(op)), None) is None

    def params_over_layer(self, op: Operator) -> float:
        """Params relative to the layers replaced, summed over all bindings."""
        return sum(count * op.params(b) for b, count in self._counted_bindings) / self._layer_params

    @cached_property
    def _counted_bindings(self) -> tuple[tuple[Binding, int], ...]:
        """The different bindings, and how many slots have each."""
        counts = Counter(tuple(b.items()) for b in self.bindings)
        return tuple((dict(items), count) for items, count in counts.items())

    # ---- the construction tree ----

    @cached_property
    def root(self) -> State:
        """The state before the first step: only the output is there."""
        live = tuple(Out(i, s) for i, s in enumerate(self.outputs) if i not in self.tied)
        return State(self.outputs, (), live)

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
        return action.apply(state)

    def finish(self, state: State) -> Operator | None:
        """The canonical operator of a final state, or None if a limit or budget of the finished operator fails."""
        op = self.canonical(state.operator)
        return None if self._reason(op) else op

    def path(self, op: Operator) -> list[Action]:
        """Steps that construct an operator: reductions, views from the output up, the match, weights, finish.

        Raises:
            SpaceError: the operator has a form that the construction tree does not make.
        """
        return path(self.canonical(op), self.context)

    def steps_left(self, state: State) -> int:
        return self.limits.steps - state.steps if self.limits.steps >= 0 else UNBOUNDED

    def banned(self, size: Size) -> bool:
        """Whether a size has a variable that neither reductions nor weights may use."""
        return any(size.exponent(v) for v in self.domain.banned)

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

    def plans(self, state: State, budget: int, weights: int) -> list[Plan]:
        """Ways to the input within ``budget`` steps that the shape distance knows from a state, without more reductions
        and with as many ``weights``; over the positions of ``state.live``."""
        allowance = self.allowance(state)._replace(weights=weights, reductions=0)
        return self.distance.plans(self.items(state), allowance, budget)

    def allowance(self, state: State, spent: Mapping[str, int] = MappingProxyType({})) -> Allowance:
        """How many steps of each kind are left after those of ``state`` and ``spent``."""
        limits = self.limits

        def left(limit: int, kind: type[Coordinate]) -> int:
            return UNBOUNDED if limit < 0 else limit - state.count(kind) - spent.get(kind.__name__, 0)

        reducing = state.stage == REDUCE and not spent.get('view')
        return Allowance(
            max(0, _bounded(limits.reductions) - len(state.reductions) - spent.get('Reduce', 0)) if reducing else 0,
            left(limits.splits, Split), left(limits.merges, MergeLeft), left(limits.unfolds, Unfold),
            _bounded(limits.weights), left(limits.shifts, Shift))

    def items(self, state: State) -> list[Item]:
        """What the shape distance needs to know of the live coordinates."""
        return [self.item(c) for c in state.live]

    def item(self, node: Coordinate) -> Item:
        found = self._items.get(node)
        if found is None:
            if len(self._items) >= MAX_ITEMS:
                self._items.clear()
            bare = isinstance(node, Sum)
            held = isinstance(node, (Out, MergeLeft, MergeRight)) or (
                bare and self.domain.rank(node.size) and self.limits.weights != 1)
            found = self._items[node] = Item(node.size, held and not self.banned(node.size), bare,
                                             self.domain.window(node.size), self._cut(node))
        return found

    def _cut(self, node: Coordinate) -> int:
        if isinstance(node, Sum):
            return NEVER
        rules = self.limits.heuristics
        if isinstance(node, Split) and not rules.merge_of_split:
            return SHIFTED if self.domain.upper(node.right.size) <= rules.max_shifted_block else NEVER
        if isinstance(node, MergeLeft):
            return SHIFTED
        return SMALL if isinstance(node, Shift) else FREE

    def within(self, state: State, action: Reduce | View, budget: int | None = None) -> bool:
        """Whether the shape distance leaves room for a step, within ``budget`` steps (default: those that are left)."""
        left = (self.steps_left(state) if budget is None else min(self.steps_left(state), budget)) - 1
        if isinstance(action, Reduce):
            live = (*state.live, Sum(len(state.reductions), action.size))
            return self._bound(state, live, {'Reduce': 1}) <= left
        kept = [c for c in state.live if c not in action.old]
        kind = 'MergeLeft' if action.name == 'Merge' else action.name
        return self._bound(state, (*kept, *action.new), {kind: 1, 'view': 1}) <= left

    def reductions(self, state: State) -> list[Reduce]:
        """Every reduction that the limits and budgets allow, whatever the distance."""
        if len(state.reductions) >= _bounded(self.limits.reductions) or self.steps_left(state) < 2:
            return []
        spent = {v.name: sum(abs(s.exponent(v.name)) for s in state.reductions) for v in self.variables}
        return [action for action in self._all_reductions
                if all(spent[v] + abs(e) <= self.domain.variables[v].budget for v, e in action.size.powers)]

    @cached_property
    def reductions_by_role(self) -> dict[int, list[Size]]:
        """Every size that a reduction may have, by what it is likely for."""
        found: dict[int, list[Size]] = {}
        for size in self.domain.reductions():
            found.setdefault(self.role(size), []).append(size)
        return found

    @cached_property
    def _all_reductions(self) -> tuple[Reduce, ...]:
        return tuple(Reduce(size) for size in self.domain.reductions())

    def matches(self, state: State) -> Iter[Match]:
        """Every way to take live coordinates as the input, if the rest may be dropped."""
        if self.steps_left(state) < 1:
            return

        def choose(at: int, taken: tuple[Coordinate, ...]) -> Iter[tuple[Coordinate, ...]]:
            if at == len(self.wanted):
                yield taken
                return
            for node in state.live:
                if node.size == self.wanted[at] and node not in taken:
                    yield from choose(at + 1, (*taken, node))

        for taken in choose(0, ()):
            rest = [c for c in state.live if c not in taken]
            if all(self.item(c).droppable for c in rest) and not (
                    any(isinstance(c, Sum) for c in rest) and self.steps_left(state) < 2):
                yield Match(self._with_tied(taken))

    def _with_tied(self, taken: Sequence[Coordinate]) -> tuple[Coordinate, ...]:
        chosen = iter(taken)
        back = {into: out for out, into in self.tied.items()}
        return tuple(Out(back[i], s) if i in back else next(chosen) for i, s in enumerate(self.inputs))

    # ---- operators ----

    def complete(self, state: State, rng: np.random.Generator | np.random.RandomState, *,
                 min_steps: int = 0, thorough: bool = True) -> Operator | None:
        """A random operator of the space that the state leads to, or None if there is none.

        Unless ``thorough``, None only says that some random walks found none; proving it can take minutes.
        """
        return Completer(self, _generator(rng)).complete(state, min_steps, thorough)

    def sample(self, rng: np.random.Generator | np.random.RandomState, *, min_steps: int = 0) -> Operator:
        """A random operator of the space, in canonical form. ``min_steps`` asks for one of at least so many steps.

        Raises:
            SpaceError: the space is empty, or holds no operator of ``min_steps`` steps.
        """
        op = self.complete(self.root, rng, min_steps=min_steps)
        if op is None:
            raise SpaceError(f'the space holds no operator of at least {min_steps} steps: loosen its limits or budgets')
        return op

    def mutate(self, op: Operator, rng: np.random.Generator | np.random.RandomState) -> Operator:
        """A neighbour: the first steps of ``op`` are kept (a random number of them), the rest is built anew."""
        rng = _generator(rng)
        path = self.path(op)
        own = self.canonical(op)
        for _ in range(20):
            keep = len(path) - 1 - int(min(rng.geometric(0.3), len(path) - 1))
            state = self.root
            for action in path[:keep]:
                state = self.step(state, action)
            other = self.complete(state, rng, thorough=False)
            if other is not None and other != own:
                return other
        return self.sample(rng)

    def enumerate(self, max_steps: int | None = None) -> Iter[Operator]:
        """Every operator of at most ``max_steps`` steps (default: the limit), each canonical form once."""
        limit = self.limits.steps if max_steps is None else max_steps
        if limit < 1:
            raise SpaceError(f'enumerate: max_steps must be at least 1, got {limit}')
        narrowed = self if limit == self.limits.steps else self._with_steps(limit)
        seen_states: set[tuple] = set()
        seen: set[Operator] = set()
        stack = [narrowed.root]
        while stack:
            state = stack.pop()
            for action in narrowed.actions(state):
                following = narrowed.step(state, action)
                if following.is_final:
                    op = narrowed.finish(following)
                    if op is not None and op not in seen and steps(op) <= limit:
                        seen.add(op)
                        yield op
                elif following.key not in seen_states:
                    seen_states.add(following.key)
                    stack.append(following)

    def _with_steps(self, limit: int) -> OperatorSpace:
        return OperatorSpace(
            self.inputs, self.outputs, self.variables, bindings=self.bindings or None, tied=self.tied,
            unordered_inputs=self.unordered_inputs, unordered_outputs=self.unordered_outputs, layer=self.layer,
            limits=self.limits.updated({'steps': limit}), macs_ratio=self.macs_ratio, params_ratio=self.params_ratio,
            complexity=self.complexity)


def _bounded(limit: int) -> int:
    return UNBOUNDED if limit < 0 else limit


def _shape(sizes: Iterable[Size]) -> str:
    return f'[{", ".join(map(str, sizes))}]'


def _range(name: str, value: Sequence[float] | None) -> tuple[float, float] | None:
    if value is None:
        return None
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        raise SpaceError(f'{name} must be a pair (least, greatest) such as (0.15, 0.9), got {value!r}') from None
    if not 0 <= low <= high:
        raise SpaceError(f'{name}: the budget is empty: wanted 0 <= least <= greatest, got {value!r}')
    return low, high


def _generator(rng: np.random.Generator | np.random.RandomState) -> np.random.Generator:
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, np.random.RandomState):
        return np.random.default_rng(rng.randint(0, 2 ** 31, size=4))
    raise SpaceError(f'rng must be a numpy Generator or RandomState, got {type(rng).__name__}')


__all__ = ['Containment', 'OperatorSpace']
