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
from collections.abc import Sequence

from syno_nni.operator import Operator
from syno_nni.operator.canonical import total_key
from syno_nni.operator.expr import (
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
from syno_nni.operator.legality import is_legal
from syno_nni.operator.size import ONE, Size, product

from .mixed_radix import DigitRange, digit_range, flat_merges, unshifted_remainder
from .rewriting import (
    EXACT,
    PERMUTATION,
    RULES,
    Context,
    Replacement,
    Rewrites,
    Rule,
    Uses,
    data_nodes,
    nodes_of,
    normalize,
    rule,
    uses_of,
    with_replacements,
    with_sums,
    with_weight,
    with_weights,
)

MAX_CHOICES = 1000  # combinations of equal sizes that are tried
_Place = int | tuple[Coordinate, Size]  # where a size stands: the number of a reduction; what a Merge cuts, and its block


# ---- index identities ----

@rule('sizes that are equal at every binding are one size, and a size that is 1 there is 1')
def equal_sizes(op: Operator, context: Context) -> Rewrites:
    if not context.bindings:
        return
    sizes: dict[_Place, Size] = dict(enumerate(op.reductions))
    for kind in (MergeLeft, MergeRight):
        sizes.update(((node.of, node.block), node.block) for node in nodes_of(op, kind))
    choices: dict[_Place, tuple[Size, ...]] = {}
    for key, size in sizes.items():
        choices[key] = context.equals(size)
        if isinstance(key, tuple) and context.simplest(key[0].size / size).is_one:
            choices[key] = (key[0].size,)  # a block as long as what it cuts
    own = tuple(sizes.values())
    if all(each[0] == size for each, size in zip(choices.values(), own)):
        return
    # Sizes must often change together for the input to keep its own. Nothing here depends on the order of the sizes.
    most = next(m for m in range(max(map(len, choices.values())), 0, -1) if m ** len(choices) <= MAX_CHOICES or m == 1)
    tried = itertools.product(*({*each[:most], size} for each, size in zip(choices.values(), own)))
    least = _total(own, context)
    ranked = ((_total(c, context), [s.sort_key for s in c], c) for c in tried)
    for total, _, choice in sorted(ranked, key=lambda item: item[:2]):
        if total >= least:
            return
        if (other := _resized(op, {k: new for (k, old), new in zip(sizes.items(), choice) if new != old})) is not None:
            yield other


def _total(sizes: Sequence[Size], context: Context) -> tuple[object, ...]:
    """How complex sizes are together, in whatever order."""
    *sums, _ = zip(*map(context.complexity, sizes))
    return *map(sum, sums), sorted(s.sort_key for s in sizes)


def _resized(op: Operator, changed: dict[_Place, Size]) -> Operator | None:
    """The operator with other sizes of reductions and blocks, if the input keeps its own."""
    def rebuild(node: Coordinate) -> Coordinate:
        if isinstance(node, Sum):
            return Sum(node.index, changed.get(node.index, node.size))
        if isinstance(node, (MergeLeft, MergeRight)):
            return type(node)(rebuild(node.of), changed.get((node.of, node.block), node.block))
        return node.rebuild(*map(rebuild, node.bottom)) if node.bottom else node

    inputs = [rebuild(c) for c in op.inputs]
    if any(new.size != old.size for new, old in zip(inputs, op.inputs)):
        return None
    sizes = [changed.get(i, size) for i, size in enumerate(op.reductions)]
    return Operator.trusted(op.outputs, sizes, inputs, ([rebuild(c) for c in w] for w in op.weights))


def _simplified(op: Operator, context: Context) -> Operator:
    """The operator in the simplest sizes, so that rules that choose the least form compare like with like."""
    while (other := equal_sizes.apply(op, context)) is not None:
        op = other
    return op


@rule('an index with one value is 0: x*1 + 0 = 0*X + x = unfold(x, 0) = x//1 = x%|x| = stride(x, 1) = x')
def trivial_view(op: Operator, context: Context) -> Rewrites:
    mapping: dict[Coordinate, Coordinate] = {}
    for node in nodes_of(op, Split):
        if node.right.size.is_one or node.left.size.is_one:
            mapping[node] = node.left if node.right.size.is_one else node.right
    mapping.update((n, n.left) for n in nodes_of(op, Unfold) if n.right.size.is_one)
    mapping.update((n, n.of) for n in nodes_of(op, MergeLeft) if n.block.is_one)
    mapping.update((n, n.of) for n in nodes_of(op, MergeRight) if n.block == n.of.size)
    mapping.update((n, n.of) for n in nodes_of(op, Stride) if n.step.is_one)
    for view, simpler in mapping.items():
        yield with_replacements(op, {view: simpler})  # illegal where a tensor uses both halves of a Merge of one block
    for number, weight in enumerate(op.weights):
        for place, index in enumerate(weight):
            if index.size.is_one:
                yield with_weight(op, number, (*weight[:place], *weight[place + 1:]))


@rule('(x//B)*B + x%B = x')
def split_of_halves(op: Operator, context: Context) -> Rewrites:
    for node in nodes_of(op, Split):
        if (isinstance(node.left, MergeLeft) and isinstance(node.right, MergeRight)
                and node.left.of == node.right.of and node.left.block == node.right.block):
            yield with_replacements(op, {node: node.left.of})


@rule('(a*B + b)*C + c = a*(B*C) + (b*C + c)')
def split_associates(op: Operator, context: Context) -> Rewrites:
    for node in nodes_of(op, Split):
        if isinstance(node.left, Split):
            yield with_replacements(op, {node: Split(node.left.left, Split(node.left.right, node.right))})


@rule('(x//A)//B = x//(A*B), (x//A)%B = x%(A*B)//A, x%A = x%(A*B)%A')
def merge_associates(op: Operator, context: Context) -> Rewrites:
    uses = None
    for kind in (MergeLeft, MergeRight):
        for node in nodes_of(op, kind):
            if not isinstance(node.of, MergeLeft):
                continue
            uses = uses or uses_of(op)
            if any(not isinstance(p, (MergeLeft, MergeRight)) or p.block != node.block for _, p in uses[node.of]):
                continue  # the outer half is also used whole
            x, a, b = node.of.of, node.of.block, node.block
            low = MergeRight(x, a * b)
            yield with_replacements(op, {MergeLeft(node.of, b): MergeLeft(x, a * b), MergeRight(node.of, b): MergeLeft(low, a),
                                    MergeRight(x, a): MergeRight(low, a)})


@rule('(x%(A*B))%A = x%A where nothing else uses x%(A*B), and no tensor x//(A*B) beside it')
def remainder_of_remainder(op: Operator, context: Context) -> Rewrites:
    for node in nodes_of(op, MergeRight):
        if not isinstance(node.of, MergeRight) or not context.cuts(node.block, node.of.block):
            continue
        uses = uses_of(op)
        beside = {tensor for tensor, _ in uses.get(sibling(node.of), ())}
        # A tensor has x//(A*B) and x%A through one Merge of x, which leaves a digit out.
        if all(parent == node and tensor not in beside for tensor, parent in uses[node.of]):
            yield with_replacements(op, {node: MergeRight(node.of.of, node.block)})


@rule('(l*R + r)//B = l*(R/B) + r//B and (..)%B = r%B where B divides R; l//(B/R) and (l%(B/R))*R + r where R divides B')
def merge_of_split(op: Operator, context: Context) -> Rewrites:
    for kind in (MergeLeft, MergeRight):
        for node in nodes_of(op, kind):
            if not isinstance(node.of, Split):
                continue
            left, right, block = node.of.left, node.of.right, node.block
            over, under = MergeLeft(node.of, block), MergeRight(node.of, block)
            if block == right.size:
                yield with_replacements(op, {over: left, under: right})
            elif context.divides(block, right.size):
                yield with_replacements(op, {over: Split(left, MergeLeft(right, block)), under: MergeRight(right, block)})
            elif context.divides(right.size, block):
                outer = block / right.size
                yield with_replacements(op, {over: MergeLeft(left, outer), under: Split(MergeRight(left, outer), right)})


@rule('shift(shift(x, a), b) = shift(x, a + b); shift(x, 0) = x')
def shift_of_shift(op: Operator, context: Context) -> Rewrites:
    for node in nodes_of(op, Shift):
        if node.offset == 0:
            yield with_replacements(op, {node: node.of})
        elif isinstance(node.of, Shift):
            yield with_replacements(op, {node: Shift(node.of.of, node.offset + node.of.offset)})


@rule('stride(stride(x, a), b) = stride(x, a*b)')
def stride_of_stride(op: Operator, context: Context) -> Rewrites:
    for node in nodes_of(op, Stride):
        if isinstance(node.of, Stride):
            yield with_replacements(op, {node: Stride(node.of.of, node.of.step * node.step)})


# ---- the layout of weights ----

@rule("w[l*R + r] = w'[l, r]; w[shift(x)] = w'[x]; w[stride(x)] = w'[x]: a weight is free in its layout")
def weight_layout(op: Operator, context: Context) -> Rewrites:
    for number, weight in enumerate(op.weights):
        for place, node in enumerate(weight):
            if isinstance(node, (Split, Shift, Stride)):
                yield with_weight(op, number, (*weight[:place], *node.bottom, *weight[place + 1:]))


@rule("w[x//B, x%B] = w'[x]; w[x//(A*B), x%(A*B)//A] = w'[x//A]")
def weight_halves(op: Operator, context: Context) -> Rewrites:
    for number, weight in enumerate(op.weights):
        for node in weight:
            if not isinstance(node, MergeLeft):
                continue
            for other in weight:
                whole = None
                if isinstance(other, MergeRight) and other == sibling(node):
                    whole = node.of
                elif isinstance(other, MergeLeft) and other.of == sibling(node) and not _merged_by_data(op, node):
                    whole = MergeLeft(node.of, other.block)
                if whole is not None:
                    yield with_weight(op, number, (whole, *(c for c in weight if c != node and c != other)))


def _merged_by_data(op: Operator, half: MergeLeft | MergeRight) -> bool:
    """Whether the data uses the Merge that a half belongs to."""
    nodes = data_nodes(op)
    return half in nodes or sibling(half) in nodes


@rule('in a weight: shift(x, d) % B = x % B after re-layout, since B divides |x|; shift(l*R + r, d) % R = r')
def weight_remainder(op: Operator, context: Context) -> Rewrites:
    for number, weight in enumerate(op.weights):
        for place, node in enumerate(weight):
            if not isinstance(node, MergeRight):
                continue
            new: Coordinate | None = None
            if isinstance(node.of, Shift):
                # Adding d and wrapping at a multiple of B adds d to the remainder, modulo B.
                new = unshifted_remainder(node)
                if new is None and context.cuts(node.block, node.of.size) and not _merged_by_data(op, node):
                    new = MergeRight(node.of.of, node.block)
            elif context.cuts(node.block, node.of.size) and not _merged_by_data(op, node):
                # The other way round where the data merges the shifted coordinate: its Merge is there already.
                shifted = (s for s in nodes_of(op, Shift) if s.of == node.of)
                new = next((half for s in shifted if _merged_by_data(op, half := MergeRight(s, node.block))), None)
            if new is not None:
                yield with_weight(op, number, (*weight[:place], new, *weight[place + 1:]))


@rule('in a weight: digits of x are written by the Merges of x that the data makes, else with the fewest Merges')
def weight_digits(op: Operator, context: Context) -> Rewrites:
    for number, weight in enumerate(op.weights):
        for place, node in enumerate(weight):
            if not isinstance(node, (MergeLeft, MergeRight)):
                continue
            pieces = _pieces(op, context, node)
            if pieces is None or pieces == [node]:
                continue
            # Illegal where digits have others between them, which nested Merges write.
            yield with_weight(op, number, (*weight[:place], *pieces, *weight[place + 1:]))


def _pieces(op: Operator, context: Context, node: MergeLeft | MergeRight) -> list[Coordinate] | None:
    """The digits that a half stands for, as coordinates of the tree of Merges that the data makes; None where the
    boundaries do not nest."""
    if not _is_digits(node, context):
        return None
    cell, low, high = digit_range(node)
    pieces: list[Coordinate] = []
    while (low != ONE or high is not None) and (block := _data_block(op, context, cell)) is not None:
        if high is not None and context.divides(high, block):  # all below the cut
            cell, high = MergeRight(cell, block), None if high == block else high
        elif context.divides(block, low):  # all above it
            cell, low, high = MergeLeft(cell, block), low / block, None if high is None else high / block
        elif context.divides(low, block) and (high is None or context.divides(block, high)):
            pieces.append(flat_merges(MergeLeft(cell, block), ONE, None if high is None else high / block))
            cell, high = MergeRight(cell, block), None
        else:
            return None
    return [*pieces, flat_merges(cell, low, high)]


def _data_block(op: Operator, context: Context, cell: Coordinate) -> Size | None:
    """The block into which the data merges a coordinate."""
    data = data_nodes(op)
    return next((n.block for kind in (MergeLeft, MergeRight) for n in nodes_of(op, kind)
                 if n.of == cell and n in data and context.cuts(n.block, cell.size)), None)


def _is_digits(node: Coordinate, context: Context) -> bool:
    """Whether a coordinate is the digits that `digit_range` says: every Merge on the way cuts into whole blocks."""
    while isinstance(node, (MergeLeft, MergeRight)):
        if not context.cuts(node.block, node.of.size):
            return False
        node = node.of
    return True


@rule('w1[a] * w2[a, b] = w[a, b]: a weight whose index another weight determines is absorbed')
def weight_absorbed(op: Operator, context: Context) -> Rewrites:
    for small, large in itertools.permutations(range(len(op.weights)), 2):
        if all(_function_of(c, op.weights[large]) for c in op.weights[small]):
            yield with_weights(op, (w for n, w in enumerate(op.weights) if n != small))


def _function_of(node: Coordinate, by: Sequence[Coordinate]) -> bool:
    """Whether a coordinate is one of those in ``by`` or computed from some of them."""
    return node in by or (bool(node.bottom) and not isinstance(node, Unfold) and all(_function_of(c, by) for c in node.bottom))


@rule('sum_r w1[a, r] * w2[b, r] = w[a, b] where r takes at least as many values as a or b alone: full rank')
def full_rank(op: Operator, context: Context) -> Rewrites:
    if not context.bindings or len(op.weights) < 2:
        return
    uses = uses_of(op)
    for sums in _weight_only_sums(op, uses):
        holders = {t for t, _ in uses[sums[0]]}
        if len(holders) != 2:
            continue
        first, second = (op.weights[t - 1] for t in sorted(holders))
        shared = [s for s in sums if {t for t, _ in uses[s]} == holders]
        rank = product(s.size for s in shared)
        alone = [product(c.size for c in w if c not in other) for w, other in ((first, second), (second, first))]
        if all(any((rank / side).ratio(b) >= 1 for side in alone) for b in context.bindings):
            union = (*(c for c in first if c not in shared), *(c for c in second if c not in first))
            # The union must itself be a legal weight: its coordinates may not share an iterator.
            leaves = [leaf for c in union for leaf in set(c.iterators())]
            if len(leaves) != len(set(leaves)):
                continue
            rest = [w for n, w in enumerate(op.weights, 1) if n not in holders]
            yield with_sums(op, [s.index for s in shared], [], lambda old, new: {}, [union, *rest])


def _weight_only_sums(op: Operator, uses: Uses) -> list[list[Sum]]:
    """Reductions that only weights use, bare; those with the same users together."""
    groups: dict[frozenset[int], list[Sum]] = {}
    for it in op.sums():
        users = uses.get(it, [])
        if users and all(t > 0 and parent is None for t, parent in users):
            groups.setdefault(frozenset(t for t, _ in users), []).append(it)
    return list(groups.values())


# ---- reductions ----

def _become(nodes: Sequence[Coordinate], joined: Coordinate | None = None) -> Replacement:
    """New reductions take the place of ``nodes``; ``joined`` becomes the Split of the two."""
    def replace(old: dict[int, Sum], new: Sequence[Sum]) -> dict[Coordinate, Coordinate]:
        mapping: dict[Coordinate, Coordinate] = dict(zip(nodes, new))
        return mapping if joined is None else {**mapping, joined: Split(*new)}

    return replace


@rule('sum_r f = |r| * f where f does not use r: the constant is absorbed by a weight')
def unused_sum(op: Operator, context: Context) -> Rewrites:
    uses = uses_of(op)
    for it in op.sums():
        if op.weights and it not in uses:
            yield with_sums(op, [it.index], [], lambda old, new: {})


@rule("sum_r w[a, r] = w'[a] where nothing else uses r")
def sum_in_one_weight(op: Operator, context: Context) -> Rewrites:
    uses = uses_of(op)
    for it in op.sums():
        users = uses.get(it, [])
        if len(users) == 1 and users[0][0] > 0 and users[0][1] is None:
            weights = [tuple(c for c in w if c != it) for w in op.weights]
            yield with_sums(op, [it.index], [], lambda old, new: {}, weights)


@rule("sum_r f(shift(r, d)) * w[r] = sum_r f(r) * w'[r]")
def shift_of_sum(op: Operator, context: Context) -> Rewrites:
    uses = uses_of(op)
    for it in op.sums():
        shifts = {parent for _, parent in uses.get(it, []) if parent is not None}
        # A weight that uses r itself is laid out anew; the data would see its order.
        if len(shifts) == 1 and isinstance(shift := next(iter(shifts)), Shift) and (0, None) not in uses[it]:
            yield with_replacements(op, {shift: it})


@rule('sum_r f(r//B, r%B) = sum_(a, b) f(a, b)')
def sum_of_halves(op: Operator, context: Context) -> Rewrites:
    uses = uses_of(op)
    for it in op.sums():
        parents = {parent for _, parent in uses.get(it, []) if parent is not None}
        if parents and all(isinstance(p, (MergeLeft, MergeRight)) for p in parents) and len({p.argument for p in parents}) == 1:
            block = next(p.block for p in parents if isinstance(p, (MergeLeft, MergeRight)))
            if (0, None) in uses[it] or not context.cuts(block, it.size):
                continue
            # Only what is used becomes a reduction: the sum over an unused half is a constant.
            bare = any(parent is None for _, parent in uses[it])
            halves = [h for h in (MergeLeft(it, block), MergeRight(it, block)) if bare or h in parents]
            if len(halves) == 1 and not op.weights:
                continue
            weights = [tuple(x for c in w for x in (halves if c == it else (c,))) for w in op.weights]
            yield with_sums(op, [it.index], [h.size for h in halves], _become(halves), weights)


@rule('sum_r f(r, r//B, r%B) = sum_(a, b) f(a*B + b, a, b)')
def sum_in_digits(op: Operator, context: Context) -> Rewrites:
    for kind in (MergeLeft, MergeRight):
        for node in nodes_of(op, kind):
            if isinstance(it := node.of, Sum) and context.cuts(node.block, it.size):
                halves = MergeLeft(it, node.block), MergeRight(it, node.block)
                yield with_sums(op, [it.index], [h.size for h in halves], _become(halves, joined=it))


@rule("sum_(a, b) f(a*B + b) * w[a, b] = sum_r f(r) * w'[r] where every tensor uses both or neither")
def joint_sums(op: Operator, context: Context) -> Rewrites:
    uses = uses_of(op)
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
        yield with_sums(op, [first.index, second.index], [fused.size], _become([fused]), weights)


# ---- unordered dimensions ----

@rule('in[a*B + shift(b)] = in[a*B + b] where the dimension has no order', PERMUTATION)
def shift_of_unordered_input(op: Operator, context: Context) -> Rewrites:
    for place in sorted(context.unordered_inputs):
        factors = _split_factors(op.inputs[place])
        plain = [f.of if isinstance(f, Shift) else f for f in factors]
        if plain != factors:
            inputs = (*op.inputs[:place], _nest(plain), *op.inputs[place + 1:])
            yield Operator.trusted(op.outputs, op.reductions, inputs, op.weights)


@rule('f(shift(x)) = f(x) where x is an output dimension without order, or some of its digits', PERMUTATION)
def shift_of_unordered_output(op: Operator, context: Context) -> Rewrites:
    for shift in nodes_of(op, Shift):
        base, low, high = digit_range(shift.of)
        if not (isinstance(base, Out) and base.index in context.unordered_outputs and _is_digits(shift.of, context)):
            continue
        if any(parent != shift and tensor == 0 for tensor, parent in uses_of(op)[shift.of]):
            continue
        without: dict[Coordinate, Coordinate] = {shift: Sum(-1, shift.size)}  # a stand-in: what else is made of the output?
        others = [c for w in op.weights for c in w if base in substitute(c, without).iterators()]
        if all(_is_digits(c, context) and _keeps(digit_range(c), base, low, high, context) for c in others):
            yield with_replacements(op, {shift: shift.of})


def _keeps(digits: DigitRange, base: Coordinate, low: Size, high: Size | None, context: Context) -> bool:
    """Whether digits contain those from ``low`` to ``high``, or none of them."""
    if digits.base != base:
        return False
    inside = context.divides(digits.low, low) and (
        digits.high is None or (high is not None and context.divides(high, digits.high)))
    below = digits.high is not None and context.divides(digits.high, low)
    return inside or below or (high is not None and context.divides(high, digits.low))


# Of the equal orders, one is chosen that vendor kernels like: what acts as a group (an output part that indexes the
# data, a reduction shared by several weights) stands outermost, as in a grouped convolution. Ties go to the least form.

@rule('in[a*B + b] = in[b*A + a] where the dimension has no order', PERMUTATION)
def factors_of_unordered_input(op: Operator, context: Context) -> Rewrites:
    for place in sorted(context.unordered_inputs):
        factors = _split_factors(op.inputs[place])
        if len(factors) < 2:
            continue
        rank = {f: _input_rank(op, f) for f in factors}
        best, found = ([rank[f] for f in factors], total_key(op)), None
        for order in itertools.permutations(factors):
            if (ranks := [rank[f] for f in order]) > best[0]:
                continue
            inputs = (*op.inputs[:place], _nest(order), *op.inputs[place + 1:])
            other = _simplified(Operator.trusted(op.outputs, op.reductions, inputs, op.weights), context)
            if is_legal(other) and (form := (ranks, total_key(other))) < best:
                best, found = form, other
        if found is not None:
            yield found


def _input_rank(op: Operator, factor: Coordinate) -> tuple[bool, int]:
    leaves = set(factor.iterators())
    return (not any(isinstance(leaf, Out) for leaf in leaves),
            -sum(any(leaf in leaves for c in w for leaf in c.iterators()) for w in op.weights))


def _output_rank(op: Operator, factor: Coordinate) -> tuple[bool, int]:
    return (not any(factor in c.walk() for c in op.inputs), -sum(factor in w for w in op.weights))


def _split_factors(node: Coordinate) -> list[Coordinate]:
    factors: list[Coordinate] = []
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
def factors_of_unordered_output(op: Operator, context: Context) -> Rewrites:
    for place in sorted(context.unordered_outputs):
        leaf = Out(place, op.outputs[place])
        factors = _merge_factors(op, context, leaf)
        if factors is None or len(factors) < 2:
            continue
        rank = [_output_rank(op, f) for f in factors]
        best, found = (rank, total_key(op)), None
        for order in itertools.permutations(range(len(factors))):
            if (ranks := [rank[i] for i in order]) > best[0]:
                continue
            nodes = _factor_nodes(leaf, [factors[i].size for i in order])
            mapping: dict[Coordinate, Coordinate] = {factors[i]: nodes[n] for n, i in enumerate(order)}
            other = with_replacements(op, mapping)
            if other is None or not is_legal(other):
                continue
            other = _simplified(other, context)
            if (form := (ranks, total_key(other))) < best:
                best, found = form, other
        if found is not None:
            yield found


def _merge_factors(op: Operator, context: Context, leaf: Iterator) -> list[Coordinate] | None:
    """The parts into which right-nested Merges cut ``leaf``, outermost first; None where it is cut in two ways, or the data
    uses it whole in a dimension that has an order."""
    factors: list[Coordinate] = []
    node: Coordinate = leaf
    nodes = set(op.nodes())
    while True:
        blocks = {n.block for n in nodes if isinstance(n, (MergeLeft, MergeRight)) and n.of == node}
        if not blocks:
            return [*factors, node]
        if len(blocks) > 1:
            return None
        block = blocks.pop()
        uses = uses_of(op).get(node, [])
        # The whole output may be used too, but not what is left of it after a cut.
        allowed = (MergeLeft, MergeRight, type(None)) if node is leaf else (MergeLeft, MergeRight)
        if not context.cuts(block, node.size) or any(not isinstance(parent, allowed) for _, parent in uses):
            return None
        if (0, None) in uses and op.inputs.index(node) not in context.unordered_inputs:
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


__all__ = ['EXACT', 'PERMUTATION', 'RULES', 'Context', 'Rule', 'normalize']
