"""Coefficients per operator and slot."""
from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from syno_nni import model_zoo, retrofit
from syno_nni.errors import SlotError
from syno_nni.operator import Operator, classics
from syno_nni.search_spaces import filled_slots, find_slots
from syno_nni.search_spaces.coefficients import fitting, unfit
from syno_nni.search_spaces.filled_slot import misfit

assert model_zoo  # its backbones have names


def conv_net(*channels: int) -> nn.Module:
    layers = [nn.Conv2d(i, o, 3, padding=1) for i, o in zip(channels, channels[1:], strict=False)]
    return nn.Sequential(*layers, nn.ReLU())


@pytest.mark.parametrize('channels', [(16, 16), (24, 48, 48), (40, 20, 60), (36, 36), (4, 6, 10)])
def test_an_operator_fits_where_some_g_fits(channels: tuple[int, ...]) -> None:
    model, op = conv_net(*channels), classics.operator_2()
    example = (2, channels[0], 8, 8)
    result = retrofit(model, op, example)
    assert len(filled_slots(result)) == len(channels) - 1
    assert result(torch.randn(example)).shape == (2, channels[-1], 8, 8)


def test_the_slots_own_value_comes_first_then_the_nearest() -> None:
    slot = find_slots(conv_net(64, 64), (1, 64, 8, 8))[0][0]
    assert fitting(classics.operator_2(), slot) is slot and slot.sizes['g'] == 32
    slot = find_slots(conv_net(32, 32), (1, 32, 8, 8))[0][0]
    assert slot.sizes['g'] == 32 and fitting(classics.operator_2(), slot).sizes == {**slot.sizes, 'g': 16}


def test_what_was_asked_for_stays() -> None:
    halves = Operator.parse('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, d:C_out/s] in[n, c, h, w] * w1[d, c] * w2[o, d]')
    model = conv_net(9, 9)
    assert filled_slots(retrofit(model, halves, (1, 9, 8, 8)))['0'].sizes['s'] == 3
    with pytest.raises(SlotError, match='does not fit slot 0'):
        retrofit(model, halves, (1, 9, 8, 8), coefficients={'s': 2})
    # g is a limit: it may be lower, never higher.
    model = conv_net(32, 32)
    assert {f.sizes['g'] for f in filled_slots(retrofit(model, classics.operator_2(), (1, 32, 8, 8),
                                                        coefficients={'g': 8})).values()} == {8}
    with pytest.raises(SlotError):
        retrofit(model, classics.operator_2(), (1, 32, 8, 8), adapt=False)


def test_the_reason_is_that_of_the_usual_values() -> None:
    slot = find_slots(conv_net(11, 11), (1, 11, 8, 8))[0][0]
    assert unfit(classics.operator_2(), slot) == misfit(classics.operator_2(), slot) != ''


@pytest.mark.parametrize(('name', 'size'), [('repvgg_a0', 64), ('resnet18_cifar', 32)])
def test_published_operators_fit_where_they_did_not(name: str, size: int) -> None:
    model = timm.create_model(name, **({'width': 16} if name == 'resnet18_cifar' else {}))
    slots, _ = find_slots(model, (1, 3, size, size), kinds='conv3x3')
    assert len(filled_slots(retrofit(model, classics.operator_2(), slots=slots))) == len(slots)


def test_when_nothing_fits_the_reasons_are_told() -> None:
    """Squares in rectangular maps, say: "keeps all 16 slots" explained nothing."""
    wide = Operator.parse('out[n:N, o:C_out, h:H, w:Q] = sum[c:C_in] in[n, c, h, w] * w1[o, c]')
    with pytest.raises(SlotError, match=r'nothing fits one of the 2 slots .*0: the operator needs Q'):
        retrofit(conv_net(8, 8, 8), wide, (1, 8, 8, 8), on_misfit='keep')
    with pytest.raises(SlotError, match='the mapping keeps all 2 slots'):
        retrofit(conv_net(8, 8, 8), {'conv3x3': 'keep'}, (1, 8, 8, 8))
