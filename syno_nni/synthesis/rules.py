"""Canonicalization: small named rules that rewrite an operator into the one representative of its equals.

Every rule states its law. Its class says what the law preserves:

- EXACT: the family of functions that the operator can express over all weights. Weights may be re-laid out, products of
  weights merged, constants absorbed.
- PERMUTATION: the same after relabelling the channels of a dimension declared unordered.

Heuristic restrictions (which drop distinct operators) are not rewrites: see `syno_nni.synthesis.limits`.

Rules use two facts. An index identity, such as ``(x//B)*B + x%B = x``, may be applied in every tensor at once. A weight
is free in its layout: any bijection of its own index gives the same family.
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..canonical import canonical_form
from ..expr import (
    Coordinate,
    Iterator,
    MergeLeft,
    MergeRight,
    Out,
    Shift,
    Split,
    Stride,
    Sum,
    Unfold,
    sibling,
    substitute,
)
from ..operator import Operator
from ..size import Binding, Size, product

EXACT, PERMUTATION = 'exact', 'exact up to channel permutation'
MAX_REWRITES = 500


@dataclass(frozen=True)
class Rule:
    """A rewrite: ``apply(op, context)`` gives the rewritten operator, or None where the rule does not match."""

    name: str
    law: str
    kind: str
    apply: Callable[[Operator, Context], Operator | None]


@dataclass(frozen=True)
class Context:
    """What a rule may know beside the operator: the bindings, and which dimensions have no order."""

    bindings: tuple[Binding, ...] = ()
    unordered_inputs: frozenset[int] = frozenset()
    unordered_outputs: frozenset[int] = frozenset()

    def divides(self, small: Size, large: Size) -> bool:
        """Whether ``large / small`` is a whole size: no variable below the line, or an integer at every binding."""
        ratio = large / small
        if self.bindings:
            return ratio.is_integer(self.bindings)
        return ratio.coefficient.denominator == 1 and all(e > 0 for _, e in ratio.powers)


RULES: list[Rule] = []


def rule(law: str, kind: str = EXACT) -> Callable[[Callable[[Operator, Context], Operator | None]], Rule]:
    def register(function: Callable[[Operator, Context], Operator | None]) -> Rule:
        made = Rule(function.__name__.replace('_', '-'), law, kind, function)
        RULES.append(made)
        return made
    return register


def normalize(op: Operator, context: Context = Context(), trace: list[str] | None = None) -> Operator:
    """The canonical representative: every rule applied until none matches, then canonical order.

    ``trace``, if given, collects the names of the rules that fired. Rewriting never adds a construction step.
    """
    for _ in range(MAX_REWRITES):
        for each in RULES:
            rewritten = each.apply(op, context)
            if rewritten is not None:
                if trace is not None:
                    trace.append(each.name)
                op = rewritten
                break
        else:
            return canonical_form(op)
    raise AssertionError(f'canonicalization does not end on {op}')


# ---- helpers ----

def _tensors(op: Operator) -> tuple[tuple[Coordinate, ...], ...]:
    return (op.inputs, *op.weights)


def _substituted(op: Operator, mapping: dict[Coordinate, Coordinate]) -> Operator:
    """Applies an index identity in every tensor."""
    return Operator.trusted(op.outputs, op.reductions, (substitute(c, mapping) for c in op.inputs),
                            (tuple(substitute(c, mapping) for c in w) for w in op.weights))


def _with_weights(op: Operator, weights: Iterable[Iterable[Coordinate]]) -> Operator:
    return Operator.trusted(op.outputs, op.reductions, op.inputs, weights)


def _with_sums(op: Operator, removed: Sequence[int], added: Sequence[Size],
               replace: Callable[[dict[int, Sum], Sequence[Sum]], dict[Coordinate, Coordinate]],
               weights: Iterable[Iterable[Coordinate]] | None = None) -> Operator:
    """Removes reductions, appends others, renumbers, and substitutes ``replace(old sums, new sums)``."""
    kept = [i for i in range(len(op.reductions)) if i not in removed]
    sizes = [*(op.reductions[i] for i in kept), *added]
    old = {s.index: s for s in op.sums()}
    new = [Sum(len(kept) + n, size) for n, size in enumerate(added)]
    mapping: dict[Coordinate, Coordinate] = {old[i]: Sum(n, op.reductions[i]) for n, i in enumerate(kept)}
    mapping.update(replace(old, new))
    return Operator.trusted(op.outputs, sizes, (substitute(c, mapping) for c in op.inputs),
                            (tuple(substitute(c, mapping) for c in w) for w in (op.weights if weights is None else weights)))


def _parents(op: Operator) -> dict[Coordinate, list[tuple[int, Coordinate | None]]]:
    """For every node, who uses it: (tensor, parent), with parent None where the tensor is indexed by the node itself."""
    uses: dict[Coordinate, list[tuple[int, Coordinate | None]]] = {}
    for number, coordinates in enumerate(_tensors(op)):
        seen: set[tuple[Coordinate, Coordinate]] = set()
        for coordinate in coordinates:
            uses.setdefault(coordinate, []).append((number, None))
            for node in coordinate.walk():
                for child in node.bottom:
                    if (node, child) not in seen:
                        seen.add((node, child))
                        uses.setdefault(child, []).append((number, node))
    return uses


# ---- index identities ----

@rule('(x//B)*B + x%B = x')
def split_of_halves(op: Operator, context: Context) -> Operator | None:
    for node in op.nodes():
        if (isinstance(node, Split) and isinstance(node.left, MergeLeft) and isinstance(node.right, MergeRight)
                and node.left.of == node.right.of and node.left.block == node.right.block):
            return _substituted(op, {node: node.left.of})
    return None


@rule('(a*B + b)*C + c = a*(B*C) + (b*C + c)')
def split_associates(op: Operator, context: Context) -> Operator | None:
    for node in op.nodes():
        if isinstance(node, Split) and isinstance(node.left, Split):
            return _substituted(op, {node: Split(node.left.left, Split(node.left.right, node.right))})
    return None


@rule('(x//A)//B = x//(A*B), (x//A)%B = x%(A*B)//A, x%A = x%(A*B)%A')
def merge_associates(op: Operator, context: Context) -> Operator | None:
    for node in op.nodes():
        if isinstance(node, (MergeLeft, MergeRight)) and isinstance(node.of, MergeLeft):
            x, a, b = node.of.of, node.of.block, node.block
            low = MergeRight(x, a * b)
            return _substituted(op, {MergeLeft(node.of, b): MergeLeft(x, a * b), MergeRight(node.of, b): MergeLeft(low, a),
                                     MergeRight(x, a): MergeRight(low, a)})
    return None


@rule('(l*R + r)//B = l*(R/B) + r//B and (..)%B = r%B where B divides R; l//(B/R) and (l%(B/R))*R + r where R divides B')
def merge_of_split(op: Operator, context: Context) -> Operator | None:
    for node in op.nodes():
        if not (isinstance(node, (MergeLeft, MergeRight)) and isinstance(node.of, Split)):
            continue
        left, right, block = node.of.left, node.of.right, node.block
        over, under = MergeLeft(node.of, block), MergeRight(node.of, block)
        if block == right.size:
            return _substituted(op, {over: left, under: right})
        if context.divides(block, right.size):
            return _substituted(op, {over: Split(left, MergeLeft(right, block)), under: MergeRight(right, block)})
        if context.divides(right.size, block):
            outer = block / right.size
            return _substituted(op, {over: MergeLeft(left, outer), under: Split(MergeRight(left, outer), right)})
    return None


@rule('shift(shift(x, a), b) = shift(x, a + b); shift(x, 0) = x')
def shift_of_shift(op: Operator, context: Context) -> Operator | None:
    for node in op.nodes():
        if isinstance(node, Shift) and node.offset == 0:
            return _substituted(op, {node: node.of})
        if isinstance(node, Shift) and isinstance(node.of, Shift):
            return _substituted(op, {node: Shift(node.of.of, node.offset + node.of.offset)})
    return None


@rule('stride(stride(x, a), b) = stride(x, a*b); stride(x, 1) = x; unfold(x, i) = x where i has one value')
def trivial_view(op: Operator, context: Context) -> Operator | None:
    for node in op.nodes():
        if isinstance(node, Stride) and isinstance(node.of, Stride):
            return _substituted(op, {node: Stride(node.of.of, node.of.step * node.step)})
        if isinstance(node, Stride) and node.step.is_one:
            return _substituted(op, {node: node.of})
        if isinstance(node, Unfold) and node.right.size.is_one:
            return _substituted(op, {node: node.left})
        if isinstance(node, (MergeLeft, MergeRight)) and node.block.is_one:
            keep = MergeLeft(node.of, node.block)
            if keep in set(op.nodes()):
                return _substituted(op, {keep: node.of})
    return None


# ---- the layout of weights ----

@rule('w[l*R + r] = w\'[l, r]; w[shift(x)] = w\'[x]; w[stride(x)] = w\'[x]: a weight is free in its layout')
def weight_layout(op: Operator, context: Context) -> Operator | None:
    for number, weight in enumerate(op.weights):
        for place, node in enumerate(weight):
            if isinstance(node, (Split, Shift, Stride)):
                new = (*weight[:place], *node.bottom, *weight[place + 1:])
                return _with_weights(op, (new if n == number else w for n, w in enumerate(op.weights)))
    return None


@rule('w[x//B, x%B] = w\'[x]; w[x//(A*B), x%(A*B)//A] = w\'[x//A]')
def weight_halves(op: Operator, context: Context) -> Operator | None:
    for number, weight in enumerate(op.weights):
        for node in weight:
            if not isinstance(node, MergeLeft):
                continue
            for other in weight:
                whole = None
                if isinstance(other, MergeRight) and other == sibling(node):
                    whole = node.of
                elif isinstance(other, MergeLeft) and other.of == sibling(node):
                    whole = MergeLeft(node.of, other.block)
                if whole is not None:
                    new = (whole, *(c for c in weight if c != node and c != other))
                    return _with_weights(op, (new if n == number else w for n, w in enumerate(op.weights)))
    return None


@rule('in a weight: shift(l*R + r, d) % R = shift(r, d) = r after re-layout; (x % (A*B)) % A = x % A')
def weight_remainder(op: Operator, context: Context) -> Operator | None:
    for number, weight in enumerate(op.weights):
        for place, node in enumerate(weight):
            if not isinstance(node, MergeRight):
                continue
            inner, new = node.of, None
            if isinstance(inner, MergeRight) and context.divides(node.block, inner.block):
                new = MergeRight(inner.of, node.block)
            while isinstance(inner, Shift):
                inner = inner.of
            if new is None and inner is not node.of and isinstance(inner, Split) and inner.right.size == node.block:
                # Adding d to l*R + r and wrapping at a multiple of R adds d to the remainder, modulo R.
                new = inner.right
            if new is not None:
                changed = (*weight[:place], new, *weight[place + 1:])
                return _with_weights(op, (changed if n == number else w for n, w in enumerate(op.weights)))
    return None


@rule('w1[a] * w2[a, b] = w[a, b]: a weight whose index another weight determines is absorbed')
def weight_absorbed(op: Operator, context: Context) -> Operator | None:
    for small, large in itertools.permutations(range(len(op.weights)), 2):
        if all(_determined(c, op.weights[large]) for c in op.weights[small]):
            return _with_weights(op, (w for n, w in enumerate(op.weights) if n != small))
    return None


def _determined(node: Coordinate, by: Sequence[Coordinate]) -> bool:
    return node in by or (bool(node.bottom) and not isinstance(node, Unfold) and all(_determined(c, by) for c in node.bottom))


@rule('sum_r w1[a, r] * w2[b, r] = w[a, b] where r takes at least as many values as a or b alone: full rank')
def full_rank(op: Operator, context: Context) -> Operator | None:
    if not context.bindings or len(op.weights) < 2:
        return None
    uses = _parents(op)
    for sums in _weight_only_sums(op, uses):
        holders = {t for t, _ in uses[sums[0]]}
        if len(holders) != 2:
            continue
        first, second = (op.weights[t - 1] for t in sorted(holders))
        shared = [s for s in sums if {t for t, _ in uses[s]} == holders]
        rank = product(s.size for s in shared)
        alone = [product(c.size for c in w if c not in other) for w, other in ((first, second), (second, first))]
        if any(all((rank / side).ratio(b) >= 1 for b in context.bindings) for side in alone):
            union = (*(c for c in first if c not in shared), *(c for c in second if c not in first))
            # The union must itself be a legal weight: its coordinates may not share an iterator.
            leaves = [leaf for c in union for leaf in set(c.iterators())]
            if len(leaves) != len(set(leaves)):
                continue
            rest = [w for n, w in enumerate(op.weights, 1) if n not in holders]
            return _with_sums(op, [s.index for s in shared], [], lambda old, new: {}, [union, *rest])
    return None


def _weight_only_sums(op: Operator, uses: dict[Coordinate, list[tuple[int, Coordinate | None]]]) -> list[list[Sum]]:
    """Reductions that only weights use, bare; those with the same users together."""
    groups: dict[frozenset[int], list[Sum]] = {}
    for it in op.sums():
        users = uses.get(it, [])
        if users and all(t > 0 and parent is None for t, parent in users):
            groups.setdefault(frozenset(t for t, _ in users), []).append(it)
    return list(groups.values())


# ---- reductions ----

@rule('sum_r f = |r| * f where f does not use r: the constant is absorbed by a weight')
def unused_sum(op: Operator, context: Context) -> Operator | None:
    uses = _parents(op)
    for it in op.sums():
        if op.weights and it not in uses:
            return _with_sums(op, [it.index], [], lambda old, new: {})
    return None


@rule('sum_r w[a, r] = w\'[a] where nothing else uses r')
def sum_in_one_weight(op: Operator, context: Context) -> Operator | None:
    uses = _parents(op)
    for it in op.sums():
        users = uses.get(it, [])
        if len(users) == 1 and users[0][0] > 0 and users[0][1] is None:
            weights = [tuple(c for c in w if c != it) for w in op.weights]
            return _with_sums(op, [it.index], [], lambda old, new: {}, weights)
    return None


@rule('sum_r f(shift(r, d)) * w[r] = sum_r f(r) * w\'[r]')
def shift_of_sum(op: Operator, context: Context) -> Operator | None:
    uses = _parents(op)
    for it in op.sums():
        shifts = {parent for _, parent in uses.get(it, []) if parent is not None}
        if len(shifts) == 1 and isinstance(shift := next(iter(shifts)), Shift):
            return _substituted(op, {shift: it})
    return None


@rule('sum_r f(r//B, r%B) = sum_(a, b) f(a, b)')
def sum_of_halves(op: Operator, context: Context) -> Operator | None:
    uses = _parents(op)
    for it in op.sums():
        parents = {parent for _, parent in uses.get(it, []) if parent is not None}
        if parents and all(isinstance(p, (MergeLeft, MergeRight)) for p in parents) and len({p.argument for p in parents}) == 1:
            block = next(iter(parents)).argument
            if any(parent is None and tensor == 0 for tensor, parent in uses[it]):
                continue
            # Only what is used becomes a reduction: the sum over an unused half is a constant.
            bare = any(parent is None for _, parent in uses[it])
            halves = [h for h in (MergeLeft(it, block), MergeRight(it, block)) if bare or h in parents]
            if len(halves) == 1 and not op.weights:
                continue
            weights = [tuple(x for c in w for x in (halves if c == it else (c,))) for w in op.weights]
            return _with_sums(op, [it.index], [h.size for h in halves], lambda old, new, halves=halves: dict(zip(halves, new)),
                              weights)
    return None


@rule('sum_(a, b) f(a*B + b) * w[a, b] = sum_r f(r) * w\'[r] where every tensor uses both or neither')
def joint_sums(op: Operator, context: Context) -> Operator | None:
    uses = _parents(op)
    for first, second in itertools.permutations(op.sums(), 2):
        mine, others = uses.get(first, []), uses.get(second, [])
        if not mine or {t for t, _ in mine} != {t for t, _ in others}:
            continue
        fused = Split(first, second)
        parents = {p for _, p in (*mine, *others) if p is not None}
        if parents not in (set(), {fused}) or (not parents and first.index > second.index):
            continue
        if any(parent is None and tensor == 0 for tensor, parent in (*mine, *others)):
            continue
        weights = []
        for w in op.weights:
            if first in w:
                w = (fused, *(c for c in w if c not in (first, second)))
            weights.append(w)
        return _with_sums(op, [first.index, second.index], [fused.size], lambda old, new, fused=fused: {fused: new[0]}, weights)
    return None


# ---- unordered dimensions ----

@rule('in[shift(x)] = in[x] and f(shift(o)) = f(o) where the dimension has no order', PERMUTATION)
def shift_of_unordered(op: Operator, context: Context) -> Operator | None:
    for place in context.unordered_inputs:
        node = op.inputs[place]
        if isinstance(node, Shift):
            inputs = (*op.inputs[:place], node.of, *op.inputs[place + 1:])
            return Operator.trusted(op.outputs, op.reductions, inputs, op.weights)
    uses = _parents(op)
    for place in context.unordered_outputs:
        shifts = {p for _, p in uses.get(Out(place, op.outputs[place]), []) if p is not None}
        if len(shifts) == 1 and isinstance(shift := next(iter(shifts)), Shift):
            return _substituted(op, {shift: shift.of})
    return None


# Of the equal orders, one is chosen that vendor kernels like: what acts as a group (an output part that indexes the
# data, a reduction shared by several weights) stands outermost, as in a grouped convolution. Ties go to the least form.

@rule('in[a*B + b] = in[b*A + a] where the dimension has no order', PERMUTATION)
def factors_of_unordered_input(op: Operator, context: Context) -> Operator | None:
    for place in sorted(context.unordered_inputs):
        factors = _split_factors(op.inputs[place])
        if len(factors) < 2:
            continue
        rank = {f: _input_rank(op, f) for f in factors}
        best, found = ([rank[f] for f in factors], _form(op)), None
        for order in itertools.permutations(factors):
            if (ranks := [rank[f] for f in order]) > best[0]:
                continue
            inputs = (*op.inputs[:place], _nest(order), *op.inputs[place + 1:])
            other = Operator.trusted(op.outputs, op.reductions, inputs, op.weights)
            if (form := (ranks, _form(other))) < best:
                best, found = form, other
        if found is not None:
            return found
    return None


def _input_rank(op: Operator, factor: Coordinate) -> tuple[bool, int]:
    leaves = set(factor.iterators())
    return (not any(isinstance(leaf, Out) for leaf in leaves),
            -sum(any(leaf in leaves for c in w for leaf in c.iterators()) for w in op.weights))


def _output_rank(op: Operator, factor: Coordinate) -> tuple[bool, int]:
    return (not any(factor in c.walk() for c in op.inputs), -sum(factor in w for w in op.weights))


def _split_factors(node: Coordinate) -> list[Coordinate]:
    factors = []
    while isinstance(node, Split):
        factors.append(node.left)
        node = node.right
    return [*factors, node]


def _nest(factors: Sequence[Coordinate]) -> Coordinate:
    node = factors[-1]
    for factor in reversed(factors[:-1]):
        node = Split(factor, node)
    return node


@rule('f(o//B, o%B) = f(o%A, o//A) with A = |o|/B where the dimension has no order', PERMUTATION)
def factors_of_unordered_output(op: Operator, context: Context) -> Operator | None:
    for place in sorted(context.unordered_outputs):
        leaf = Out(place, op.outputs[place])
        factors = _merge_factors(op, leaf)
        if factors is None or len(factors) < 2:
            continue
        rank = [_output_rank(op, f) for f in factors]
        best, found = (rank, _form(op)), None
        for order in itertools.permutations(range(len(factors))):
            if (ranks := [rank[i] for i in order]) > best[0]:
                continue
            nodes = _factor_nodes(leaf, [factors[i].size for i in order])
            mapping: dict[Coordinate, Coordinate] = {factors[i]: nodes[n] for n, i in enumerate(order)}
            other = _substituted(op, mapping)
            if (form := (ranks, _form(other))) < best:
                best, found = form, other
        if found is not None:
            return found
    return None


def _merge_factors(op: Operator, leaf: Iterator) -> list[Coordinate] | None:
    """The parts into which right-nested Merges cut ``leaf``, outermost first; None where it is cut in two ways."""
    factors, node = [], leaf
    nodes = set(op.nodes())
    while True:
        blocks = {n.block for n in nodes if isinstance(n, (MergeLeft, MergeRight)) and n.of == node}
        if not blocks:
            return [*factors, node]
        uses = [p for _, p in _parents(op).get(node, []) if p is not None]
        if len(blocks) > 1 or any(not isinstance(p, (MergeLeft, MergeRight)) for p in uses):
            return None
        block = blocks.pop()
        if node is not leaf and any(node in w for w in op.weights):
            return None
        factors.append(MergeLeft(node, block))
        node = MergeRight(node, block)


def _factor_nodes(leaf: Iterator, sizes: Sequence[Size]) -> list[Coordinate]:
    nodes: list[Coordinate] = []
    node: Coordinate = leaf
    for number in range(len(sizes) - 1):
        block = product(sizes[number + 1:])
        nodes.append(MergeLeft(node, block))
        node = MergeRight(node, block)
    return [*nodes, node]


def _form(op: Operator) -> tuple:
    """A totally ordered key of the isomorphism class."""
    from ..canonical import total_key
    return total_key(op)
