from __future__ import annotations

import pytest
import torch
from torch import nn

from syno_nni.errors import SlotError
from syno_nni.operator import classics
from syno_nni.search_spaces.retrofit.distill import Losses, distill
from syno_nni.search_spaces.retrofit.retrofit import filled_slots, retrofit


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return model, retrofit(model, classics.grouped_conv2d(), (1, 3, 8, 8), coefficients={'g': 2})


@pytest.mark.parametrize('losses', [Losses(0, 1, 0), Losses(0, 0, 1), Losses(1, 1, 1)])
def test_it_gets_nearer_to_the_original(losses: Losses) -> None:
    original, result = pair()
    result.eval()  # restored, though training happens in between
    x = torch.randn(64, 3, 8, 8)
    batches = [(x, original(x).argmax(1))]
    before = {k: v.clone() for k, v in original.state_dict().items()}
    with torch.no_grad():
        far = (result(x) - original(x)).square().mean()
    history = distill(original, result, batches, steps=60, losses=losses)
    assert len(history) == 60 and history[-1] < 0.9 * history[0] and not result.training
    if losses.logits and not losses.labels:
        with torch.no_grad():
            assert (result(x) - original(x)).square().mean() < far
    assert all(torch.equal(v, before[k]) for k, v in original.state_dict().items())
    assert not any(m._forward_hooks for m in (*original.modules(), *result.modules()))


def test_inputs_alone_are_enough_without_the_loss_of_labels() -> None:
    original, result = pair()
    assert len(distill(original, result, [torch.randn(4, 3, 8, 8)], steps=2, losses=Losses(0, 1, 1))) == 2
    with pytest.raises(SlotError, match='no labels'):
        distill(original, result, [torch.randn(4, 3, 8, 8)], steps=1)


def test_mistakes() -> None:
    original, result = pair()
    with pytest.raises(SlotError, match='no batch'):
        distill(original, result, [], steps=1)
    with pytest.raises(SlotError, match='at least 0'):
        Losses(0, 0, 0)
    with pytest.raises(SlotError, match='no filled slot'):
        distill(original, original, [torch.randn(4, 3, 8, 8)], steps=1, losses=Losses(0, 0, 1))
    assert filled_slots(result)
