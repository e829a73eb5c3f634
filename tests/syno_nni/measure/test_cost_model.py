"""The cost model: what layers do, as counts; what refining may change; what is read from a file."""
from __future__ import annotations

import json
import math

import numpy as np
import pytest
from torch import nn

import syno_nni as sn
from syno_nni.errors import MeasureError
from syno_nni.measure import RUNTIMES
from syno_nni.measure.cost_model import GENERIC, CostModel, read_prices
from syno_nni.measure.features import NAMES
from syno_nni.operator import classics
from syno_nni.plan.optimize import plans
from syno_nni.search_spaces.filled_slot import FilledSlot
from syno_nni.search_spaces.slots import Slot, find_slots

from ...testing.random_operators import SIZES as RANDOM_SIZES
from ...testing.random_operators import random_operator

SIZES = {'N': 1, 'C_in': 64, 'C_out': 64, 'H': 16, 'k_1': 3, 'k_2': 7, 's': 2, 'g': 4}
LAYERS = {
    'dense': (nn.Conv2d(64, 64, 3, padding=1), (1, 64, 16, 16)), 'strided': (nn.Conv2d(64, 32, 3, 2), (1, 64, 17, 16)),
    'depthwise': (nn.Conv2d(64, 64, 3, groups=64, padding='same'), (1, 64, 16, 16)),
    'grouped': (nn.Conv2d(64, 64, 3, groups=8), (1, 64, 16, 16)), 'image': (nn.Conv2d(3, 32, 7, 2, 3), (1, 3, 32, 32)),
    'line': (nn.Conv1d(16, 32, 5, dilation=2), (1, 16, 64)), 'tokens': (nn.Linear(48, 96), (1, 20, 48)),
    'vector': (nn.Linear(48, 96), (1, 48)), 'pointwise': (nn.Conv2d(64, 128, 1), (1, 64, 16, 16))}


def sizes_of(op: sn.Operator) -> dict[str, int]:
    return {v: n for v, n in {**SIZES, 'W': 16}.items() if v in op.variables}


def slot_of(layer: nn.Module, shape: tuple[int, ...], **options: str) -> Slot:
    """The slot that a layer is in front of others."""
    last = nn.Linear(64, 8) if isinstance(layer, nn.Linear) else nn.Conv2d(64, 8, 1)
    return find_slots(nn.Sequential(layer, nn.GELU(), last), shape, **options)[0][0]


@pytest.mark.parametrize('runtime', [*RUNTIMES, 'of the future'])
@pytest.mark.parametrize('name', LAYERS)
def test_layers_of_torch_take_time_that_grows_with_the_batch(runtime: str, name: str):
    layer, shape = LAYERS[name]
    model = CostModel.of(runtime)
    times = [model.layer_ms(layer, (batch, *shape[1:])) for batch in (1, 2, 8)]
    assert 0 < times[0] < times[1] < times[2] < 8.01 * times[0]
    assert all(name in NAMES and value >= 0 for name, value in model.features(layer, shape).items())


@pytest.mark.parametrize('seed', range(40))
def test_any_operator_has_known_features_that_are_not_negative_and_scale_with_the_batch(seed: int):
    op = random_operator(seed)
    sizes = {v: n for v, n in RANDOM_SIZES.items() if v in op.variables}
    model = CostModel.of('onnx')
    layer = sn.SynthesizedLayer(op, sizes)
    once = model.features(layer)
    assert all(name in NAMES and value >= 0 and math.isfinite(value) for name, value in once.items())
    assert model.plan_ms(layer) == model.plan_ms(layer.plan) > 0
    assert model.plan_ms(layer) == pytest.approx(model.plan_ms(layer.fuse()))
    if layer.plan.batch:
        shape = op.input_shape(sizes)
        thrice = model.features(layer, (3 * shape[0], *shape[1:]))
        for name, value in once.items():
            assert thrice[name] == pytest.approx(value * (1 if name.endswith(('.calls', '.weights')) else 3))


def test_multiply_adds_are_counted_by_how_they_are_computed():
    model = CostModel.of('onnx')
    macs = {name: {key: value for key, value in model.features(*LAYERS[name]).items()
                   if key.endswith('macs') and 'thin' not in key} for name in LAYERS}
    assert macs['dense'] == {'conv.dense.macs': 256 * 64 * 64 * 9}
    assert macs['pointwise'] == {'conv.pointwise.macs': 256 * 64 * 128}
    assert macs['depthwise'] == {'conv.depthwise.macs': 256 * 64 * 9}
    assert macs['strided'] == {'conv.dense.macs': 8 * 7 * 64 * 32 * 9}
    assert macs['grouped']['conv.ragged.macs'] == 14 * 14 * 8 * 16 * 8 * 9, 'eight channels fill half a register'
    assert macs['line']['conv.line.macs'] == 56 * 16 * 32 * 5
    assert list(macs['tokens'].values()) == [20 * 48 * 96]


def test_an_operator_that_is_a_convolution_costs_what_the_convolution_does():
    model = CostModel.of('eager')
    op = classics.conv2d()
    layer = nn.Conv2d(64, 64, 3, padding=1)
    assert model.plan_ms(plans(op, sizes_of(op))[0]) == pytest.approx(model.layer_ms(layer, (1, 64, 16, 16)))
    assert model.plan_ms(sn.SynthesizedLayer(op, sizes_of(op))) > model.plan_ms(plans(classics.pointwise(), sizes_of(
        classics.pointwise()))[0])


def test_a_filled_slot_counts_its_pooling_its_bias_and_moved_axes():
    model = CostModel.of('onnx')
    filled = FilledSlot.of(classics.conv2d(), slot_of(nn.Conv2d(32, 64, 3, 2, 1), (1, 32, 16, 16), striding='pool'))
    found = model.features(filled)
    assert found == model.features(filled, (1, 32, 16, 16))
    assert found['pool.bytes'] == 4 * (32 * 256 + 32 * 64) and found['elementwise.calls'] == 1
    assert model.layer_ms(filled, (4, 32, 16, 16)) > model.layer_ms(filled, (1, 32, 16, 16)) > model.plan_ms(filled.layer)
    tokens = slot_of(nn.Linear(64, 64), (1, 16, 64), kinds='all')
    moved = FilledSlot.of(sn.Operator.parse('out[n:N, o:C_out, l:L] = sum[c:C_in, i:k_1] in[n, c, unfold(l, i)] * w1[o, c, i]'),
                          tokens)
    assert model.features(moved)['permute.calls'] >= 2
    with pytest.raises(sn.errors.GraphError, match='64 channels'):
        model.layer_ms(moved, (1, 16, 63))


def test_work_of_a_strided_slot_has_the_shapes_of_what_it_computes():
    filled = FilledSlot.of(classics.conv2d(), slot_of(nn.Conv2d(32, 64, 3, 2, 1), (1, 32, 15, 15), striding='exact'))
    work = filled.work()
    assert work[-2].shape == work[-1].shape == (1, 64, 8, 8) and work[0].shape == (1, 32, 16, 16)


def test_what_cannot_be_predicted_is_refused():
    model = CostModel.of('onnx')
    for given, shape in ((nn.ReLU(), (1, 2)), (nn.Conv2d(3, 4, 3), (1, 4, 8, 8)), (nn.Conv2d(3, 4, 9), (1, 3, 8, 8)),
                         (nn.Linear(3, 4), (1, 4))):
        with pytest.raises(MeasureError, match='wanted'):
            model.layer_ms(given, shape)
    with pytest.raises(MeasureError, match='shape of its input'):
        model.plan_ms(nn.Conv2d(3, 4, 3))
    for threads in (0, -1, 1.5, True):
        with pytest.raises(MeasureError, match='thread'):
            CostModel.of('onnx', threads)


def test_more_threads_do_the_work_sooner_but_not_the_calls():
    one, four = CostModel.of('onnx'), CostModel.of('onnx', 4)
    assert one.layer_ms(*LAYERS['dense']) / 4 < four.layer_ms(*LAYERS['dense']) < one.layer_ms(*LAYERS['dense'])
    assert four.prices['roll.calls'] == one.prices['roll.calls']


def measured(model: CostModel, count: int, noise: float, seed: int = 0) -> list:
    """Features of random convolutions and their times by ``model``, with noise."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        inner, outer, side, kernel = (int(rng.choice(n)) for n in ((16, 32, 64), (16, 32, 128), (4, 8, 28), (1, 3)))
        layer = nn.Conv2d(inner, outer, kernel, padding='same', groups=int(rng.choice([1, 4])))
        one = model.features(layer, (1, inner, side, side))
        found.append((one, model.ms(one) * math.exp(noise * rng.normal())))
    return found


def error(model: CostModel, rows: list) -> float:
    return float(np.mean([abs(math.log(model.ms(found) / ms)) for found, ms in rows]))


def test_few_noisy_measurements_hardly_change_the_prices():
    shipped = CostModel.of('onnx')
    for seed in range(5):
        refined = shipped.refined(measured(shipped, 3, 0.3, seed))
        assert error(refined, measured(shipped, 100, 0.0, 99)) < 0.3
        assert all(price >= 0 for price in refined.prices.values())
    assert shipped.refined([]) == shipped


def test_measurements_of_another_host_bring_the_prices_there():
    shipped = CostModel.of('onnx')
    other = CostModel('onnx', {name: price * (3.0 if '.macs' in name else 1.5) for name, price in shipped.prices.items()})
    wanted = measured(other, 100, 0.0, 99)
    before, errors = error(shipped, wanted), [error(shipped.refined(measured(other, n, 0.05)), wanted) for n in (4, 40)]
    assert errors[1] < errors[0] < before and errors[1] < 0.1


def test_one_wild_measurement_among_many_spoils_nothing():
    shipped = CostModel.of('onnx')
    rows = measured(shipped, 30, 0.05)
    rows[3] = (rows[3][0], 50 * rows[3][1])
    assert error(shipped.refined(rows), measured(shipped, 100, 0.0, 99)) < 0.1
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(MeasureError, match='positive'):
            shipped.refined([(rows[0][0], bad)])


def test_prices_are_read_strictly():
    good = {'format': 1, 'runtimes': {GENERIC: {'view.calls': 0.001}}}
    assert read_prices(json.dumps(good), 'here') == good['runtimes']
    bad = [[], {**good, 'format': 2}, {'format': 1}, {'format': 1, 'runtimes': {}}, {'format': 1, 'runtimes': {GENERIC: 3}},
           *({'format': 1, 'runtimes': {GENERIC: {'view.calls': value}}} for value in (-1, True, '1', None, [1])),
           {'format': 1, 'runtimes': {GENERIC: {'calls.of.duty': 1}}}]
    for data in bad:
        with pytest.raises(MeasureError, match='here'):
            read_prices(json.dumps(data), 'here')
    with pytest.raises(MeasureError):
        read_prices('{"format": 1, "runtimes": {"generic": {"view.calls": NaN}}}', 'here')


def test_constants_are_shipped_for_every_runtime():
    assert all(CostModel.of(runtime).prices != CostModel.of(GENERIC).prices for runtime in RUNTIMES)
    assert CostModel.of('of the future').prices == CostModel.of(GENERIC).prices
