from __future__ import annotations

from collections import OrderedDict
from typing import NoReturn

import numpy as np
import pytest
import torch

import syno_nni as sn
from syno_nni.operator import classics
from syno_nni.operator.concrete import free_batch
from syno_nni.plan import optimize
from syno_nni.plan.builder import Unreachable
from syno_nni.plan.lowering import Lowering
from syno_nni.plan.optimize import plans

from ...testing.published import BINDING, NAMES, expected, graph, operator, with_artifact
from ...testing.random_operators import SIZES as RANDOM_SIZES
from ...testing.random_operators import random_operator

SIZES = {'N': 2, 'C_in': 8, 'C_out': 4, 'H': 6, 'W': 10, 'k_1': 3, 'k_2': 5, 's': 2, 'g': 2}
CONV = ('out[n:N, o:C_out, h:H, w:W] = sum[c:C_in, i:k_1, j:k_1] '
        'in[n, c, unfold(h,i), unfold(w,j)] * w1[o, c, i, j]')
FORMULAS = {
    'conv': CONV,
    'grouped': 'out[n:N, o:C_out, h:H, w:W] = sum[c:C_in/g, i:k_1] '
               'in[n, (o//(C_out/g))*(C_in/g) + c, unfold(h,i), w] * w1[o, c, i]',
    'depthwise': 'out[n:N, o:C_in, h:H, w:W] = sum[i:k_1, j:k_2] in[n, o, unfold(h,i), unfold(w,j)] * w1[o, i, j]',
    'even window': 'out[n:N, o:C_out, h:H, w:W] = sum[c:C_in, i:s, j:s^2] '
                   'in[n, c, unfold(h,i), unfold(w,j)] * w1[o, c, i, j]',
    'box': 'out[n:N, o:C_out, h:H, w:W] = sum[c:C_in, i:k_1, j:s] in[n, c, unfold(h,i), unfold(w,j)] * w1[o, c]',
    'average pooling': 'out[n:N, o:C_in, h:H, w:W] = sum[i:k_1, j:k_1] in[n, o, unfold(h,i), unfold(w,j)]',
    'nested windows': 'out[n:N, o:C_out, h:H, w:W] = sum[c:C_in, i:k_1, j:k_2] '
                      'in[n, c, unfold(unfold(h,i),j), w] * w1[o, c, i, j]',
    'strided': 'out[n:N, o:C_out, h:H, w:W] = sum[c:C_in, i:k_1] '
               'in[n, c, unfold(stride(h, s), i), stride(w, s)] * w1[o, c, i]',
    'linear': 'out[n:N, t:W, o:C_out] = sum[c:C_in] in[n, t, c] * w1[o, c]',
    'grouped linear': 'out[n:N, t:W, o:C_out] = sum[c:C_in/g] in[n, t, (o//(C_out/g))*(C_in/g) + c] * w1[o, c]',
    'token convolution': 'out[n:N, t:W, o:C_out] = sum[c:C_in, i:k_1] in[n, unfold(t, i), c] * w1[o, c, i]',
    'scale': 'out[n:N, o:C_in, h:H, w:W] = in[n, o, h, w] * w1[o]',
    'outer': 'out[n:N, o:C_out, h:H, w:W] = in[n, h, w] * w1[o]',
    'repeat': 'out[n:N, o:C_in*s, h:H, w:W] = in[n, o//s, h, w]',
    'unused reduction': 'out[n:N, o:C_in, h:H, w:W] = sum[i:k_1] in[n, o, h, w]',
    'half of a reduction': 'out[n:N, o:C_in/s, h:H, w:W] = sum[i:C_in*s] in[n, i//s, h, w] * w1[o, i//s]',
    'expanded output': 'out[n:N, o:C_out, h:H, w:W] = sum[c:C_in] in[n, c, h, w]',
    'weight with a window': 'out[n:N, o:C_out, h:H, w:W] = sum[c:C_in, i:k_1] in[n, c, h, unfold(w,i)] * '
                            'w1[o, c, unfold(w,i)]',
    'three weights': 'out[n:N, o:C_out, h:H, w:W] = sum[c:C_in, d:g, e:k_2, i:k_1] '
                     'in[n, c, unfold(h,i), w] * w1[c, d] * w2[d, e, i] * w3[e, o]',
    'window split three ways': 'out[n:N, o:C_out, h:H, w:W] = sum[c:C_in, i:s, j:k_1, p:s] '
                               'in[n, c, unfold(h, (i*k_1 + j)*s + p), w] * w1[o, c, j]',
    'batch in a weight': 'out[n:N, o:C_out, h:H, w:W] = sum[c:C_in] in[n, c, h, w] * w1[n, o, c]',
    'no batch': 'out[o:C_out, h:H, w:W] = sum[c:C_in, i:k_1] in[c, h, unfold(w,i)] * w1[o, c, i]',
    'three windows': 'out[n:N, o:C_out, h:H, w:W] = sum[c:C_in/s, i:k_1, j:k_1, p:k_1] '
                     'in[n, c*s + (h%s), unfold(h//s,i), unfold(w,j)] * w1[o, c, i, j, p]',
}


def error(got: torch.Tensor, want: np.ndarray) -> float:
    return float(np.linalg.norm(got.detach().numpy() - want) / max(np.linalg.norm(want), 1e-30))


def arrays(op: sn.Operator, sizes: dict[str, int], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s) for s in (op.input_shape(sizes), *op.weight_shapes(sizes))]


def check_every_plan(op: sn.Operator, sizes: dict[str, int]) -> None:
    """All plans against the definition, in float64, at the binding's batch size and another."""
    x, *weights = arrays(op, sizes)
    want = op.reference(x, weights, sizes)
    tensors = [torch.from_numpy(a) for a in (x, *weights)]
    found = plans(op, sizes)
    assert found
    axis = batch.index if (batch := free_batch(op)) else 0
    for plan in found:
        assert plan.program(tensors[0], tensors[1:]).shape == want.shape
        assert error(plan.program(tensors[0], tensors[1:]), want) < 1e-9, f'{op}\n{plan}'
        before, rest, kept = plan.program.split()
        assert error(rest(tensors[0], before.constants(tensors[1:], kept)), want) < 1e-9, f'folded: {op}\n{plan}'
        if plan.batch:
            for size in (1, 3):
                other = torch.cat([tensors[0]] * 3)[:size]
                wide = np.take(np.concatenate([want] * 3, axis), range(size), axis)
                assert error(plan.program(other, tensors[1:]), wide) < 1e-9, f'batch {size}: {op}\n{plan}'


@pytest.mark.parametrize('name', NAMES)
def test_published_operators(name: str) -> None:
    check_every_plan(operator(name), BINDING)


@with_artifact
@pytest.mark.parametrize('name', NAMES)
def test_published_operators_give_the_published_results(name: str) -> None:
    (x, *weights), want = expected(name)
    layer = sn.SynthesizedLayer(sn.read_graph_dot(graph(name)), BINDING).double()
    with torch.no_grad():
        for parameter, array in zip(layer.weights, weights):
            parameter.copy_(torch.from_numpy(array))
    assert error(layer(torch.from_numpy(x)), want) < 1e-9
    assert error(layer.fuse()(torch.from_numpy(x)), want) < 1e-9


def test_a_split_of_digits_that_another_weight_has_whole() -> None:
    op = sn.Operator.parse('out[] = sum[r:3, a:g, c:C_in/g] in[(shift(r*g + a, -7)//k_1)*k_1 + (shift(r*g + a, -7)%k_1)]'
                           ' * w1[r] * w2[r*g + a] * w3[shift(r*g + a, -7)]')
    check_every_plan(op, {'C_in': 4, 'k_1': 2, 'g': 2})


@pytest.mark.parametrize('formula', [
    # The high part has a window, which counts although the remainder drops it.
    'out[n:N, x:6, y:6] = sum[r:3, a:3] in[n, (unfold(r, y)*3 + unfold(a, x))%3]',
    # One operand has both halves of the Merge, the other one of them.
    'out[n:N, x:2] = sum[i:2] in[n, unfold((x*2 + i)%2, (x*2 + i)//2)]'
    ' * w1[unfold((x*2 + i)%2, (x*2 + i)//2)] * w2[(x*2 + i)%2]',
])
def test_halves_of_a_merge(formula: str) -> None:
    check_every_plan(sn.Operator.parse(formula), {'N': 2})


def test_a_grouped_convolution_whose_weight_has_the_whole_output_channel() -> None:
    """The data has the group of the channel only: it must not be repeated for every channel of the group."""
    sizes = {'N': 1, 'C_in': 64, 'C_out': 128, 'H': 12, 'k_1': 3, 'g': 32}
    op = classics.grouped_conv2d()
    check_every_plan(op, {**sizes, 'H': 4})
    steps = plans(op, sizes)[0].program.split()[1].steps
    assert [step.kind for step in steps] == ['conv']


def test_no_plan_makes_a_product_of_weights_that_takes_seconds() -> None:
    """Weights are folded once in the deploy form, but in every step of training before it."""
    op = classics.low_rank_linear()
    large, small = ({'N': 1, 'T': 1, 'C_in': n, 'C_out': m, 's': 2} for n, m in ((25088, 4096), (2508, 409)))
    assert plans(op, large)[0].folding_macs == 0
    assert plans(op, small)[0].folding_macs > 0  # and cheap, and better in the deploy form
    assert plans(op, large)[0].macs == op.macs(large)


def test_an_operator_without_an_order_that_can_be_lowered_runs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> NoReturn:
        raise Unreachable
    monkeypatch.setattr(Lowering, 'advance', unreachable)
    monkeypatch.setattr(optimize, '_CACHE', OrderedDict())
    for formula in FORMULAS.values():
        op = sn.Operator.parse(formula)
        assert len(plans(op, SIZES)) == 1
        check_every_plan(op, SIZES)


@pytest.mark.parametrize('name', FORMULAS)
def test_hand_written_operators(name: str) -> None:
    check_every_plan(sn.Operator.parse(FORMULAS[name]), SIZES)
    check_every_plan(sn.Operator.parse(FORMULAS[name]), {**SIZES, 'N': 1})


@pytest.mark.parametrize('name', ['conv', 'grouped', 'nested windows', 'box', 'three weights'])
def test_odd_sizes(name: str) -> None:
    odd = {'N': 3, 'C_in': 6, 'C_out': 9, 'H': 5, 'W': 7, 'k_1': 5, 'k_2': 3, 's': 3, 'g': 3}
    check_every_plan(sn.Operator.parse(FORMULAS[name]), odd)


@pytest.mark.parametrize('seed', range(150))
def test_random_operators(seed: int) -> None:
    op = random_operator(seed)
    check_every_plan(op, RANDOM_SIZES)
    check_every_plan(op, {**RANDOM_SIZES, 'N': 1})
