"""The semantic duplicate check: what it takes for the same family, and what not."""
from __future__ import annotations

import numpy as np
import pytest

import syno_nni as sn
from syno_nni.synthesis import semantics
from syno_nni.synthesis.semantics import redundancy, same_family, span_digest, terms, tiny_space

TINY = {'N': 1, 'C_in': 4, 'C_out': 4, 'H': 6, 'k_1': 3, 's': 2, 'g': 2}
HEAD = 'out[n:N, o:C_out, h:H] = '
CONV = 'sum[c:C_in, i:k_1] in[n, c, unfold(h, i)] * w1[o, c, i]'
LOW_RANK = 'sum[c:C_in, r:g] in[n, c, h] * w1[o, r] * w2[r, c]'

SAME = {
    'one weight, re-laid out': (CONV, 'sum[c:C_in, i:k_1] in[n, c, unfold(h, i)] * w1[c, i, o//s, o%s]'),
    'one weight, sums joined': (CONV, 'sum[r:s, c:C_in/s, i:k_1] in[n, r*(C_in/s) + c, unfold(h, i)] * w1[o, c, r, i]'),
    'two weights of which one is absorbed': (CONV, 'sum[c:C_in, i:k_1] in[n, c, unfold(h, i)] * w1[o, c, i] * w2[o]'),
    'two weights': (LOW_RANK, 'sum[c:C_in, r:s] in[n, c, h] * w1[r, o] * w2[c, r]'),
    'two weights of full rank': ('sum[c:C_in] in[n, c, h] * w1[o, c]', 'sum[c:C_in, r:C_in] in[n, c, h] * w1[o, r] * w2[r, c]'),
}
DIFFERENT = {
    'one weight, other window': (CONV, 'sum[c:C_in, i:k_1] in[n, c, shift(unfold(h, i), 1)] * w1[o, c, i]'),
    'one weight, fewer elements': (CONV, 'sum[c:C_in, i:k_1] in[n, c, unfold(h, i)] * w1[o, i]'),
    'one weight, shifted': ('sum[c:C_in] in[n, c, h] * w1[o, c]', 'sum[c:C_in] in[n, c, shift(h, 1)] * w1[o, c]'),
    'same span, lower rank': ('sum[c:C_in] in[n, c, h] * w1[o, c]', LOW_RANK),
    'same span, other rank': (LOW_RANK, 'sum[c:C_in, r:k_1] in[n, c, h] * w1[o, r] * w2[r, c]'),
    'same span, other sharing': ('sum[c:C_in, i:k_1] in[n, c, unfold(h, i)] * w1[o, c] * w2[o, i]',
                                 'sum[c:C_in, i:k_1] in[n, c, unfold(h, i)] * w1[o, c] * w2[c, i]'),
}


def operators(pair: tuple[str, str]) -> list[sn.Operator]:
    return [sn.Operator.parse(HEAD + text) for text in pair]


@pytest.mark.parametrize('name', SAME)
def test_duplicates_are_found(name: str) -> None:
    first, second = operators(SAME[name])
    assert first != second or str(first) == str(second)
    assert same_family(first, second, [TINY]) and same_family(second, first, [TINY])


@pytest.mark.parametrize('name', DIFFERENT)
def test_different_families_are_kept(name: str) -> None:
    first, second = operators(DIFFERENT[name])
    assert not same_family(first, second, [TINY]) and not same_family(second, first, [TINY])


@pytest.mark.parametrize('text', [CONV, LOW_RANK, DIFFERENT['same span, other sharing'][0]])
def test_terms_are_what_the_reference_sums(text: str) -> None:
    op = sn.Operator.parse(HEAD + text)
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(s) for s in op.weight_shapes(TINY)]
    x = rng.standard_normal(op.input_shape(TINY))
    found = terms(op, TINY)
    rows, columns = np.divmod(found.points, found.shape[1])
    products = np.prod([w.ravel()[e] for w, e in zip(weights, found.elements)], axis=0) * x.ravel()[columns]
    out = np.bincount(rows, products, found.shape[0])
    np.testing.assert_allclose(out.reshape(op.output_shape(TINY)), op.reference(x, weights, TINY), atol=1e-12)


def test_a_duplicate_must_be_one_at_every_binding() -> None:
    first, second = operators(SAME['two weights'])
    assert not same_family(first, second, [TINY, {**TINY, 'C_in': 6, 'C_out': 6, 'g': 3}])


def test_groups_of_duplicates_are_listed() -> None:
    ops = operators(SAME['one weight, re-laid out']) + operators(DIFFERENT['one weight, other window'])[1:]
    found = redundancy(ops, [TINY])
    assert found.operators == 3 and found.duplicates == 1 and [len(g) for g in found.groups] == [2]
    assert span_digest(terms(ops[0], TINY)) == span_digest(terms(ops[1], TINY))


@pytest.mark.parametrize('preset', ['linear', 'depthwise'])
def test_short_operators_have_no_duplicates(preset: str) -> None:
    space = tiny_space(preset)
    assert redundancy(space.enumerate(3), space.bindings).duplicates == 0


def test_the_tool_reports(capsys: pytest.CaptureFixture[str]) -> None:
    assert semantics.main(['--preset', 'linear', '--max-steps', '3']) == 0
    assert 'operators of at most 3 steps in tiny linear: 0 duplicates' in capsys.readouterr().out
