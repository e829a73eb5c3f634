"""A layer is a slot by what it computes, not by its class."""
from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from syno_nni.operator import classics
from syno_nni.search_spaces import filled_slots, find_slots, retrofit


class Body(nn.Module):
    """A layer under test between two ordinary ones."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.before = nn.Conv2d(8, 8, 3, padding=1)
        self.layer = layer
        self.after = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.after(torch.relu(self.layer(self.before(x)))).relu()


def sorted_layers(model: nn.Module, shape=(1, 8, 12, 12)) -> tuple[set[str], dict[str, str]]:
    torch.manual_seed(0)
    slots, excluded = find_slots(model, shape, kinds='all')
    return {s.name for s in slots}, {e.name: e.reason for e in excluded}


class NormAndActivation(nn.Conv2d):
    def __init__(self, *args, norm=None, activation=None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.norm, self.activation = norm, activation

    def forward(self, x):
        x = super().forward(x)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


class Standardized(nn.Conv2d):
    def forward(self, x):
        weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) / self.weight.std((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class PadsItself(nn.Conv2d):
    mode = 'constant'

    def forward(self, x):
        return functional.conv2d(functional.pad(x, (1, 1, 1, 1), mode=self.mode), self.weight, self.bias)


class Replicates(PadsItself):
    mode = 'replicate'


class Wraps(PadsItself):
    mode = 'circular'


class Reflects(PadsItself):
    mode = 'reflect'


class ScalesTheBias(nn.Conv2d):
    def forward(self, x):
        return functional.conv2d(x, self.weight, 3 * self.bias, padding=1)


class AddsAPosition(nn.Conv2d):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.position = nn.Parameter(torch.randn(1, 8, 12, 12))

    def forward(self, x):
        return super().forward(x) + self.position


class RescalesTheBorder(nn.Conv2d):
    """A partial convolution without a mask: what padding contributes is made up for."""

    def forward(self, x):
        inside = functional.conv2d(torch.ones_like(x[:, :1]), torch.ones(1, 1, 3, 3), padding=1)
        return functional.conv2d(x, self.weight, None, padding=1) * 9 / inside + self.bias.view(1, -1, 1, 1)


class DropsConnections(nn.Conv2d):
    def forward(self, x):
        return functional.conv2d(x, functional.dropout(self.weight, 0.5, self.training), self.bias, padding=1)


class Noisy(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + torch.randn(())


class NormsTheBatch(nn.Conv2d):
    def forward(self, x):
        return super().forward(x - x.mean(0, keepdim=True))


class Clamps(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x.clamp(-0.1, 0.1), weight, bias)


class QuantizesItsInput(nn.Conv2d):
    def forward(self, x):
        return super().forward((x * 4).round() / 4)


class Lora(nn.Conv2d):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.down, self.up = nn.Conv2d(8, 2, 1, bias=False), nn.Conv2d(2, 8, 1, bias=False)

    def forward(self, x):
        return super().forward(x) + self.up(self.down(x))


def conv(kind: type[nn.Conv2d] = nn.Conv2d, **options) -> nn.Conv2d:
    return kind(8, 8, 3, padding=options.pop('padding', 1), **options)


@pytest.mark.parametrize(('layer', 'words'), [
    (conv(NormAndActivation, norm=nn.BatchNorm2d(8), activation=functional.relu), r'holds norm \(BatchNorm2d\)'),
    (conv(NormAndActivation, activation=functional.relu), 'not affine'),
    (conv(NormAndActivation, activation=functional.hardswish), 'not affine'),
    (conv(NormAndActivation, activation=lambda x: functional.layer_norm(x, x.shape[1:])), 'not affine'),
    (conv(NormAndActivation, activation=lambda x: x + 1), 'other than its bias'),
    (conv(ScalesTheBias), 'other than its bias'),
    (conv(AddsAPosition), 'other than its bias'),
    (conv(Replicates), 'pads with other than zeros'),
    (conv(Wraps), 'pads with other than zeros'),
    (conv(Reflects), 'pads with other than zeros'),
    (conv(RescalesTheBorder), 'treats positions differently'),
    (conv(DropsConnections), 'something else in training'),
    (conv(Noisy), 'something else at each call'),
    (conv(NormsTheBatch), 'depends on the others'),
    (conv(Clamps), 'not affine'),
    (conv(QuantizesItsInput), 'not affine'),
    (conv(Lora), r'holds down \(Conv2d\), up \(Conv2d\)'),
    (conv(padding_mode='reflect'), 'pads in reflect mode'),
    (conv(padding_mode='circular'), 'pads in circular mode'),
    (parametrizations.weight_norm(conv()), 'remove_parametrizations'),
    (parametrizations.spectral_norm(conv()), 'remove_parametrizations'),
    (prune.l1_unstructured(conv(), 'weight', 0.3), r"prune.remove\(layer, 'weight'\)"),
    (prune.ln_structured(conv(), 'weight', 0.3, n=2, dim=0), r"prune.remove\(layer, 'weight'\)"),
    (prune.random_unstructured(conv(), 'bias', 0.3), r"prune.remove\(layer, 'bias'\)"),
])
def test_what_an_operator_would_lose_keeps_the_layer(layer, words):
    """nni#4875: a convolution whose forward applies a norm and an activation lost both without a word."""
    names, reasons = sorted_layers(Body(layer))
    assert names == {'before', 'after'}
    assert re.search(words, reasons['layer']), reasons['layer']


@pytest.mark.parametrize('layer', [conv(NormAndActivation), conv(Standardized), conv(PadsItself, padding=0),
                                   conv(padding='same'), nn.Conv2d(8, 8, 1, padding_mode='reflect'),
                                   prune.remove(prune.l1_unstructured(conv(), 'weight', 0.3), 'weight')])
def test_subclasses_that_compute_a_convolution_are_slots(layer):
    """nni#4875, the other side: a class of its own is no reason to keep a layer."""
    model = Body(layer).eval()
    names, reasons = sorted_layers(model)
    assert names == {'before', 'layer', 'after'}, reasons


def test_strided_subclasses_of_timm():
    """nni#4875: convolutions that pad by the size of their input, as in timm's TensorFlow ports."""
    from timm.layers import Conv2dSame, StdConv2d
    for layer in (Conv2dSame(8, 8, 3, stride=2), StdConv2d(8, 8, 3, padding=1), Conv2dSame(8, 8, 5)):
        assert 'layer' in sorted_layers(Body(layer))[0]


class Masked(nn.Conv2d):
    def forward(self, x, mask=None):
        y = super().forward(x if mask is None else x * mask)
        return y if mask is None else (y, mask)


class UsesMasks(Body):
    def __init__(self, called) -> None:
        super().__init__(conv(Masked))
        self.called = called

    def forward(self, x):
        mask = (x[:, :1] > 0).float()
        x = self.before(x)
        if self.called == 'keyword':
            x, _ = self.layer(x, mask=mask)
        elif self.called == 'position':
            x, _ = self.layer(x, mask)
        else:
            x = self.layer(x)
        return self.after(x).relu()


@pytest.mark.parametrize('called', ['keyword', 'position'])
@pytest.mark.parametrize('on_misfit', ['keep', 'error'])
def test_a_layer_that_takes_a_mask_is_kept_and_the_rest_is_filled(called, on_misfit):
    """partialconv#44: one layer that is called with a mask made the whole retrofit fail."""
    model = UsesMasks(called)
    names, reasons = sorted_layers(model)
    assert names == {'before', 'after'}
    assert 'called with a tensor and a tensor' in reasons['layer']
    result = retrofit(model, classics.conv2d(), (1, 8, 12, 12), on_misfit=on_misfit)
    assert list(filled_slots(result)) == ['before', 'after']


def test_a_mask_that_is_never_given_is_no_obstacle():
    """partialconv#44: an argument that the model leaves out changes nothing."""
    assert sorted_layers(UsesMasks('not'))[0] == {'before', 'layer', 'after'}


@pytest.mark.parametrize('register', ['register_forward_hook', 'register_forward_pre_hook',
                                      'register_full_backward_hook', 'register_full_backward_pre_hook'])
def test_a_layer_with_a_hook_is_kept(register):
    """pytorch#37151: a hook of a layer that was replaced was gone silently."""
    model = Body(conv())
    getattr(model.layer, register)(lambda *_: None)
    names, reasons = sorted_layers(model)
    assert names == {'before', 'after'}
    assert 'hook' in reasons['layer']
    assert 'would be lost' in reasons['layer']
    result = retrofit(model, classics.conv2d(), (1, 8, 12, 12))
    assert type(result.layer) is nn.Conv2d


def test_hooks_on_gradients_and_replaced_forwards():
    """pytorch#37151, siblings: hooks on a weight's gradient, and a forward that a library put on the object."""
    model = Body(conv())
    model.layer.weight.register_hook(lambda g: g * 0)
    assert 'hook on the gradient of its weight' in sorted_layers(model)[1]['layer']
    model = Body(conv())
    old = model.layer.forward
    model.layer.forward = lambda x: old(x).relu()
    assert 'forward was replaced on this object' in sorted_layers(model)[1]['layer']


def test_quantized_and_wrapped_linear_layers():
    """nni#4875, siblings for linear layers: integer weights, low-rank adapters, an activation."""
    class Integer(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 8)
            self.weight = nn.Parameter(torch.randint(-4, 4, (8, 8), dtype=torch.int8), requires_grad=False)

        def forward(self, x):
            return functional.linear(x, self.weight.float() * 0.1, self.bias)

    class Adapter(nn.Linear):
        """As in loralib: an affine map with two more parameters, and all of it is replaced."""

        def __init__(self) -> None:
            super().__init__(8, 8)
            self.lora_a, self.lora_b = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(8, 2))

        def forward(self, x):
            return functional.linear(x, self.weight, self.bias) + x @ self.lora_a.T @ self.lora_b.T

    class Gelu(nn.Linear):
        def forward(self, x):
            return functional.gelu(super().forward(x))

    class MixesTokens(nn.Linear):
        def forward(self, x):
            return super().forward(x + x.mean(1, keepdim=True))

    model = nn.Sequential(nn.Linear(8, 8), Integer(), Adapter(), Gelu(8, 8), MixesTokens(8, 8), nn.Tanh())
    names, reasons = sorted_layers(model, (2, 10, 8))
    assert names == {'0', '2'}
    assert 'int8' in reasons['1']
    assert 'not affine' in reasons['3']
    assert 'positions' in reasons['4']


def test_what_is_tried_leaves_the_layer_alone():
    """partialconv#44, sibling: layers that remember things in their forward keep them, and their buffers."""
    class Remembers(nn.Conv2d):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            self.register_buffer('calls', torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    model = Body(conv(Remembers)).train()
    assert 'layer' in sorted_layers(model)[0]
    assert model.layer.calls == 0
    assert model.layer.training
