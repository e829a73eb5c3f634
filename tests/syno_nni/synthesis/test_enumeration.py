"""Enumeration is complete and the shape distance admissible: both against searches that use no guidance.

The brute force here shares nothing with the construction tree but the definition of the space (`OperatorSpace.contains`):
it applies every primitive to every coordinate, in every order, and makes every weight, then keeps what is in the space.
"""
from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest

import syno_nni as sn
from syno_nni.errors import GraphError
from syno_nni.operator.expr import Coordinate, MergeLeft, MergeRight, Out, Shift, Split, Sum, Unfold
from syno_nni.operator.size import ONE, Size
from syno_nni.synthesis import Variable
from syno_nni.synthesis.construction import State, primitives, steps
from syno_nni.synthesis.limits import Limits
from syno_nni.synthesis.membership import outside

Graph = tuple[tuple[Coordinate, ...], frozenset[Coordinate]]  # what is live, and every coordinate made on the way

MAX_RANK = 4  # of the weights tried
SMALL = {'min_weight': 1, 'min_rank': 2, 'max_window': 5, 'window_ratio': 1.5}


def space_of(name: str, channels: int = 2, **limits: int) -> sn.OperatorSpace:
    """Spaces that are small enough for brute force."""
    common = {'variables': [Variable('N', 0), Variable('C', channels), Variable('H', 0), Variable('k', 1, False, 3),
                            Variable('s', 1, False, 2)], 'tied': {0: 0}, 'bindings': [{'N': 1, 'C': 8, 'H': 6}],
              'unordered_inputs': [1], 'unordered_outputs': [1]}
    bounds = Limits(reductions=2, weights=1, splits=1, merges=1, shifts=1).updated({**SMALL, **limits})
    if name == 'conv1d':
        return sn.OperatorSpace(['N', 'C', 'H'], ['N', 'C', 'H'], limits=bounds, **common)
    return sn.OperatorSpace(['N', 'C'], ['N', 'C'], limits=bounds, **common)


# ---- brute force ----

def monomials(space: sn.OperatorSpace) -> list[Size]:
    ranges = [range(0 if v.primary else -1, 2) for v in space.variables]
    found = []
    for exponents in itertools.product(*ranges):
        size = ONE * Size(zip((v.name for v in space.variables), exponents))
        if space.signature.domain.legal(size) and not size.is_one:
            found.append(size)
    return found


def primitives_of(space: sn.OperatorSpace, live: tuple[Coordinate, ...]) -> Iterator[tuple[Coordinate, ...]]:
    """What is live after any one primitive."""
    for a, b in itertools.permutations(live, 2):
        rest = tuple(c for c in live if c not in (a, b))
        yield (*rest, Split(a, b))
        yield (*rest, Unfold(a, b))
    for a in live:
        rest = tuple(c for c in live if c != a)
        yield (*rest, Shift(a, 1))
        for block in monomials(space):
            if space.signature.domain.legal(a.size / block) and block != a.size:
                yield (*rest, MergeLeft(a, block), MergeRight(a, block))


def graphs(space: sn.OperatorSpace, limit: int) -> Iterator[tuple[int, tuple[Size, ...], Graph]]:
    """Every graph of at most ``limit`` reductions and primitives, after its number of steps and its reductions."""
    sizes = [s for s in monomials(space) if space.signature.domain.reduction(s)]
    for count in range(min(limit, space.limits.reductions) + 1):
        for reductions in itertools.combinations_with_replacement(sizes, count):
            root = (*(Out(i, s) for i, s in enumerate(space.outputs) if i not in space.tied),
                    *(Sum(i, s) for i, s in enumerate(reductions)))
            front: set[Graph] = {(root, frozenset(root))}
            for used in range(count, limit + 1):
                # Orders that lead to the same graph meet.
                yield from ((used, reductions, graph) for graph in front)
                front = {(tuple(sorted(new, key=repr)), made | set(new)) for live, made in front
                         for new in primitives_of(space, live)} if used < limit else set()


def indices(space: sn.OperatorSpace, made: frozenset[Coordinate], cut: bool) -> Iterator[tuple[Coordinate, ...]]:
    """Every index of a weight: coordinates of the graph, and with ``cut`` halves of one Merge of any of them."""
    nodes = sorted(made, key=repr)
    legal = space.signature.domain.legal
    cuts = [(n, b) for n in nodes for b in monomials(space) if b != n.size and legal(n.size / b)] if cut else []
    for halves in ((), *((MergeLeft(n, b), MergeRight(n, b)) for n, b in cuts)):
        for own in range(len(halves) + 1 if halves else 1):
            for size in range(0 if halves else 1, MAX_RANK + 1 - own):
                for extra in itertools.combinations(halves, own):
                    yield from ((*chosen, *extra) for chosen in itertools.combinations(nodes, size))


def brute_force(space: sn.OperatorSpace, limit: int) -> set[str]:
    """The formulas of all operators of at most ``limit`` steps whose canonical form is one, and in the space."""
    found: set[str] = set()
    known: set[tuple] = set()
    for used, reductions, (live, made) in graphs(space, limit - 1):
        for taken in itertools.permutations(live, len(space.signature.wanted)):
            if [c.size for c in taken] != list(space.signature.wanted):
                continue
            inputs = (Out(0, space.outputs[0]), *taken)
            for weight in indices(space, made, cut=used < limit - 1 and space.limits.merges > 0):
                if not weight or (reductions, taken, frozenset(weight)) in known:
                    continue
                known.add((reductions, taken, frozenset(weight)))
                try:
                    op = sn.Operator(space.outputs, reductions, inputs, [weight])
                except GraphError:
                    continue
                canonical = space.canonical(op)
                if steps(canonical) <= limit and not outside(space.signature, canonical):
                    found.add(str(canonical))
    return found


@pytest.mark.parametrize('name, limit, limits', [
    ('linear', 3, {}), ('linear', 4, {}), ('conv1d', 3, {}), ('conv1d', 4, {'merges': 0, 'reductions': 1}),
])
def test_enumeration_equals_brute_force(name: str, limit: int, limits: dict[str, int]) -> None:
    space = space_of(name, **limits)
    listed = [str(op) for op in space.enumerate(limit)]
    assert len(listed) == len(set(listed))
    wanted = brute_force(space, limit)
    assert set(listed) == wanted, (sorted(set(listed) - wanted)[:3], sorted(wanted - set(listed))[:3])
    assert wanted


def test_two_weights_are_enumerated_completely() -> None:
    space = space_of('linear', channels=4, weights=2, splits=0, merges=0, shifts=0, unfolds=0)
    listed = {str(op) for op in space.enumerate(5)}
    sizes = [s for s in monomials(space) if space.signature.domain.reduction(s)]
    wanted = set()
    for count in (1, 2):
        for reductions in itertools.combinations_with_replacement(sizes, count):
            sums = [Sum(i, s) for i, s in enumerate(reductions)]
            leaves = [Out(1, space.outputs[1]), *sums]
            subsets = [w for n in range(1, len(leaves) + 1) for w in itertools.combinations(leaves, n)]
            for read in leaves:
                for weights in (*((w,) for w in subsets), *itertools.combinations_with_replacement(subsets, 2)):
                    if read.size == space.signature.wanted[0]:
                        op = sn.Operator(space.outputs, reductions, [Out(0, space.outputs[0]), read], weights)
                        canonical = space.canonical(op)
                        if not outside(space.signature, canonical):
                            wanted.add(str(canonical))
    assert listed == wanted and any('w2' in text for text in wanted)


# ---- the shape distance ----

def distances(space: sn.OperatorSpace, limit: int) -> list[tuple[int, int]]:
    """For every state of few steps: the bound, and the least number of steps to an operator, found without the bound."""
    @cache
    def operators_from(key: tuple) -> int:
        state = states[key]
        if state.is_final:
            return 0 if space.finish(state) is not None else 99
        best = 99
        for action in unguided(state):
            following = space.step(state, action)
            if following.steps <= limit:
                states.setdefault(following.key, following)
                best = min(best, following.steps - state.steps + operators_from(following.key))
        return best

    def unguided(state: State) -> Iterator:
        if state.stage == 'weigh':
            yield from space.tree.weighing.actions(state)
            return
        yield from space.tree.matches(state)
        if state.stage == 'reduce':
            yield from space.tree.reductions(state)
        yield from space.tree.views.all(state)

    states = {space.root.key: space.root}
    operators_from(space.root.key)
    return [(space.lower_bound(s), operators_from(k)) for k, s in list(states.items()) if not s.is_final]


@pytest.mark.parametrize('name, limit', [('linear', 5), ('conv1d', 4)])
def test_the_distance_never_exceeds_the_true_one(name: str, limit: int) -> None:
    space = space_of(name, steps=limit, weights=2)
    pairs = distances(space, limit)
    reachable = [(b, t) for b, t in pairs if t < 99]
    assert reachable and len(reachable) < len(pairs)
    assert all(bound <= true for bound, true in reachable)
    exact = np.mean([b == t for b, t in reachable])
    assert exact > 0.5, f'the bound is exact in {exact:.0%} of {len(reachable)} states'


def test_brute_force_counts_like_the_space() -> None:
    op = sn.Operator.parse('out[n:N, o:C, h:H] = sum[c:C, i:k] in[n, c, shift(unfold(h, i), 1)] * w1[o, c, i]')
    assert steps(op) == 5 and primitives(op) == {'split': 0, 'unfold': 1, 'shift': 1, 'stride': 0, 'merge': 0}
