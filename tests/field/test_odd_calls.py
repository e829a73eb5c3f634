"""How a model calls its layers, and how a person calls the search for slots."""
from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from syno_nni.errors import SlotError
from syno_nni.operator import classics
from syno_nni.search_spaces import filled_slots, find_slots, retrofit
from syno_nni.search_spaces.retrofit.warm_start import warm_start


class Scaled(nn.Conv2d):
    def forward(self, x, scale=None):
        y = super().forward(x)
        return y if scale is None else y * scale


class Calls(nn.Module):
    def __init__(self, first: nn.Module, args: tuple = (), by_name: str = '', **kwargs) -> None:
        super().__init__()
        self.first, self.second = first, nn.Conv2d(8, 8, 3, padding=1)
        self.args, self.by_name, self.kwargs = args, by_name, kwargs

    def forward(self, x):
        x = self.first(**{self.by_name: x}) if self.by_name else self.first(x, *self.args, **self.kwargs)
        return self.second(x.relu()).relu()


@pytest.mark.parametrize('call', [{'args': (None,)}, {'scale': None}, {'by_name': 'x'}], ids=['positional', 'named', 'x'])
@pytest.mark.parametrize('on_misfit', ['error', 'keep'])
def test_a_call_that_an_operator_does_not_understand_keeps_one_layer(call: dict, on_misfit: str) -> None:
    """partialconv#44, whose mask is often None: the call failed in the operator, and with it the whole retrofit."""
    model = Calls(Scaled(8, 8, 3, padding=1), **call)
    _, excluded = find_slots(model, (1, 8, 12, 12), kinds='all')
    assert [e.name for e in excluded] == ['first'] and 'one tensor' in excluded[0].reason
    assert list(filled_slots(retrofit(model, classics.conv2d(), (1, 8, 12, 12), on_misfit=on_misfit))) == ['second']


def test_a_layer_may_be_called_by_the_name_of_torch() -> None:
    """``conv(input=x)`` is what torch documents."""
    model = Calls(nn.Conv2d(8, 8, 3, padding=1), by_name='input').eval()
    result = retrofit(model, classics.conv2d(), (1, 8, 12, 12))
    assert list(filled_slots(result)) == ['first', 'second']
    warm_start(model, result)
    x = torch.randn(2, 8, 12, 12)
    torch.testing.assert_close(result(x), model(x), atol=1e-5, rtol=1e-4)
    assert torch.fx.symbolic_trace(result)(x).shape == x.shape


@pytest.mark.parametrize('example, words', [
    (torch.empty(0, 8, 12, 12), 'no sample'), ((0, 8, 12, 12), 'no sample'),
    ((1, 8, 10 ** 17, 10 ** 17), 'cannot make an example input'), ((1, 8, 10 ** 30, 10 ** 30), 'cannot make an example input')])
def test_examples_that_cannot_be_run(example, words: str) -> None:
    with pytest.raises(SlotError, match=re.escape(words)):
        find_slots(Calls(nn.Conv2d(8, 8, 3, padding=1)), example)


def test_more_groups_than_channels_are_not_counted_through() -> None:
    model = Calls(nn.Conv2d(8, 8, 3, padding=1))
    slots, _ = find_slots(model, (1, 8, 12, 12), coefficients={'g': 10 ** 14})
    assert {s.sizes['g'] for s in slots} == {8}
    assert retrofit(model, classics.grouped_conv2d(), (1, 8, 12, 12), coefficients={'g': 10 ** 14})
