"""Properties that every operator has, checked on random ones."""
from __future__ import annotations

import copy
import itertools
import json
import os
import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from syno_nni.operator import Operator
from syno_nni.operator.expr import Sum, substitute
from syno_nni.operator.legality import check
from syno_nni.operator.reference import read_mask
from syno_nni.plan.layer import SynthesizedLayer

from ...testing.operators import arrays, brute_force, isomorphic, networks, operators

quick = settings(max_examples=60, deadline=None, derandomize=True,
                 suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@quick
@given(operators())
def test_formula_round_trip(drawn: tuple[Operator, dict[str, int]]) -> None:
    op, _ = drawn
    again = Operator.parse(str(op))
    assert (str(again), again.id) == (str(op), op.id)
    assert again == op and hash(again) == hash(op)
    assert again.structure == op.canonical.structure


@quick
@given(operators())
def test_json_round_trip_keeps_every_order(drawn: tuple[Operator, dict[str, int]]) -> None:
    op, _ = drawn
    again = Operator.from_json(json.dumps(op.to_dict()))
    assert again.structure == op.structure and again.id == op.id


@quick
@given(operators())
def test_copies_and_pickles_are_equal(drawn: tuple[Operator, dict[str, int]]) -> None:
    op, _ = drawn
    for again in (copy.copy(op), copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
        assert again.structure == op.structure and again.id == op.id


@quick
@given(st.data(), operators())
def test_isomorphic_operators_are_one(data: st.DataObject, drawn: tuple[Operator, dict[str, int]]) -> None:
    op, _ = drawn
    other = data.draw(isomorphic(op))
    assert (str(other), other.id) == (str(op), op.id)
    assert other == op


@quick
@given(st.data(), networks())
def test_isomorphic_networks_are_one(data: st.DataObject, op: Operator) -> None:
    other = data.draw(isomorphic(op))
    assert (str(other), other.id) == (str(op), op.id)


@quick
@given(networks(most=3), networks(most=3))
def test_networks_with_one_form_are_isomorphic(a: Operator, b: Operator) -> None:
    """Against brute force over all orders of the reductions."""
    def forms(op: Operator) -> set[tuple]:
        found = set()
        for order in itertools.permutations(range(len(op.reductions))):
            mapping = {s: Sum(order[s.index], s.size) for s in op.sums()}
            weights = [frozenset(substitute(c, mapping) for c in w) for w in op.weights]
            sizes = tuple(sorted((order[s.index], str(s.size)) for s in op.sums()))
            found.add((sizes, frozenset(Counter(weights).items())))
        return found
    assert (a == b) == bool(forms(a) & forms(b))


@quick
@given(operators())
def test_the_canonical_form_is_legal_and_a_fixed_point(drawn: tuple[Operator, dict[str, int]]) -> None:
    op, _ = drawn
    check(op.canonical)
    assert op.canonical.canonical.structure == op.canonical.structure


@quick
@given(operators())
def test_reference_equals_plain_loops(drawn: tuple[Operator, dict[str, int]]) -> None:
    op, sizes = drawn
    x, *weights = arrays(op, sizes)
    found = op.reference(x, weights, sizes)
    assert found.shape == op.output_shape(sizes) and found.dtype == np.float64
    np.testing.assert_allclose(found, brute_force(op, [x, *weights], sizes), rtol=1e-12, atol=1e-12)


@quick
@given(operators())
def test_the_loop_nest_runs_and_says_the_same(drawn: tuple[Operator, dict[str, int]]) -> None:
    op, sizes = drawn
    op = op.canonical
    x, *weights = arrays(op, sizes)
    out = np.zeros(op.output_shape(sizes))
    exec(op.loop_nest(), {**sizes, 'in_': x, 'out': out, **{f'w{n}': w for n, w in enumerate(weights, 1)}})
    np.testing.assert_allclose(out, op.reference(x, weights, sizes), rtol=1e-12, atol=1e-12)


@quick
@given(operators())
def test_permuted_weights_give_the_same_output(drawn: tuple[Operator, dict[str, int]]) -> None:
    """Weights in another order, each transposed: the reference follows the order of the operator it is asked for."""
    op, sizes = drawn
    x, *weights = arrays(op, sizes)
    turned = Operator(op.outputs, op.reductions, op.inputs, [w[::-1] for w in op.weights[::-1]])
    found = turned.reference(x, [w.T for w in weights[::-1]], sizes)
    np.testing.assert_allclose(found, op.reference(x, weights, sizes), rtol=1e-12, atol=1e-12)


@quick
@given(st.data(), operators())
def test_the_read_mask_is_what_an_output_depends_on(
        data: st.DataObject, drawn: tuple[Operator, dict[str, int]]) -> None:
    op, sizes = drawn
    position = tuple(data.draw(st.integers(0, n - 1)) for n in op.output_shape(sizes))
    x, *weights = (np.abs(a) for a in arrays(op, sizes))
    seen = read_mask(op, position, sizes)
    assert seen.shape == x.shape
    assert op.reference(np.where(seen, 0, x), weights, sizes)[position] == 0
    if seen.any():
        element = tuple(data.draw(st.sampled_from(list(np.argwhere(seen)))))
        single = np.zeros_like(x)
        single[element] = 1
        assert op.reference(single, weights, sizes)[position] > 0


@quick
@given(operators())
def test_costs_are_finite(drawn: tuple[Operator, dict[str, int]]) -> None:
    op, sizes = drawn
    assert op.macs(sizes) >= 0
    assert op.params(sizes) == sum(a.size for a in arrays(op, sizes)[1:])


def test_ids_do_not_depend_on_the_hash_seed() -> None:
    code = ('from syno_nni.operator.classics import CLASSICS\n'
            'print([(f().id, str(f())) for f in CLASSICS.values()])')
    found = {subprocess.run([sys.executable, '-c', code], env={**os.environ, 'PYTHONHASHSEED': seed}, check=True,
                            capture_output=True, text=True).stdout for seed in ('0', '1', '4242')}
    assert len(found) == 1


def test_a_pickle_is_equal_in_another_process() -> None:
    """Cached hashes must not travel: they depend on the process."""
    code = ('import pickle, sys\nfrom syno_nni import classics\n'
            'op = pickle.loads(sys.stdin.buffer.read())\n'
            'assert op == classics.operator_2() and op.inputs[1] in set(classics.operator_2().inputs)')
    from syno_nni.operator import classics
    subprocess.run([sys.executable, '-c', code], input=pickle.dumps(classics.operator_2()), check=True)


@quick
@given(operators())
@example((Operator.parse('out[n:N] = sum[r:k_1, i:k_1] in[n, unfold(r, i)//k_1]'), {'N': 2, 'k_1': 2}))
@example((Operator.parse('out[h:H, x:g] = sum[i:s] in[shift(unfold(x//g, i), -1)]'), {'H': 6, 'g': 1, 's': 2}))
@example((Operator.parse('out[n:N] = in[stride(n, s)]'), {'N': 1, 's': 2}))
@example((Operator.parse('out[x:g, y:g, z:g] = in[z*g + (unfold(x, y)%g), unfold(x, y)//g]'), {'g': 3}))
def test_the_layer_equals_the_reference(drawn: tuple[Operator, dict[str, int]]) -> None:
    op, sizes = drawn
    x, *weights = arrays(op, sizes)
    layer = SynthesizedLayer(op, sizes).double()
    with torch.no_grad():
        for parameter, weight in zip(layer.weights, weights):
            parameter.copy_(torch.from_numpy(weight))
        found = layer(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, op.reference(x, weights, sizes), rtol=1e-9, atol=1e-9)
