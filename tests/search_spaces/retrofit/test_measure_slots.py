from __future__ import annotations

import pytest
import torch
from torch import nn

from syno_nni.errors import SlotError
from syno_nni.operator import Operator
from syno_nni.search_spaces.filled_slot import FilledSlot
from syno_nni.search_spaces.retrofit.knapsack import KEEP, options_from, solve
from syno_nni.search_spaces.retrofit.measure_slots import layer_input, layer_latencies, slot_latencies, slot_losses
from syno_nni.search_spaces.retrofit.retrofit import filled_slots, retrofit
from syno_nni.search_spaces.slots import find_slots, group_slots

from .test_retrofit import CONV, EXAMPLE, GROUPED, POINTWISE, Net


class Clock:
    """Milliseconds that count multiply-accumulates: 2 for a layer; for an operator 1 per weight axis."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, candidate, baseline, x):
        self.calls += 1
        candidate(x)
        ms = len(candidate.op.weights[0]) if isinstance(candidate, FilledSlot) else 2.0
        return 2.0, 2.0 / ms


def test_latencies_of_groups():
    model = nn.Sequential(*[nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)], nn.Flatten())
    slots, _ = find_slots(model, (1, 8, 6, 6))
    pointwise, misfitting = Operator.parse(POINTWISE), Operator.parse(GROUPED.replace('/g', '/k_1'))
    clock = Clock()
    table = slot_latencies(model, {'a': slots[:1], 'b': slots[1:]}, [pointwise, misfitting], timer=clock)
    assert table == {'a': {KEEP: 2.0, pointwise.id: 2.0}, 'b': {KEEP: 4.0, pointwise.id: 4.0}}
    assert clock.calls == 2, 'equal shapes are measured once'


def test_losses_and_the_whole_chain():
    torch.manual_seed(0)
    model = Net().eval()
    slots, _ = find_slots(model, EXAMPLE, striding='pool')
    groups = group_slots(slots, 'slot')
    same, rough = Operator.parse(CONV), Operator.parse(POINTWISE)
    x = torch.randn(16, 3, 9, 9)
    with torch.no_grad():
        want = model(x)

    def score(candidate):
        assert not candidate.training
        with torch.no_grad():
            return -float((candidate(x) - want).square().mean())

    losses = slot_losses(model, groups, [same, rough], score)
    assert losses['body.0'][same.id] == pytest.approx(0, abs=1e-6)
    assert losses['body.0'][rough.id] > 1e-5
    options = options_from({g: {KEEP: 3.0, same.id: 2.0, rough.id: 1.0} for g in groups}, losses)
    best = solve(options, max_loss=5e-6)
    assert best.choices == {'body.0': same.id, 'body.3': KEEP}  # pooling for the stride costs accuracy
    result = retrofit(model, best.mapping(groups, {same.id: same, rough.id: rough}), EXAMPLE, slots=slots)
    assert {n: f.op for n, f in filled_slots(result).items()} == {'body.0': same}


@pytest.mark.parametrize(('layer', 'shape'), [
    (nn.Conv2d(8, 4, 3, 2, 1), (1, 8, 9, 12)), (nn.Conv1d(8, 4, 3, padding=1), (1, 8, 9)), (nn.Linear(8, 4), (1, 8)),
    (nn.Linear(8, 4), (1, 5, 8)), (nn.Linear(8, 4), (1, 5, 6, 8)),
])
def test_inputs_of_layers(layer, shape):
    slots, _ = find_slots(nn.Sequential(layer, nn.Sigmoid()), shape, kinds='all')
    assert layer_input(slots[0]).shape == shape


def test_latencies_within_a_model():
    model = Net().train()
    found = layer_latencies(model, EXAMPLE, rounds=3)
    assert list(found) == ['stem', 'body.0', 'body.3', 'body.4', 'head']
    assert all(ms > 0 for ms in found.values())
    assert model.training
    with pytest.raises(SlotError, match='does not run'):
        layer_latencies(model, (1, 4, 8, 8))
