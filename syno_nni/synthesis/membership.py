"""Whether an operator is in a signature, and if not why, in words: signature, limits, heuristics and budgets, checked on the
finished graph."""
from __future__ import annotations

import itertools
from collections.abc import Iterator as Iter
from dataclasses import dataclass

from syno_nni.errors import SizeError
from syno_nni.operator import Operator
from syno_nni.operator.expr import Coordinate, Iterator, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold
from syno_nni.operator.size import Size, product

from .construction import VIEW_PRIMITIVES, dropped, primitives, repeats, steps
from .rules import normalize
from .signature import Signature, shape_text


@dataclass(frozen=True)
class Containment:
    """The answer of `contains`: true when inside; ``str`` says why not."""

    reason: str = ''

    def __bool__(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        return self.reason or 'inside'


def canonical(signature: Signature, op: Operator) -> Operator:
    """The representative of an operator in a space: exact rules and channel relabelling applied."""
    return normalize(op, signature.context)


def contains(signature: Signature, op: Operator) -> Containment:
    """Whether an operator, or its canonical equivalent, is in the space; if not, which limit or rule excludes it."""
    if op.outputs != signature.outputs:
        return Containment(f'signature: the output is {shape_text(op.outputs)}, the space wants '
                           f'{shape_text(signature.outputs)}')
    sizes = tuple(c.size for c in op.inputs)
    if sizes != signature.inputs:
        return Containment(f'signature: the input is {shape_text(sizes)}, the space wants {shape_text(signature.inputs)}')
    for out, into in signature.tied.items():
        uses = [c for n, c in enumerate((*op.inputs, *(c for w in op.weights for c in w))) if n != into]
        if op.inputs[into] != Out(out, signature.outputs[out]) or any(
                isinstance(leaf, Out) and leaf.index == out for c in uses for leaf in c.iterators()):
            return Containment(f'tied: output {out} must index input {into}, and nothing else')
    if signature.declared:
        return _either_form(signature, op)
    answer = _either_form(signature.symbolic, op)
    if answer:
        try:
            return Containment(next(signature.budgets.complaints(op), ''))
        except SizeError as error:
            return Containment(f'sizes: {error}')
    return answer


def _either_form(signature: Signature, op: Operator) -> Containment:
    """Some equivalences turn one limited primitive into another: what is inside as it stands counts as inside."""
    form = canonical(signature, op)
    reason = outside(signature, form)
    if reason and form != op and not outside(signature, op):
        reason = ''
    return Containment(reason)


def outside(signature: Signature, op: Operator) -> str:
    """The first reason why a canonical operator with the space's shapes is outside; empty where it is inside."""
    return next(complaints(signature, op), '')


def affordable(signature: Signature, op: Operator) -> bool:
    """Whether an operator is within the budgets as it stands: a quick check ahead of its canonical form."""
    return next(itertools.chain(_sum_complaints(signature, op), signature.budgets.complaints(op)), None) is None


def node_complaint(signature: Signature, node: Coordinate) -> str | None:
    """Which limit or heuristic forbids a primitive, looking at the node and what is directly below it."""
    domain, limits = signature.domain, signature.limits
    rules = limits.heuristics
    if 0 <= limits.chain < node.depth - 1:
        return f'chain: {node.depth - 1} primitives stand above one another, the limit is {limits.chain}'
    if not domain.legal(node.size):
        return f'sizes: {domain.complaint(node.size)}'
    if isinstance(node, Unfold):
        return _unfold_complaint(signature, node)
    if isinstance(node, Shift):
        if isinstance(node.of, Split) and domain.upper(node.of.right.size) > rules.max_shifted_block * abs(node.offset):
            return (f'max_shifted_block: a Shift of a Split with block {node.of.right.size} hardly mixes; the limit is '
                    f'{rules.max_shifted_block}')
    elif isinstance(node, (MergeLeft, MergeRight)):
        below = node.of
        if isinstance(below, Shift) and domain.upper(node.block) > rules.max_shifted_block * abs(below.offset):
            return (f'max_shifted_block: a Merge of a Shift into blocks of {node.block} hardly mixes; the limit is '
                    f'{rules.max_shifted_block}')
        if isinstance(below, Unfold) and not rules.merge_of_wide_unfold and domain.bindings and domain.lower(
                node.block / below.right.size) >= 1:
            return f'merge_of_wide_unfold: blocks of {node.block} are no smaller than the window {below.right.size}'
        if isinstance(below, Split) and not rules.merge_of_split:
            return f'merge_of_split: a Merge of a Split into blocks of {node.block}'
        if not domain.legal(node.of.size / node.block):
            return f'sizes: {domain.complaint(node.of.size / node.block)}'
    elif isinstance(node, Stride):
        if not domain.legal(node.step):
            return f'sizes: {domain.complaint(node.step)}'
    return None


def _unfold_complaint(signature: Signature, node: Unfold) -> str | None:
    domain, rules = signature.domain, signature.limits.heuristics
    left, right = node.left, node.right
    if not domain.window(right.size):
        return (f'window: a window of size {right.size} is not allowed (at most {rules.max_window}'
                f'{", odd" if rules.odd_windows else ""}, no variable of budget 0)')
    if not domain.unfoldable(left.size, right.size):
        return f'window_ratio: a dimension of size {left.size} is shorter than {rules.window_ratio} windows of {right.size}'
    if isinstance(left, Split) and not rules.unfold_of_split:
        return 'unfold_of_split: an Unfold along a Split'
    if isinstance(left, Shift) and not rules.unfold_of_shift:
        return 'unfold_of_shift: an Unfold along a Shift; shift the unfolded dimension instead'
    if not rules.unfold_of_sum and all(isinstance(leaf, Sum) for leaf in left.iterators()):
        return 'unfold_of_sum: an Unfold along a dimension of reductions only'
    if (isinstance(left, Unfold) and rules.ascending_windows and domain.bindings
            and domain.lower(right.size / left.right.size) < 1):
        return f'ascending_windows: the outer window {right.size} is smaller than the inner one {left.right.size}'
    return None


def complaints(signature: Signature, op: Operator) -> Iter[str]:
    """Every reason why a canonical operator with the space's shapes is outside, the cheap ones first."""
    limits, domain = signature.limits, signature.domain
    counts = primitives(op)
    views = ((p.limit, counts[p.name.lower()], getattr(limits, p.limit)) for p in VIEW_PRIMITIVES)
    for name, got, most in (('reductions', len(op.reductions), limits.reductions), ('weights', len(op.weights), limits.weights),
                            *views, ('repeats', repeats(op), limits.repeats), ('steps', steps(op), limits.steps)):
        if 0 <= most < got:
            yield f'{name}: the operator has {got}, the limit is {most}'
    if not op.weights:
        yield 'weights: the operator has none'
    for size in op.reductions:
        if not domain.reduction(size):
            yield f'reductions: {size} is not allowed: {domain.complaint(size) or "it is large and divides no input dimension"}'
    for node in op.nodes():
        if not isinstance(node, Iterator) and (complaint := node_complaint(signature, node)) is not None:
            yield complaint
    yield from _budget_complaints(signature, op)
    yield from _weight_complaints(signature, op)
    yield from _sum_complaints(signature, op)
    yield from signature.budgets.complaints(op)


def usage(op: Operator, variable: str, primary: bool) -> int:
    """Occurrences of a variable: in reductions, and of a primary variable also in weights."""
    counted: list[Size] = [*op.reductions]
    if primary:
        counted += [c.size for w in op.weights for c in w]
    return sum(abs(s.exponent(variable)) for s in counted)


def _budget_complaints(signature: Signature, op: Operator) -> Iter[str]:
    for variable in signature.variables:
        got = usage(op, variable.name, variable.primary)
        if got > variable.budget:
            yield (f'budget of {variable.name}: it occurs {got} times in reductions'
                   f'{" and weights" if variable.primary else ""}, the budget is {variable.budget}')


def _weight_complaints(signature: Signature, op: Operator) -> Iter[str]:
    domain, rules = signature.domain, signature.limits.heuristics
    for number, weight in enumerate(op.weights, 1):
        if domain.bindings:
            least = min(product(c.size for c in weight).ratio(b) for b in domain.bindings)
            if least < rules.min_weight:
                yield f'min_weight: w{number} has only {least} elements at some binding, the least is {rules.min_weight}'
        if rules.reducing_weights and not any(isinstance(leaf, Sum) for c in weight for leaf in c.iterators()):
            yield f'reducing_weights: w{number} indexes no reduction'
    if domain.bindings:
        outer = [c.size for c in dropped(op) if any(isinstance(leaf, Out) for leaf in c.iterators())]
        most = max(product(outer).ratio(b) for b in domain.bindings)
        if most > rules.max_outer:
            yield f'max_outer: weights alone provide {most} output positions, the limit is {rules.max_outer}'


def _sum_complaints(signature: Signature, op: Operator) -> Iter[str]:
    domain, rules = signature.domain, signature.limits.heuristics
    in_data = {leaf for c in op.inputs for leaf in c.iterators()}
    weighted = {leaf for w in op.weights for c in w for leaf in c.iterators()}
    unweighted = [s for s in op.sums() if s not in weighted]
    if domain.bindings and unweighted:
        most = max(product(s.size for s in unweighted).ratio(b) for b in domain.bindings)
        if most > rules.max_pooling:
            yield f'max_pooling: {most} values are summed without a weight, the limit is {rules.max_pooling}'
    for it in op.sums():
        if it not in in_data and not domain.rank(it.size):
            yield f'rank: only weights use a reduction of size {it.size}; allowed are {rules.min_rank} to {rules.max_rank}'
    if not rules.unweighted_windows:
        for node in op.nodes():
            if isinstance(node, Unfold) and node.right in unweighted:
                yield f'unweighted_windows: a window of size {node.right.size} is summed without a weight'


__all__ = ['Containment', 'affordable', 'canonical', 'complaints', 'contains', 'node_complaint', 'outside', 'usage']
