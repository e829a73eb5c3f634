from __future__ import annotations

import random

import pytest

from syno_nni.operator import Operator
from syno_nni.operator.canonical import total_key
from syno_nni.operator.expr import Out, Sum
from syno_nni.operator.size import Size

N, G = Size.parse('N'), Size.parse('g')
SYMMETRIC = {
    'no weight at all': (16, []),
    'eight pairs': (16, [(2 * i, 2 * i + 1) for i in range(8)]),
    'a cycle': (8, [(i, (i + 1) % 8) for i in range(8)]),
    'two cycles': (8, [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4)]),
    'facets of the 4-cube': (16, [[v for v in range(16) if (v >> d & 1) == b] for d in range(4) for b in range(2)]),
    'hyperplanes': (16, [[v for v in range(16) if bin(v & m).count('1') % 2] for m in (1, 2, 4, 8, 3, 5, 9, 15)]),
    'the Fano plane': (7, [(0, 1, 2), (0, 3, 4), (0, 5, 6), (1, 3, 5), (1, 4, 6), (2, 3, 6), (2, 4, 5)]),
    'all in all': (16, [range(16)] * 8),
    'a grid': (16, [range(4 * i, 4 * i + 4) for i in range(4)] + [range(j, 16, 4) for j in range(4)]),
    'rotations': (16, [[(2 * i + d) % 16 for d in (0, 1, 3, 7)] for i in range(8)]),
}


def network(count: int, weights: list, seed: int | None = None) -> Operator:
    """Reductions of one size that meet in weights only; shuffled when there is a seed."""
    names, rng = list(range(count)), random.Random(seed)
    if seed is not None:
        rng.shuffle(names)
        weights = [rng.sample(list(w), len(w)) for w in rng.sample(weights, len(weights))]
    return Operator([N], [G] * count, [Out(0, N)], [[Sum(names[i], G) for i in w] for w in weights])


@pytest.mark.parametrize('name', SYMMETRIC)
@pytest.mark.timeout(20)
def test_symmetric_networks_have_one_form_and_end_soon(name: str) -> None:
    op = network(*SYMMETRIC[name])
    for seed in range(3):
        other = network(*SYMMETRIC[name], seed=seed)
        assert (other.id, str(other)) == (op.id, str(op)) and total_key(other) == total_key(op)


def test_networks_that_refinement_cannot_tell_apart() -> None:
    """One cycle of eight and two of four: every reduction sees the same from where it stands."""
    assert network(*SYMMETRIC['a cycle']) != network(*SYMMETRIC['two cycles'])


@pytest.mark.parametrize(('a', 'b'), [
    # the order of outputs and of input coordinates is meaning
    ('out[h:H, w:H] = in[h, w]', 'out[h:H, w:H] = in[w, h]'),
    ('out[h:H] = sum[r:g, a:g] in[r, a, h] * w1[r]', 'out[h:H] = sum[r:g, a:g] in[r, a, h] * w1[a]'),
    # so is which reductions are equal
    ('out[h:H] = sum[r:g, a:g] in[h] * w1[r] * w2[a]', 'out[h:H] = sum[r:g] in[h] * w1[r] * w2[r]'),
    ('out[h:H] = sum[r:g, a:s] in[h] * w1[r, a]', 'out[h:H] = sum[r:g, a:g] in[h] * w1[r, a]'),
    # and the order inside a coordinate
    ('out[h:H] = sum[r:g, a:g] in[h] * w1[r*g + a]', 'out[h:H] = sum[r:g, a:g] in[h] * w1[r, a]'),
    ('out[h:H, w:H] = in[unfold(h, w)]', 'out[h:H, w:H] = in[unfold(w, h)]'),
    ('out[h:H] = in[shift(h, 1)]', 'out[h:H] = in[shift(h, -1)]'),
])
def test_different_operators_stay_different(a: str, b: str) -> None:
    assert Operator.parse(a) != Operator.parse(b)
    assert Operator.parse(a).id != Operator.parse(b).id


def test_the_given_order_is_kept_beside_the_canonical_one() -> None:
    op = Operator.parse('out[o:C_out] = sum[a:g, c:C_in] in[c] * w1[a, o] * w2[c, a]')
    sizes = {'C_out': 2, 'C_in': 3, 'g': 5}
    assert op.weight_shapes(sizes) == ((5, 2), (3, 5))
    assert op.canonical.weight_shapes(sizes) == ((2, 5), (3, 5))
    assert op == op.canonical and op.structure != op.canonical.structure
