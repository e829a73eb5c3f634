"""A sweep over small timm architectures; benchmarks/slots_sweep.py runs many more at their own sizes."""
from __future__ import annotations

import json

import pytest
import timm
import torch
from torch import nn

from syno_nni.search_spaces.filled_slot import misfit
from syno_nni.search_spaces.retrofit.retrofit import apply_slot_config, filled_slots, retrofit, slot_config
from syno_nni.search_spaces.slots import find_slots

from .test_retrofit import CONV, LINEAR, POINTWISE, TOKENS

GROUPED = ('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in/g, i:k_1, j:k_1] '
           'in[n, (o//(C_out/g))*(C_in/g) + c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]')

# Name, image size, arguments that make it shallow (every kind of block stays), kinds filled by default, formula.
MODELS = [
    ('resnet10t', 64, {}, {'conv3x3'}, CONV),
    ('resnet18', 64, {}, {'conv3x3'}, GROUPED),
    ('resnet50', 64, {'layers': (1, 1, 2, 1)}, {'conv3x3', 'pointwise'}, GROUPED),
    ('resnext50_32x4d', 96, {'layers': (1, 1, 2, 1)}, {'pointwise'}, POINTWISE),
    ('mobilenetv2_050', 64, {}, {'pointwise'}, POINTWISE),
    ('mobilenetv3_small_050', 64, {}, {'pointwise'}, GROUPED),
    ('convnext_atto', 64, {'depths': (1, 1, 2, 1)}, {'pointwise'}, LINEAR),
    ('vit_tiny_patch16_224', 64, {'img_size': 64, 'depth': 2}, {'linear'}, LINEAR),
    ('densenet121', 64, {'block_config': (2, 2, 2, 2)}, {'conv3x3', 'pointwise'}, GROUPED),
    ('regnetx_002', 64, {}, {'pointwise'}, GROUPED),
    ('efficientnet_b0', 64, {}, {'pointwise'}, POINTWISE),
    ('tf_efficientnetv2_b0', 65, {}, {'conv3x3', 'pointwise'}, GROUPED),
    ('mixer_s32_224', 224, {}, {'linear'}, TOKENS),
    ('repvgg_a0', 64, {}, {'conv3x3'}, CONV),
]


def build(name: str, **options) -> nn.Module:
    return timm.create_model(name, num_classes=10, **options)


@pytest.mark.parametrize(('name', 'size', 'options', 'kinds', 'formula'), MODELS)
def test_find_fill_train_and_reload(name, size, options, kinds, formula):
    torch.manual_seed(0)
    model, x = build(name, **options), torch.randn(2, 3, size, size)
    slots, excluded = find_slots(model, x)
    assert {s.kind for s in slots} == kinds
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(slots) + len(excluded) == len(layers)
    assert all(e.reason for e in excluded)
    assert 0 < sum(s.share for s in slots) <= 1

    result = retrofit(model, formula, x, slots=slots)
    filled = filled_slots(result)
    assert list(filled) == [s.name for s in slots]
    result.train()(x).square().mean().backward()
    for slot_name, slot in filled.items():
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in slot.parameters()), slot_name

    again = apply_slot_config(build(name, **options), json.loads(json.dumps(slot_config(result))))
    again.load_state_dict(result.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), result.eval()(x))


@pytest.mark.parametrize(('name', 'options'), [
    ('resnet10t', {}), ('vit_tiny_patch16_224', {'img_size': 64, 'depth': 2}), ('mobilenetv3_small_050', {})])
def test_the_rest_of_timm_still_works(name, options):
    size = 64
    model = retrofit(build(name, **options), LINEAR, (1, 3, size, size), kinds='pointwise,linear,conv3x3').eval()
    x = torch.randn(2, 3, size, size)
    final, features = model.forward_intermediates(x)
    assert final.shape[0] == 2
    assert features
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    assert model.get_classifier().out_features == 7


def test_feature_extraction_by_fx():
    from timm.models import create_feature_extractor
    model = retrofit(build('resnet10t'), CONV, (1, 3, 64, 64)).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = create_feature_extractor(model, {'layer2': 'a', 'layer4.0.conv1': 'b'})(x)
    assert features['a'].shape == (2, 128, 8, 8)
    assert features['b'].shape == (2, 512, 2, 2) or features['b'].shape[0] == 2


def test_three_by_three_convolutions_come_back_exactly():
    """Slots filled with the layer's own operator and its kernels: the model's outputs are the original's."""
    model, x = build('resnet18').eval(), torch.randn(2, 3, 64, 64)
    slots = [s for s in find_slots(model, x)[0] if not s.stride]
    result = retrofit(model, CONV, x, slots=slots)
    assert len(filled_slots(result)) == 10
    with torch.no_grad():
        for name, slot in filled_slots(result).items():
            slot.layer.weights[0].copy_(_as_weight(slot, model.get_submodule(name).weight))
        torch.testing.assert_close(result(x), model(x), atol=1e-4, rtol=1e-4)


def _as_weight(slot, kernel: torch.Tensor) -> torch.Tensor:
    """A kernel [C_out, C_in, k, k] with its axes in the order of the operator's only weight."""
    dims = [str(c.size) for c in slot.op.weights[0]]
    axes = iter((2, 3))
    return kernel.permute([{'C_out': 0, 'C_in': 1}.get(d) if d.startswith('C') else next(axes) for d in dims])


def test_operators_of_an_unfitting_layout_are_told_apart():
    slots, _ = find_slots(build('vit_tiny_patch16_224', img_size=64, depth=1), (1, 3, 64, 64))
    from syno_nni.operator import Operator
    assert 'needs H' in misfit(Operator.parse(CONV), slots[0])
