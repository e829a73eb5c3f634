"""One layer at every size that its formula allows, with the same weights."""
from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import syno_nni as sn
from syno_nni.errors import GraphError, SizeError
from syno_nni.operator import classics
from syno_nni.operator.rectangles import for_rectangles
from syno_nni.plan import planned
from syno_nni.plan.compiled import ONE_GRAPH
from syno_nni.plan.optimize import plans
from syno_nni.plan.resize import followers, resized

from ...testing.published import NAMES, operator

SIZES = {'N': 1, 'C_in': 16, 'C_out': 32, 'H': 14, 'g': 8, 'k_1': 3, 'k_2': 7, 's': 2}
CONV = 'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1, j:k_2] in[n, c, unfold(h,i), unfold(w,j)] * w1[o, c, i, j]'
SPLIT = 'out[n:N, o:C_out, h:H, w:W] = sum[c:C_in, i:k_1] in[n, c, (h//s)*s + unfold(h%s, i), shift(w, 1)] * w1[o, c, i]'
POOL = 'out[n:N, o:C_in, h:H, w:H] = sum[i:k_1, j:k_1] in[n, o, unfold(h,i), unfold(w,j)]'
TOKENS = 'out[n:N, t:T, o:C_out] = sum[c:C_in, i:k_1] in[n, unfold(t, i), c] * w1[o, c, i]'
WHOLE = 'out[n:N, o:C_out, h:H, w:W] = sum[c:C_in, i:H] in[n, c, unfold(h, i), w] * w1[o, c]'
SHUFFLE = 'out[n:N, c:C_in/s^2, h:H*s, w:W*s] = in[n, (c*s + h%s)*s + w%s, h//s, w//s]'
STRIDED = 'out[n:N, o:C_out, h:H/s, w:W/s] = sum[c:C_in] in[n, c, stride(h, s), stride(w, s)] * w1[o, c]'
TRANSPOSED = ('efficientnet_v2_s-07971', 'resnet-07795')  # they read the width where the height is


def check(layer: torch.nn.Module, op: sn.Operator, weights: list[torch.Tensor], x: torch.Tensor) -> None:
    """Against the definition at the binding that the shape of ``x`` says."""
    there, sizes = resized(op, SIZES | {'W': 14, 'T': 14} if 'W' in op.variables or 'T' in op.variables else SIZES, x.shape)
    want = there.reference(x.double().numpy(), [w.detach().double().numpy() for w in weights], {**sizes, 'N': len(x)})
    got = layer(x).detach().double().numpy()
    assert got.shape == want.shape
    assert np.linalg.norm(got - want) <= 1e-9 * np.linalg.norm(want)


def make(formula: str | sn.Operator) -> tuple[sn.SynthesizedLayer, sn.Operator]:
    op = formula if isinstance(formula, sn.Operator) else sn.Operator.parse(formula)
    torch.manual_seed(0)
    return sn.SynthesizedLayer(op, {**SIZES, 'W': 14, 'T': 14}).double(), op


@pytest.mark.parametrize(('formula', 'shape'), [
    (CONV, (16, 9, 9)), (CONV, (16, 5, 12)), (CONV, (16, 1, 1)), (SPLIT, (16, 10, 7)), (POOL, (16, 6, 6)), (POOL, (5, 6, 9)),
    (TOKENS, (23, 16)), (WHOLE, (16, 6, 5)), (SHUFFLE, (16, 5, 3)), (SHUFFLE, (8, 5, 3)), (STRIDED, (16, 6, 10)),
])
def test_other_sizes(formula: str, shape: tuple[int, ...]) -> None:
    layer, op = make(formula)
    for batch in (1, 3):
        check(layer, op, list(layer.weights), torch.randn(batch, *shape, dtype=torch.float64))
    fused = layer.fuse()
    check(fused, op, list(layer.weights), torch.randn(2, *shape, dtype=torch.float64))
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        x = torch.randn(2, *shape, dtype=torch.float64)
        assert torch.equal(twin(x), layer(x))


@pytest.mark.parametrize('name', NAMES)
def test_published_operators(name: str) -> None:
    layer, op = make(operator(name))
    fused = layer.fuse()
    step = 7 if name.endswith('08003') else 1
    for side in (1, 3) if step > 1 else (5, 9, 16):
        x = torch.randn(2, 16, side * step, side * step, dtype=torch.float64)
        check(layer, op, list(layer.weights), x)
        check(fused, op, list(layer.weights), x)
    x = torch.randn(2, 16, 7, 10, dtype=torch.float64)
    if name in TRANSPOSED:
        with pytest.raises(SizeError, match='square maps only'):
            layer(x)
    else:
        check(layer, op, list(layer.weights), x)
        check(fused, op, list(layer.weights), x)


@pytest.mark.parametrize('name', NAMES)
def test_an_operator_for_rectangles_is_the_same_on_squares(name: str) -> None:
    op = operator(name)
    if name in TRANSPOSED:
        with pytest.raises(SizeError, match='square maps only'):
            for_rectangles(op)
        return
    wide = for_rectangles(op)
    assert wide.variables == op.variables | {'W'}
    assert for_rectangles(wide) is wide
    rng = np.random.default_rng(0)
    sizes = {**SIZES, 'C_in': 8, 'C_out': 8, 'g': 4, 'H': 7, 'N': 2}
    x, *weights = (rng.standard_normal(s) for s in (op.input_shape(sizes), *op.weight_shapes(sizes)))
    assert wide.weight_shapes({**sizes, 'W': 7}) == op.weight_shapes(sizes)
    np.testing.assert_allclose(wide.reference(x, weights, {**sizes, 'W': 7}), op.reference(x, weights, sizes))
    back = str(wide).replace('W', 'H')
    assert sn.Operator.parse(back) == op


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.sampled_from([CONV, SPLIT, POOL, WHOLE, SHUFFLE]))
def test_any_height_and_width(height: int, width: int, batch: int, formula: str) -> None:
    layer, op = make(formula)
    x = torch.randn(batch, 16, height, width, dtype=torch.float64)
    if formula == SPLIT and height % 2:
        with pytest.raises(SizeError, match=rf'nearest that fit: H = .*{height + 1}'):
            layer(x)
    else:
        check(layer, op, list(layer.weights), x)


def test_what_does_not_fit_is_told() -> None:
    layer, _ = make(SPLIT)
    with pytest.raises(SizeError, match=r'built for inputs of shape \[any, 16, 14, 14\], got \[2, 16, 15, 9\]: .*'
                                        r'not an integer.*nearest that fit: H = 14 or 16'):
        layer(torch.randn(2, 16, 15, 9, dtype=torch.float64))
    square, _ = make(SPLIT.replace('W', 'H'))
    with pytest.raises(SizeError, match=r'built for inputs of shape \[any, 16, 14, 14\], got \[2, 16, 15, 9\]: .*'
                                        r'not an integer.*nearest that fit: H = 14 or 16'):
        square(torch.randn(2, 16, 15, 9, dtype=torch.float64))
    with pytest.raises(SizeError, match='without elements'):
        layer(torch.randn(2, 16, 0, 9, dtype=torch.float64))
    with pytest.raises(GraphError, match=r'got \[2, 15, 14, 14\]'):
        layer(torch.randn(2, 15, 14, 14, dtype=torch.float64))
    fixed, _ = make('out[n:N, o:C_out, h:H, w:W] = sum[c:C_in] in[n, c, h, w] * w1[o, c] * w2[h]')
    fixed(torch.randn(2, 16, 14, 9, dtype=torch.float64))
    with pytest.raises(GraphError, match='sizes that may change here, as no weight depends on them: N, W'):
        fixed(torch.randn(2, 16, 13, 14, dtype=torch.float64))


def test_no_rectangles_where_the_width_cannot_be_told() -> None:
    swapped = 'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in] in[n, c, w, h] * w1[o, c]'
    joined = 'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in] in[n, c, h*H + w] * w1[o, c]'
    for formula, words in ((swapped, 'square maps only'), (joined, 'on 1 axes of its input')):
        with pytest.raises(SizeError, match=words):
            for_rectangles(sn.Operator.parse(formula))
    window = sn.Operator.parse('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:H] in[n, c, h, unfold(w, i)] * w1[o, c, i]')
    assert str(for_rectangles(window)).count('i:W') == 1


def test_which_sizes_follow() -> None:
    assert followers(sn.Operator.parse(CONV)) == {'N', 'H'}
    assert followers(sn.Operator.parse(STRIDED)) == {'N', 'H', 'W'}
    assert followers(sn.Operator.parse(SHUFFLE)) == {'N', 'C_in', 'H', 'W'}
    assert followers(classics.grouped_conv2d()) == {'N', 'H', 'W'} & (classics.grouped_conv2d().variables)


def test_plans_for_other_shapes_are_remembered_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, op = make(CONV)
    calls: list[dict[str, int]] = []
    monkeypatch.setattr(planned, 'plans', lambda op, sizes: calls.append(sizes) or plans(op, sizes))
    monkeypatch.setattr(planned, 'OTHER_SHAPES', 3)
    for side in (9, 9, 10, 14, 9, 11, 12):
        layer(torch.randn(1, 16, side, side, dtype=torch.float64))
    assert [sizes['H'] for sizes in calls] == [9, 10, 11, 12]
    assert len(layer.other_plans) == 3


def test_a_batch_that_a_weight_does_not_fix_follows_too() -> None:
    """Where the batch is shifted, no plan is for every batch size; each gets its own."""
    layer, op = make('out[n:N, o:C_out, h:H, w:W] = sum[c:C_in] in[shift(n, 1), c, h, w] * w1[o, c]')
    for batch in (1, 4):
        check(layer, op, list(layer.weights), torch.randn(batch, 16, 14, 14, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize('dynamic', [True, None, False])
def test_compiled_at_several_sizes(dynamic: bool | None) -> None:
    """One graph for each size, whether torch is told that sizes change or not."""
    torch._dynamo.reset()
    layer, op = make(SPLIT)
    compiled = torch.compile(layer, dynamic=dynamic, fullgraph=ONE_GRAPH, backend='aot_eager')
    for height, width in ((14, 14), (10, 6), (14, 14), (4, 9), (10, 6)):
        x = torch.randn(2, 16, height, width, dtype=torch.float64)
        check(compiled, op, list(layer.weights), x)
    torch._dynamo.reset()
    compiled = torch.compile(layer, dynamic=dynamic, backend='aot_eager')
    with pytest.raises(SizeError, match='nearest that fit: H = 14 or 16'):
        compiled(torch.randn(2, 16, 15, 9, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize('strict', [
    pytest.param(True, marks=pytest.mark.skipif(not ONE_GRAPH, reason='this torch exports no module at another size')), False])
def test_exported_at_another_size(strict: bool) -> None:
    """An exported graph is for one height and width; torch says so by name, and the graph refuses others."""
    layer, op = make(CONV)
    x = torch.randn(2, 16, 9, 12, dtype=torch.float64)
    batch, height = torch.export.Dim('batch', min=1, max=64), torch.export.Dim('height', min=4, max=64)
    exported = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},), strict=strict).module()
    check(exported, op, list(layer.weights), torch.cat([x, x]))
    with pytest.raises(AssertionError, match='9'):
        exported(torch.randn(2, 16, 14, 14, dtype=torch.float64))
    with pytest.raises(Exception, match=r'height.*\(9\)'):
        torch.export.export(layer, (x,), dynamic_shapes=({0: batch, 2: height},), strict=strict)
