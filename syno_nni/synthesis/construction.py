"""The construction tree: states, legal actions and steps, from the output towards the input.

A state passes four stages. *reduce*: reductions are added. *view*: primitives replace live
coordinates (those that the data is indexed by so far). *weigh*: input dimensions have been matched with live
coordinates, the rest is dropped, and weights are added, each indexed by coordinates of the graph. *final*: the operator
is complete. Steps that commute lead to the same state, and states with the same `State.key` are one node of the tree.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from ..canonical import total_key
from ..expr import Coordinate, Iterator, MergeLeft, MergeRight, Sum
from ..formula import coordinate_text, names
from ..operator import Operator
from ..size import Size

REDUCE, VIEW, WEIGH, FINAL = 'reduce', 'view', 'weigh', 'final'


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

    @cached_property
    def key(self) -> tuple:
        """Equal for states that differ in the names and order of reductions, live coordinates and weights only."""
        graph = Operator.trusted(self.outputs, self.reductions, self.inputs, (*self.weights, self.live))
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
        return len({(n.of, n.block) if isinstance(n, (MergeLeft, MergeRight)) else n
                    for n in self.nodes if isinstance(n, kind)})

    @cached_property
    def nodes(self) -> frozenset[Coordinate]:
        return frozenset(n for c in (*self.live, *self.inputs) for n in c.walk())

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
    """One step of the construction. ``kind`` names it for statistics; ``apply`` gives the next state."""

    kind: ClassVar[str]

    def apply(self, state: State) -> State:
        raise AssertionError('an action defines apply')

    def describe(self, state: State) -> str:
        """The step in words."""
        return self.kind

    @property
    def label(self) -> str:
        """What tree-search statistics are kept by: kind and sizes, without the names of iterators."""
        return self.kind


@dataclass(frozen=True)
class Reduce(Action):
    """Adds a reduction of a size."""

    size: Size
    kind: ClassVar[str] = 'Reduce'

    def apply(self, state: State) -> State:
        new = Sum(len(state.reductions), self.size)
        return State(state.outputs, (*state.reductions, self.size), (*state.live, new), REDUCE, state.steps + 1)

    def describe(self, state: State) -> str:
        return f'sum over {self.size}'

    @property
    def label(self) -> str:
        return f'Reduce {self.size}'


@dataclass(frozen=True)
class View(Action):
    """Replaces the live coordinates ``old`` by ``new``; ``kind`` of the primitive in ``name``."""

    name: str
    old: tuple[Coordinate, ...]
    new: tuple[Coordinate, ...]
    kind: ClassVar[str] = 'View'

    def apply(self, state: State) -> State:
        live = list(state.live)
        for node in self.old:
            live.remove(node)
        return State(state.outputs, state.reductions, (*live, *self.new), VIEW, state.steps + 1)

    def describe(self, state: State) -> str:
        return f'{self.name}: {", ".join(map(state.describe, self.old))} -> {", ".join(map(self.apply(state).describe, self.new))}'

    @property
    def label(self) -> str:
        return f'{self.name} {" ".join(str(c.size) for c in self.old)} -> {" ".join(str(c.size) for c in self.new)}'


@dataclass(frozen=True)
class Match(Action):
    """Takes live coordinates as the input's dimensions, in order, and drops the rest; costs no step."""

    inputs: tuple[Coordinate, ...]
    kind: ClassVar[str] = 'Match'

    def apply(self, state: State) -> State:
        live = list(state.live)
        for node in self.inputs:
            if node in live:
                live.remove(node)
        return State(state.outputs, state.reductions, tuple(live), WEIGH, state.steps, self.inputs)

    def describe(self, state: State) -> str:
        return f'read in[{", ".join(map(state.describe, self.inputs))}]'


@dataclass(frozen=True)
class Weigh(Action):
    """Adds a weight indexed by ``coordinates``; one step, however many coordinates it has ("contraction")."""

    coordinates: tuple[Coordinate, ...]
    kind: ClassVar[str] = 'Weight'

    def apply(self, state: State) -> State:
        return State(state.outputs, state.reductions, state.live, WEIGH, state.steps + 1, state.inputs,
                     (*state.weights, self.coordinates))

    def describe(self, state: State) -> str:
        name = names(Operator.trusted(state.outputs, state.reductions, state.inputs, (*state.weights, self.coordinates)))
        return f'weight w[{", ".join(coordinate_text(c, name) for c in self.coordinates)}]'

    @property
    def label(self) -> str:
        return 'Weight ' + ' '.join(sorted(str(c.size) for c in self.coordinates))


@dataclass(frozen=True)
class Finish(Action):
    """Completes the operator; costs no step."""

    kind: ClassVar[str] = 'Finish'

    def apply(self, state: State) -> State:
        return State(state.outputs, state.reductions, state.live, FINAL, state.steps, state.inputs, state.weights)


def primitives(op: Operator) -> dict[str, int]:
    """How many primitives of each kind an operator has; a Merge counts once."""
    counts = dict.fromkeys(('split', 'unfold', 'shift', 'stride', 'merge'), 0)
    merged: set[tuple[Coordinate, Size]] = set()
    for node in op.nodes():
        if isinstance(node, (MergeLeft, MergeRight)):
            merged.add((node.of, node.block))
        elif not isinstance(node, Iterator):
            counts[node.kind] += 1
    counts['merge'] = len(merged)
    return counts


def dropped(op: Operator) -> list[Coordinate]:
    """The output parts that the data does not reach: whole outputs, and halves of Merges whose other half it does."""
    reached = {n for c in op.inputs for n in c.walk()}
    missing: list[Coordinate] = [o for o in op.outs() if o not in reached]
    halves: dict[tuple[Coordinate, Size], set[str]] = {}
    for node in reached:
        if isinstance(node, (MergeLeft, MergeRight)):
            halves.setdefault((node.of, node.block), set()).add(node.kind)
    for (of, block), kinds in sorted(halves.items(), key=lambda item: (item[0][0].depth, repr(item[0]))):
        if kinds == {'div'}:
            missing.append(MergeRight(of, block))
        elif kinds == {'mod'}:
            missing.append(MergeLeft(of, block))
    return missing


def repeats(op: Operator) -> int:
    """How many dropped parts no weight indexes: the output is repeated along them."""
    return sum(not any(touches(w, node) for w in op.weights) for node in dropped(op))


def touches(weight: Iterable[Coordinate], node: Coordinate) -> bool:
    """Whether a weight holds a dropped part: the part itself, something below it, or something made of it."""
    below = set(node.walk())
    for coordinate in weight:
        if coordinate in below or any(n == node for n in coordinate.walk()):
            return True
    return False


def steps(op: Operator) -> int:
    """Construction steps of an operator: reductions, view primitives, weights and repeats."""
    return len(op.reductions) + sum(primitives(op).values()) + len(op.weights) + repeats(op)
