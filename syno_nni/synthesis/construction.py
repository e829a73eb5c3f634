"""The construction tree: states, legal actions and steps, from the output towards the input.

A state passes four stages. *reduce*: reductions are added. *view*: primitives replace live
coordinates (those that the data is indexed by so far). *weigh*: input dimensions have been matched with live
coordinates, the rest is dropped, and weights are added, each indexed by coordinates of the graph. *final*: the operator
is complete. Steps that commute lead to the same state, and states with the same `State.key` are one node of the tree.
"""
from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import ClassVar, NamedTuple

from syno_nni.operator import Operator
from syno_nni.operator.canonical import total_key
from syno_nni.operator.expr import Coordinate, Iterator, MergeLeft, MergeRight, Shift, Split, Stride, Sum, Unfold
from syno_nni.operator.formula import coordinate_text, names
from syno_nni.operator.size import Size

from .mixed_radix import Boundary, boundaries, determined

REDUCE, VIEW, WEIGH, FINAL = 'reduce', 'view', 'weigh', 'final'


class Primitive(NamedTuple):
    """A kind of view. ``node``: the class of what it makes (of a Merge, the outer half); ``limit``: what counts it in
    `syno_nni.synthesis.limits.Limits`."""

    name: str
    node: type[Coordinate]
    limit: str


SPLIT = Primitive('Split', Split, 'splits')
MERGE = Primitive('Merge', MergeLeft, 'merges')
UNFOLD = Primitive('Unfold', Unfold, 'unfolds')
SHIFT = Primitive('Shift', Shift, 'shifts')
STRIDE = Primitive('Stride', Stride, 'strides')
VIEW_PRIMITIVES = (SPLIT, MERGE, UNFOLD, SHIFT, STRIDE)  # limits are checked in this order
_COUNTED = {p.node: p.name.lower() for p in VIEW_PRIMITIVES}


@dataclass(frozen=True)
class State:
    """A partial operator. ``live``: coordinates that index the data so far, without those tied to the output."""

    outputs: tuple[Size, ...]
    reductions: tuple[Size, ...]
    live: tuple[Coordinate, ...]
    stage: str = REDUCE
    steps: int = 0
    inputs: tuple[Coordinate, ...] = ()   # from stage weigh on, tied ones included
    weights: tuple[tuple[Coordinate, ...], ...] = ()
    cuts: frozenset[tuple[Coordinate, Size]] = frozenset()  # Merges that only weights use

    @cached_property
    def key(self) -> Hashable:
        """Equal for states that differ in the names and order of reductions, live coordinates and weights only."""
        halves = tuple(MergeLeft(of, block) for of, block in self.cuts)
        graph = Operator.trusted(self.outputs, self.reductions, self.inputs, (*self.weights, self.live, halves))
        return self.stage, self.steps, total_key(graph)

    @property
    def is_final(self) -> bool:
        return self.stage == FINAL

    @property
    def operator(self) -> Operator:
        """The operator of a final state, before canonicalization."""
        return Operator.trusted(self.outputs, self.reductions, self.inputs, self.weights)

    def count(self, kind: type[Coordinate]) -> int:
        """How many primitives of a kind the graph has; a Merge counts once."""
        return self._counts.get(MergeLeft if kind is MergeRight else kind, 0)

    @cached_property
    def _counts(self) -> dict[type[Coordinate], int]:
        counts: dict[type[Coordinate], int] = {MergeLeft: len(self.merges)}
        for node in self.nodes:
            if not isinstance(node, (MergeLeft, MergeRight)):
                counts[type(node)] = counts.get(type(node), 0) + 1
        return counts

    @cached_property
    def nodes(self) -> frozenset[Coordinate]:
        """Every coordinate that is or was live, and the halves of Merges that only weights use."""
        halves = (half(of, block) for of, block in self.cuts for half in (MergeLeft, MergeRight))
        return frozenset(n for c in chain(self.live, self.inputs, halves) for n in c.walk())

    @cached_property
    def merges(self) -> frozenset[Boundary]:
        """Every Merge of the graph: the coordinate whose digits it cuts, and where."""
        return boundaries(self.nodes)

    def describe(self, node: Coordinate) -> str:
        """A coordinate as the formula would print it."""
        graph = Operator.trusted(self.outputs, self.reductions, self.live, self.weights)
        return coordinate_text(node, names(graph))

    def __str__(self) -> str:
        name = names(Operator.trusted(self.outputs, self.reductions, self.live, self.weights))
        live = ', '.join(f'{coordinate_text(c, name)}:{c.size}' for c in self.live)
        return f'{self.stage} after {self.steps} steps, live [{live}], {len(self.weights)} weights'


@dataclass(frozen=True)
class Action:
    """One step of the construction; ``apply`` gives the next state."""

    _kind: ClassVar[str]

    def apply(self, state: State) -> State:
        raise AssertionError('an action defines apply')

    def describe(self, state: State) -> str:
        """The step in words."""
        return self.kind

    @property
    def kind(self) -> str:
        """What statistics of all steps alike are kept by: a primitive's name, or Reduce, Match, Cut, Weight, Finish."""
        return self._kind

    @property
    def label(self) -> str:
        """What tree-search statistics are kept by: kind and sizes, without the names of iterators."""
        return self.kind


@dataclass(frozen=True)
class Reduce(Action):
    """Adds a reduction of a size."""

    size: Size
    _kind: ClassVar[str] = 'Reduce'

    def apply(self, state: State) -> State:
        new = Sum(len(state.reductions), self.size)
        return State(state.outputs, (*state.reductions, self.size), (*state.live, new), REDUCE, state.steps + 1)

    def describe(self, state: State) -> str:
        return f'sum over {self.size}'

    @property
    def label(self) -> str:
        return f'{self.kind} {self.size}'


@dataclass(frozen=True)
class View(Action):
    """Replaces the live coordinates ``old`` by ``new``; ``name`` is the primitive's."""

    name: str
    old: tuple[Coordinate, ...]
    new: tuple[Coordinate, ...]

    @property
    def kind(self) -> str:
        return self.name

    def apply(self, state: State) -> State:
        live = list(state.live)
        for node in self.old:
            live.remove(node)
        return State(state.outputs, state.reductions, (*live, *self.new), VIEW, state.steps + 1)

    def describe(self, state: State) -> str:
        new = map(self.apply(state).describe, self.new)
        return f'{self.name}: {", ".join(map(state.describe, self.old))} -> {", ".join(new)}'

    @property
    def label(self) -> str:
        return f'{self.kind} {" ".join(str(c.size) for c in self.old)} -> {" ".join(str(c.size) for c in self.new)}'


@dataclass(frozen=True)
class Match(Action):
    """Takes live coordinates as the input's dimensions, in order, and drops the rest; costs no step."""

    inputs: tuple[Coordinate, ...]
    _kind: ClassVar[str] = 'Match'

    def apply(self, state: State) -> State:
        live = list(state.live)
        for node in self.inputs:
            if node in live:
                live.remove(node)
        return State(state.outputs, state.reductions, tuple(live), WEIGH, state.steps, self.inputs)

    def describe(self, state: State) -> str:
        return f'read in[{", ".join(map(state.describe, self.inputs))}]'


@dataclass(frozen=True)
class Cut(Action):
    """Merges a coordinate for the weights: the data keeps the whole, and a weight may be indexed by a half."""

    of: Coordinate
    block: Size
    _kind: ClassVar[str] = 'Cut'

    def apply(self, state: State) -> State:
        return replace(state, steps=state.steps + 1, cuts=state.cuts | {(self.of, self.block)})

    def describe(self, state: State) -> str:
        return f'Merge for weights: {state.describe(self.of)} into blocks of {self.block}'

    @property
    def label(self) -> str:
        return f'{self.kind} {self.of.size} by {self.block}'


@dataclass(frozen=True)
class Weigh(Action):
    """Adds a weight indexed by ``coordinates``; one step, however many coordinates it has ("contraction")."""

    coordinates: tuple[Coordinate, ...]
    _kind: ClassVar[str] = 'Weight'

    def apply(self, state: State) -> State:
        return replace(state, steps=state.steps + 1, weights=(*state.weights, self.coordinates))

    def describe(self, state: State) -> str:
        name = names(Operator.trusted(state.outputs, state.reductions, state.inputs, (*state.weights, self.coordinates)))
        return f'weight w[{", ".join(coordinate_text(c, name) for c in self.coordinates)}]'

    @property
    def label(self) -> str:
        return ' '.join([self.kind, *sorted(str(c.size) for c in self.coordinates)])


@dataclass(frozen=True)
class Finish(Action):
    """Completes the operator; costs no step."""

    _kind: ClassVar[str] = 'Finish'

    def apply(self, state: State) -> State:
        return replace(state, stage=FINAL)


def primitives(op: Operator) -> dict[str, int]:
    """How many primitives of each kind an operator has; a Merge counts once."""
    counts = dict.fromkeys(_COUNTED.values(), 0)
    nodes = op.nodes()
    for node in nodes:
        if not isinstance(node, (Iterator, MergeLeft, MergeRight)):
            counts[_COUNTED[type(node)]] += 1
    counts['merge'] = len(boundaries(nodes))
    return counts


def dropped(op: Operator) -> list[Coordinate]:
    """What the data does not use: whole outputs, and halves of Merges whose other half it does use."""
    used = {n for c in op.inputs for n in c.walk()}
    missing: list[Coordinate] = [o for o in op.outs() if o not in used]
    halves: dict[tuple[Coordinate, Size], set[type[Coordinate]]] = {}
    for node in used:
        if isinstance(node, (MergeLeft, MergeRight)):
            halves.setdefault((node.of, node.block), set()).add(type(node))
    alone = [(of, block, kinds) for (of, block), kinds in halves.items() if len(kinds) == 1]
    for of, block, kinds in sorted(alone, key=lambda item: (item[0].depth, repr(item[:2]))):
        missing.append(MergeRight(of, block) if kinds == {MergeLeft} else MergeLeft(of, block))
    return missing


def repeats(op: Operator) -> int:
    """How many dropped parts no weight provides: the output is repeated along them."""
    parts = dropped(op)
    if not parts:
        return 0
    given = {c for w in op.weights for c in w}
    return sum(not determined(part, given) for part in parts)


def steps(op: Operator) -> int:
    """Construction steps of an operator: reductions, view primitives, weights and repeats."""
    return len(op.reductions) + sum(primitives(op).values()) + len(op.weights) + repeats(op)
