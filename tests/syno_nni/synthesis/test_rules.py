"""Every canonicalization rule keeps its law: the family of functions before and after is the same, by definition."""
from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

import syno_nni as sn
from syno_nni.errors import SynoError
from syno_nni.operator.legality import check
from syno_nni.operator.size import Size
from syno_nni.synthesis.rules import EXACT, PERMUTATION, RULES, Context, Rule, normalize
from syno_nni.synthesis.semantics import Terms, dimension, fits, span_digest, terms

from ...testing.operators import BLOCKS
from ...testing.operators import SIZES as EXTENTS
from ...testing.random_operators import SIZES, grow, random_operator

TINY = {'N': 1, 'C_in': 4, 'C_out': 4, 'H': 4, 'k_1': 3, 'k_2': 5, 's': 2, 'g': 3}
WIDE = {**TINY, 'C_in': 8, 'C_out': 8, 'H': 8}
SIX = {**TINY, 'C_in': 6, 'C_out': 6, 'H': 2}
COEFFICIENTS = frozenset(('k_1', 'k_2', 's', 'g'))
HEAD = 'out[n:N, o:C_out, h:H] = '

# What a rule applies to: the formula without its left side, and the binding.
EXAMPLES: dict[str, list[tuple[str, dict[str, int]]]] = {
    'equal-sizes': [('sum[c:C_in, i:s] in[n, c, unfold(h, i)] * w1[o, c, i]', {**TINY, 's': 3}),
                    ('sum[c:C_in, r:C_out/s] in[n, c, h] * w1[o, r] * w2[c, r]', TINY)],
    'trivial-view': [('sum[c:C_in] in[n, c, h] * w1[o%C_out, c]', TINY),
                     ('sum[c:C_in, i:1] in[n, c, unfold(h, i)] * w1[o, c, i]', TINY),
                     ('sum[c:C_in, i:1] in[n, c*1 + i, stride(h, 1)] * w1[o//1, c]', TINY)],
    'split-of-halves': [('sum[c:C_in] in[n, c, (h//s)*s + h%s] * w1[o, c, h//s]', TINY)],
    'split-associates': [('sum[a:s, b:s, c:C_in/s^2] in[n, (a*s + b)*(C_in/s^2) + c, h] * w1[o, a, c]', WIDE)],
    'merge-associates': [('sum[c:C_in] in[n, c, (h%s)*(H/s) + (((h//s)%s)*(H/s^2) + (h//s)//s)] * w1[o, c]', WIDE),
                         ('sum[c:C_in] in[n, c, h] * w1[o, c, (h//s)//s]', WIDE)],
    'remainder-of-remainder': [('sum[c:C_in] in[n, c, h] * w1[o, c, (h%(s^2))%s]', WIDE)],
    'merge-of-split': [('sum[c:C_in, a:H/s, r:s^2] in[n, c, (a*s^2 + r)//s] * w1[o, c, a, h]', TINY),
                       ('sum[c:C_in, a:H, r:s] in[n, c, (a*s + r)//s] * w1[o, c, r, h]', TINY),
                       ('sum[c:C_in, r:s] in[n, c, ((h*s + r)%(s^2))*(H/s) + (h*s + r)//(s^2)] * w1[o, c]', TINY)],
    'shift-of-shift': [('sum[c:C_in] in[n, c, shift(shift(h, 1), 2)] * w1[o, c]', TINY),
                       ('sum[c:C_in] in[n, c, shift(h, 0)] * w1[o, c]', TINY)],
    'stride-of-stride': [('sum[c:C_in, a:H/s^2] in[n, c, stride(stride(a, s), s)] * w1[o, c, a, h]', WIDE)],
    'weight-layout': [('sum[c:C_in] in[n, c, h] * w1[o*C_in + c, shift(h, 1)]', TINY),
                      ('sum[c:C_in] in[n, c, h] * w1[stride(o, s), c]', TINY)],
    'weight-halves': [('sum[c:C_in] in[n, c, h] * w1[o//s, o%s, c]', TINY),
                      ('sum[c:C_in] in[n, c, h] * w1[o//s^2, (o%s^2)//s, c]', WIDE)],
    'weight-remainder': [('sum[c:C_in] in[n, c, h] * w1[o, c, shift(h, 1)%s]', TINY),
                         ('sum[c:C_in, r:s] in[n, c, shift(h*s + r, 1)//s] * w1[o, c, shift(h*s + r, 1)%s]', TINY)],
    'weight-digits': [('sum[c:C_in/s] in[n, (o//(C_out/s))*(C_in/s) + c, h] * w1[c, o//s]', WIDE)],
    'weight-absorbed': [('sum[c:C_in] in[n, c, h] * w1[o, c] * w2[o]', TINY),
                        ('sum[c:C_in] in[n, c, h] * w1[o, c] * w2[o//s, c]', TINY)],
    'full-rank': [('sum[c:C_in, r:C_out] in[n, c, h] * w1[o, r] * w2[r, c]', SIX),
                  ('sum[c:C_in, r:s*k_1] in[n, c, h] * w1[r, o%s] * w2[r, c]', TINY)],
    'unused-sum': [('sum[c:C_in, r:g] in[n, c, h] * w1[o, c]', TINY)],
    'sum-in-one-weight': [('sum[c:C_in, r:g] in[n, c, h] * w1[o, c, r]', TINY),
                          ('sum[c:C_in, r:g] in[n, c, h] * w1[o, r] * w2[c, h]', TINY)],
    'shift-of-sum': [('sum[c:C_in] in[n, shift(c, 1), h] * w1[o, c]', TINY),
                     ('sum[c:C_in] in[n, shift(c, 1), h] * w1[o, h]', TINY)],
    'sum-of-halves': [('sum[c:C_in] in[n, (c%s)*(C_in/s) + c//s, h] * w1[o, c]', TINY),
                      ('sum[c:C_in] in[n, (c%s)*(C_out/s) + o//s, h] * w1[o]', TINY)],
    'sum-in-digits': [('sum[c:C_in] in[n, c, h] * w1[o, c%s]', TINY),
                      ('sum[c:C_in] in[n, c, h] * w1[c, h] * w2[o, c//s]', TINY)],
    'joint-sums': [('sum[r:s, c:C_in/s] in[n, r*(C_in/s) + c, h] * w1[o, r, c]', TINY),
                   ('sum[c:C_in, a:s, b:g] in[n, c, h] * w1[o, a, b] * w2[c, a, b]', TINY)],
    'shift-of-unordered-input': [('sum[i:k_1] in[n, shift(o, 1), unfold(h, i)] * w1[o, i]', TINY),
                                 ('in[n, (o//s)*s + shift(o%s, 1), h] * w1[o//s]', TINY)],
    'shift-of-unordered-output': [('sum[i:k_1] in[n, shift(o, 1), unfold(h, i)] * w1[o, i]', TINY),
                                  ('in[n, shift(o//s, 1)*s + o%s, h] * w1[o]', TINY)],
    'factors-of-unordered-input': [('sum[c:C_in/s] in[n, c*s + o//(C_out/s), h] * w1[o, c]', TINY),
                                   ('sum[c:C_in/s, r:s] in[n, c*s + r, h] * w1[o, c, r] * w2[r, h]', SIX)],
    'factors-of-unordered-output': [('sum[c:C_in/s] in[n, (o%s)*(C_in/s) + c, h] * w1[c, o//s]', TINY),
                                    ('in[n, o%s, h] * w1[o//s]', SIX)],
}


def context_of(rule: Rule, sizes: dict[str, int]) -> Context:
    return Context((sizes,), frozenset({1}) if 'input' in rule.name else frozenset(),
                   frozenset({1}) if 'output' in rule.name else frozenset(), COEFFICIENTS)


def same(a: Terms, b: Terms) -> bool:
    """Whether two families are the same: the spans are, and where there are several weights, each fits the other."""
    if a.shape != b.shape or span_digest(a) != span_digest(b):
        return False
    if max(len(a.sizes), len(b.sizes)) < 2:
        return True
    return dimension(a) == dimension(b) and fits(a, b) and fits(b, a)


def relabelled(op: sn.Operator, found: Terms, sizes: dict[str, int], context: Context) -> Iterator[Terms]:
    """The family under every permutation of the dimensions that have no order."""
    shapes = (*op.output_shape(sizes), *op.input_shape(sizes))
    places = [*context.unordered_outputs, *(len(op.outputs) + p for p in context.unordered_inputs)]
    index = np.unravel_index(found.points, shapes)
    for chosen in itertools.product(*(itertools.permutations(range(shapes[p])) for p in places)):
        moved = list(index)
        for place, order in zip(places, chosen):
            moved[place] = np.array(order)[moved[place]]
        yield Terms(np.ravel_multi_index(moved, shapes), found.elements, found.sizes, found.shape,
                    found.extents)


def keeps_its_law(rule: Rule, op: sn.Operator, other: sn.Operator, sizes: dict[str, int], context: Context) -> bool:
    before, after = terms(op, sizes), terms(other, sizes)
    if rule.kind == EXACT:
        return same(before, after)
    digest = span_digest(after)
    return any(span_digest(each) == digest and same(each, after) for each in relabelled(op, before, sizes, context))


def test_every_rule_has_examples() -> None:
    assert {r.name for r in RULES} == EXAMPLES.keys()
    assert all(r.kind in (EXACT, PERMUTATION) and r.law for r in RULES)


@pytest.mark.parametrize('rule', RULES, ids=lambda r: r.name)
def test_a_rule_keeps_its_law(rule: Rule) -> None:
    for text, sizes in EXAMPLES[rule.name]:
        op = sn.Operator.parse(HEAD + text)
        context = context_of(rule, sizes)
        other = rule.apply(op, context)
        assert other is not None, f'{rule.name} does not apply to {text}'
        check(other)
        assert other.structure != op.structure
        assert keeps_its_law(rule, op, other, sizes, context), f'{op} is not {other}'


# What a rule must leave as it is: in some tensor a coordinate would be used twice, or a window or a value would be lost.
KEPT: dict[str, list[tuple[str, str]]] = {
    'trivial-view': [('out[n:N, y:3]', 'in[n, y//3, y%3]'), ('out[n:N, y:3]', 'in[n, y//1, y%1]'),
                     ('out[n:N, x:1, y:3]', 'in[n, y] * w1[unfold(x, y)]'),
                     ('out[n:N, x:1, y:3, z:2]', 'in[n, unfold(x, y)*2 + z]'),
                     ('out[n:N, x:1, y:3, z:2]', 'in[n, z*1 + unfold(x, y)]'),
                     ('out[n:N, x:1, y:3, z:2]', 'in[n, unfold(z, unfold(x, y))]')],
    'merge-of-split': [('out[n:N, x:3, y:3, z:2]', 'in[n, (z*3 + unfold(x, y))//3]'),
                       ('out[n:N, x:3, y:3, z:2]', 'in[n, (unfold(x, y)*2 + z)%2]'),
                       ('out[n:N, x:3, y:3, z:4]', 'in[n, (unfold(x, y)*4 + z)%2]')],
    'remainder-of-remainder': [('out[n:N, x:6]', 'in[n, (x%3)%2]')],
    'weight-remainder': [('out[n:N, x:4]', 'in[n] * w1[shift(x, 1)//2, shift(x, 1)%2]'),
                         ('out[n:N, x:3, y:2]', 'in[n] * w1[shift(x*2 + y, 1)%2, shift(x*2 + y, 1)//2]'),
                         ('out[n:N, x:3, y:3, z:2]', 'in[n] * w1[shift(unfold(x, y)*2 + z, 1)%2]'),
                         ('out[n:N, x:3]', 'in[n, x] * w1[shift(x, 1)%2]')],
    'weight-digits': [('out[n:N, x:6]', 'in[n, x%4] * w1[x//2]'), ('out[n:N, x:6]', 'in[n, x//2] * w1[(x%3)%2]')],
    'shift-of-sum': [('out[n:N, x:3]', 'sum[r:3] in[n, r] * w1[unfold(x, shift(r, 1))]'),
                     ('out[n:N, x:3]', 'sum[r:4] in[n, r] * w1[x, shift(r, 1)//2]')],
    'sum-of-halves': [('out[n:N, x:3]', 'sum[r:3] in[n, r%2] * w1[x]')],
    'sum-in-digits': [('out[n:N, x:3]', 'sum[r:3] in[n, r%2] * w1[x, r]')],
    'shift-of-unordered-output': [('out[n:N, x:3]', 'in[n, shift(x%2, 1)] * w1[x]')],
    'factors-of-unordered-output': [('out[n:N, x:6]', 'in[n, x] * w1[x//2]'), ('out[n:N, x:6]', 'in[n, x//3] * w1[x%4]'),
                                    ('out[n:N, x:3, y:2]', 'in[n, x%2, y]')],
}


@pytest.mark.parametrize('name', KEPT)
def test_what_a_rule_leaves_as_it_is(name: str) -> None:
    rule = next(r for r in RULES if r.name == name)
    for head, text in KEPT[name]:
        op = sn.Operator.parse(f'{head} = {text}')
        for context in (context_of(rule, SIZES), replace(context_of(rule, SIZES), bindings=())):
            assert rule.apply(op, context) is None, f'{rule.name}: {op}'


def small(op: sn.Operator, sizes: dict[str, int]) -> bool:
    """Whether families of operators of this size are compared in milliseconds."""
    return op.params(sizes) <= 200 and int(np.prod([it.size.value(sizes) for it in op.iterators()])) <= 400


def stays_legal(op: sn.Operator, other: sn.Operator, sizes: dict[str, int], how: str) -> None:
    try:
        check(other)
        other.check_sizes(sizes)
    except SynoError as error:
        pytest.fail(f'{how}: {op} becomes illegal: {error}')


def alike(op: sn.Operator, other: sn.Operator, sizes: dict[str, int]) -> bool:
    """Whether the invariants of two families are the same, which decides where there is one weight; fits take long."""
    before, after = terms(op, sizes), terms(other, sizes)
    if span_digest(before) != span_digest(after):
        return False
    return max(len(op.weights), len(other.weights)) < 2 or sum(before.sizes) > 100 or dimension(before) == dimension(after)


def few_channels(op: sn.Operator, rule: Rule, sizes: dict[str, int]) -> bool:
    """Whether all permutations of the dimensions that `context_of` leaves unordered can be tried."""
    shape = op.input_shape(sizes) if 'input' in rule.name else op.output_shape(sizes)
    return len(shape) > 1 and shape[1] <= 4


@pytest.mark.parametrize('part', range(4))
@pytest.mark.parametrize('ragged', [False, True], ids=['', 'ragged'])
def test_rules_keep_their_laws_in_any_order(part: int, ragged: bool) -> None:
    """On the wildest legal operators, whichever rule comes first."""
    applied: Counter[str] = Counter()
    for seed in range(part, 900, 4):
        op = random_operator(seed, ragged=ragged)
        if not small(op, SIZES):
            continue
        rng = random.Random(seed)
        bindings = rng.choice([(), (SIZES,)])
        for _ in range(12):
            for rule in rng.sample(RULES, len(RULES)):
                if rule.kind == PERMUTATION and not few_channels(op, rule, SIZES):
                    continue
                context = replace(context_of(rule, SIZES), bindings=bindings)
                if (other := rule.apply(op, context)) is not None:
                    break
            else:
                break
            applied[rule.name] += 1
            stays_legal(op, other, SIZES, rule.name)
            assert alike(op, other, SIZES) if rule.kind == EXACT else keeps_its_law(rule, op, other, SIZES, context), (
                f'{rule.name}: {op} is not {other}')
            op = other
    assert applied.total() > 400 and len(applied) > 18, applied


@pytest.mark.parametrize('ragged', [False, True], ids=['', 'ragged'])
def test_normal_forms_are_legal_and_final(ragged: bool) -> None:
    channels = frozenset({1})
    compared = 0
    for seed in range(400):
        op = random_operator(seed, ragged=ragged)
        for context in (Context(), Context((SIZES,)), Context((SIZES,), channels, channels)):
            if context.unordered_inputs and min(len(op.inputs), len(op.outputs)) < 2:
                continue
            done = normalize(op, context)
            stays_legal(op, done, SIZES, 'normalize')
            assert normalize(done, context).structure == done.structure
            if small(op, SIZES) and not context.unordered_inputs:
                compared += 1
                assert alike(op, done, SIZES), f'{op} is not {done}'
    assert compared > 100


# Odd and even windows, sizes that are equal at one of them, and blocks of all or of one.
SYMBOLIC = [Context((sizes,), coefficients=COEFFICIENTS) for sizes in (
    {'N': 1, 'C_in': 4, 'C_out': 4, 'H': 4, 'W': 3, 'k_1': 3, 'k_2': 2, 's': 2, 'g': 2},
    {'N': 2, 'C_in': 6, 'C_out': 3, 'H': 3, 'W': 1, 'k_1': 1, 'k_2': 5, 's': 1, 'g': 3})]


def functions(op: sn.Operator, data: np.ndarray, sizes: dict[str, int]) -> np.ndarray:
    """What an operator of at most one weight makes of ``data`` by its definition, one column for each weight element."""
    if not op.weights:
        return op.reference(data, [], sizes).reshape(-1, 1)
    shape, = op.weight_shapes(sizes)
    units = np.eye(int(np.prod(shape, dtype=int)))
    return np.stack([op.reference(data, [unit.reshape(shape)], sizes).ravel() for unit in units], axis=1)


@pytest.mark.parametrize('context', SYMBOLIC, ids=['even', 'odd'])
def test_normal_forms_compute_the_same_by_definition(context: Context) -> None:
    """Every function of the operator is one of its normal form, and the other way round."""
    sizes = dict(context.bindings[0])
    compared = 0
    for seed in range(300):
        op = grow(random.Random(seed), sizes, EXTENTS, BLOCKS, batch=Size.of('N'), most_weights=2, ragged=bool(seed % 2))
        if op.params(sizes) > 60:
            continue
        done = normalize(op, context if seed % 4 else Context())
        stays_legal(op, done, sizes, 'normalize')
        if len(op.weights) > 1 or len(done.weights) != len(op.weights):
            continue
        compared += 1
        data = np.random.default_rng(seed).standard_normal(op.input_shape(sizes))
        before, after = functions(op, data, sizes), functions(done, data, sizes)
        if not op.weights:
            np.testing.assert_allclose(after, before, atol=1e-9, err_msg=f'{op} is not {done}')
            continue
        for family, members in ((before, after), (after, before)):
            fitted = family @ np.linalg.lstsq(family, members, rcond=None)[0]
            np.testing.assert_allclose(fitted, members, atol=1e-8, err_msg=f'{op} is not {done}')
    assert compared > 40


def test_normalizing_names_the_rules_that_fired() -> None:
    trace: list[str] = []
    op = sn.Operator.parse(HEAD + 'sum[r:s, c:C_in/s] in[n, r*(C_in/s) + c, shift(shift(h, 1), 2)] * w1[o, r, c]')
    done = normalize(op, Context((TINY,)), trace)
    assert set(trace) == {'joint-sums', 'shift-of-shift'}
    assert str(done) == HEAD + 'sum[c:C_in] in[n, c, shift(h, 3)] * w1[o, c]'


def test_digits_with_another_between_them_keep_one_merge() -> None:
    """Flattened, they would be halves of two different Merges of one coordinate, which no primitive makes."""
    head = HEAD + 'sum[c:C_in, i:k_1] in[n, c, unfold(h, i)] * w1[o, c] * w2[i, '
    nested = head + 'o//(s^2), (o%(s^2))%s]'
    for formula in (nested, head + '(o//s)//s, o%s]'):
        canonical = normalize(sn.Operator.parse(formula), Context())
        assert sn.Operator.parse(str(canonical)) == canonical == sn.Operator.parse(nested)
