from __future__ import annotations

import json

import pytest
import torch

import syno_nni as sn
from syno_nni.plan.optimize import plans
from syno_nni.plan.tuning import optimize_plan

SIZES = {'N': 1, 'C_in': 8, 'C_out': 16, 'H': 14, 'k_1': 3, 'g': 4}
TWO_STAGES = ('out[n:N, o:C_out, h:H, w:H] = sum[r:g, c:C_in/g, i:k_1, j:k_1, d:C_out/g] '
              'in[n, r*(C_in/g) + c, shift(unfold(h, i), 1), unfold(w, j)] * w1[o, r, i, d] * w2[j, d, r*(C_in/g) + c]')


@pytest.fixture(autouse=True)
def own_lock(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests check choices, not times: they need not wait for measurements elsewhere on the machine."""
    monkeypatch.setattr('syno_nni.measure.lock.lock_path', lambda: tmp_path / 'lock')


def test_without_measuring_the_cost_model_decides() -> None:
    op = sn.Operator.parse(TWO_STAGES)
    assert optimize_plan(op, SIZES) is plans(op, SIZES)[0]


def test_a_measured_choice_is_remembered(tmp_path) -> None:
    op, cache = sn.Operator.parse(TWO_STAGES), tmp_path / 'sub' / 'plans.json'
    plan = optimize_plan(op, SIZES, measure=True, candidates=3, seconds=0.01, cache=cache)
    assert plan.program in [p.program for p in plans(op, SIZES)]
    remembered = json.loads(cache.read_text())
    assert len(remembered) == 1
    assert optimize_plan(op, SIZES, measure=True, candidates=3, seconds=0.01, cache=cache) is plan


@pytest.mark.parametrize('content', ['', '[]', '{"a": 1}', 'nonsense'])
def test_a_broken_cache_does_no_harm(tmp_path, content: str) -> None:
    cache = tmp_path / 'plans.json'
    cache.write_text(content)
    assert optimize_plan(sn.Operator.parse(TWO_STAGES), SIZES, measure=True, candidates=2, seconds=0.01, cache=cache)


def test_a_tuned_layer_computes_the_same(tmp_path) -> None:
    op = sn.Operator.parse(TWO_STAGES)
    layer = sn.SynthesizedLayer(op, SIZES).eval()
    x = torch.randn(3, 8, 14, 14)
    before = layer(x)
    layer.tune(candidates=3, seconds=0.01, cache=tmp_path / 'plans.json')
    assert torch.allclose(layer(x), before, atol=1e-5)
    assert torch.allclose(layer.fuse()(x), before, atol=1e-5)


def test_the_roll_and_two_convolutions_of_07754_are_found() -> None:
    """What an expert wrote by hand: a grouped 1xk convolution, a roll of the narrow result, a kx1 convolution."""
    op = sn.Operator.parse(TWO_STAGES.replace('d:C_out/g]', 'd:C_out/g/s]'))
    sizes = {'N': 1, 'C_in': 512, 'C_out': 512, 'H': 7, 'k_1': 3, 'g': 32, 's': 2}
    steps = plans(op, sizes)[0].program.split()[1].steps
    assert [step.kind for step in steps] == ['conv', 'roll', 'conv']
    assert steps[0].arguments[1] > 1
    assert steps[0].shape[1] == 256
