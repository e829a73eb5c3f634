"""Operators in the backbones of detectors and segmentation models."""
from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.segmentation import FCN
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops import FrozenBatchNorm2d

from syno_nni.operator import classics
from syno_nni.search_spaces import filled_slots, find_slots, retrofit
from syno_nni.search_spaces.retrofit.distill import Losses, distill
from syno_nni.search_spaces.retrofit.warm_start import warm_start

POINTWISE = 'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in] in[n, c, h, w] * w1[o, c]'
IMAGE = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
TARGET = {'boxes': torch.tensor([[4., 4, 40, 40]]), 'labels': torch.tensor([1])}


class Timm(nn.Module):
    """A feature extractor of timm in the form that torchvision's pyramid wrappers take."""

    def __init__(self) -> None:
        super().__init__()
        self.net = timm.create_model('resnet10t', features_only=True, out_indices=(1, 2, 3), channels=[8, 8, 16, 16],
                                     stem_width=8)
        self.pyramid = nn.ModuleDict({'inner': nn.ModuleList(nn.Conv2d(c, 16, 1) for c in self.net.feature_info.channels()),
                                      'outer': nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))})
        self.out_channels = 16

    def forward(self, x):
        maps = [inner(y) for inner, y in zip(self.pyramid['inner'], self.net(x), strict=True)]
        for n in (1, 0):
            maps[n] = maps[n] + functional.interpolate(maps[n + 1], size=maps[n].shape[-2:])
        return OrderedDict((str(n), outer(y)) for n, (outer, y) in enumerate(zip(self.pyramid['outer'], maps, strict=True)))


def torchvision_backbone() -> nn.Module:
    def stage(old: int, new: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(old, new, 3, 2, 1, bias=False), FrozenBatchNorm2d(new), nn.ReLU(inplace=True),
                             nn.Conv2d(new, new, 3, 1, 1, bias=False), FrozenBatchNorm2d(new), nn.ReLU(inplace=True))
    body = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 8, 7, 2, 3), layer1=stage(8, 8), layer2=stage(8, 16),
                                     layer3=stage(16, 16)))
    return BackboneWithFPN(body, {'layer1': '0', 'layer2': '1', 'layer3': '2'}, [8, 16, 16], 16)


def detector(kind, backbone) -> nn.Module:
    torch.manual_seed(0)
    sizes = ((8,), (16,), (32,), (64,))[:4 if backbone is torchvision_backbone else 3]
    return kind(backbone(), num_classes=3, min_size=64, max_size=64,
                **{'anchor_generator' if kind is RetinaNet else 'rpn_anchor_generator':
                   AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))}).eval()


@pytest.mark.parametrize('kind', [FasterRCNN, RetinaNet])
@pytest.mark.parametrize('backbone', [torchvision_backbone, Timm])
def test_detectors(kind, backbone):
    """vision#4088, mmpretrain#665, detectron2#344: a detector on a feature pyramid; its backbone is filled and comes back."""
    model = detector(kind, backbone)
    slots, excluded = find_slots(model, ([IMAGE],), kinds=['conv3x3', 'pointwise'])
    assert any(s.name.startswith('backbone') for s in slots)
    assert all(s.name.startswith(('backbone', 'roi_heads')) for s in slots)
    # Heads that all levels of the pyramid share see maps of several sizes (mmdetection#2294).
    shared = [e for e in excluded if e.name.startswith(('rpn.head', 'head.')) and e.macs]
    assert shared
    assert all('called with different sizes' in e.reason for e in shared)
    conv3x3 = [s for s in slots if s.kind == 'conv3x3']
    result = retrofit(model, classics.conv2d(), slots=conv3x3)
    assert len(filled_slots(result)) == len(conv3x3)
    assert max(warm_start(model, result).values()) < 1e-9
    want, got = model([IMAGE])[0], result([IMAGE])[0]
    assert want.keys() == got.keys()
    for key in want:
        torch.testing.assert_close(got[key], want[key], atol=1e-3, rtol=1e-3)
    losses = result.train()([IMAGE], [TARGET])
    sum(losses.values()).backward()
    assert all(w.grad is not None for s in filled_slots(result).values() for w in s.layer.weights)


def test_multiply_accumulates_of_a_list_of_images():
    """fvcore#132, ALM-pedestrian-attribute#22: counts per image, where the batch is a list: they were a third of the true
    ones, since the three channels of the first image were taken for the batch."""
    model = detector(RetinaNet, Timm)
    one, two = (find_slots(model, ([IMAGE] * n,), kinds='all')[0] for n in (1, 2))
    assert one == two
    slot = next(s for s in one if s.kernel == (3, 3) and not s.stride)
    assert slot.macs == 9 * slot.sizes['C_in'] * slot.sizes['C_out'] * slot.sizes['H'] ** 2
    alone = {s.name: s.macs for s in find_slots(model.backbone, (1, 3, 64, 64), kinds='all')[0]}
    inside = {s.name.removeprefix('backbone.'): s.macs for s in one}
    assert all(inside[name] == alone[name] for name in alone.keys() & inside.keys())


def test_another_image_size_is_no_silent_fault():
    """vision#2311, sibling: a detector meets images of other proportions; what the operators cannot take is said."""
    from syno_nni.errors import SynoError
    model = detector(RetinaNet, Timm)
    result = retrofit(model, classics.conv2d(), ([IMAGE],), kinds='conv3x3')
    wide = torch.rand(3, 32, 64)
    try:
        got, want = result([wide])[0], None
    except SynoError as error:
        assert 'built for' in str(error)
    else:
        warm_start(model, result)
        want, got = model([wide])[0], result([wide])[0]
        torch.testing.assert_close(got['scores'], want['scores'], atol=1e-3, rtol=1e-3)


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = timm.create_model('resnet10t', features_only=True, out_indices=(2, 3), channels=[8, 8, 16, 16],
                                     stem_width=8, output_stride=8)

    def forward(self, x):
        return dict(zip(('aux', 'out'), self.net(x), strict=True))


def segmenter(aux: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return FCN(Backbone(), FCNHead(16, 5), FCNHead(8, 5) if aux else None)


@pytest.mark.parametrize('aux', [True, False])
def test_segmentation_is_distilled(aux):
    """segmentation_models.pytorch#373, ipex-llm#8044: a model that returns a dictionary; the distillation ended in an
    AttributeError of torch."""
    x, y = torch.randn(4, 3, 64, 64), torch.randint(0, 5, (4, 64, 64))
    model = segmenter(aux).eval()
    slots, excluded = find_slots(model, x, kinds='all')
    assert any('dilated' in e.reason for e in excluded)
    result = retrofit(model, POINTWISE, slots=[s for s in slots if s.kind == 'conv3x3'])
    warm_start(model, result, [x])
    assert len(distill(model, result, [(x, y)], steps=2, losses=Losses(labels=0.5, logits=0.5, layers=1.0))) == 2
    result.zero_grad(set_to_none=True)
    history = distill(model, result, [x], steps=2, losses=Losses(labels=0, logits=1))
    assert all(math.isfinite(loss) for loss in history)
    # Every output that both models have is compared.
    assert all(p.grad is not None for p in result.parameters())


def test_feature_maps_are_distilled_and_never_taken_for_logits():
    """segmentation_models.pytorch#373: a backbone returns a list of maps; what labels are of must be told."""
    from syno_nni.errors import SlotError
    model = timm.create_model('resnet10t', features_only=True, channels=[8, 8, 16, 16], stem_width=8).eval()
    x = torch.randn(2, 3, 64, 64)
    result = retrofit(model, POINTWISE, x)
    assert distill(model, result, [x], steps=2, losses=Losses(labels=0, logits=1))
    with pytest.raises(SlotError, match='what the labels are of is not known'):
        distill(model, result, [(x, torch.zeros(2, dtype=torch.long))], steps=1)


def test_auxiliary_classifiers():
    """vision#302, pytorch/examples#560: GoogLeNet and Inception return more in training mode than in evaluation mode."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.head, self.aux = nn.Linear(8, 5), nn.Linear(8, 5)

        def forward(self, x):
            from torchvision.models.googlenet import GoogLeNetOutputs
            x = self.a(x).relu()
            aux = self.aux(x.mean((2, 3)))
            x = self.head(self.b(x).relu().mean((2, 3)))
            return GoogLeNetOutputs(x, aux, aux) if self.training else x

    model = Net().eval()
    result = retrofit(model, POINTWISE, (1, 3, 8, 8))
    history = distill(model, result, [(torch.randn(8, 3, 8, 8), torch.randint(0, 5, (8,)))], steps=4)
    assert len(history) == 4
    assert all(torch.isfinite(torch.tensor(history)))


@pytest.mark.parametrize('frozen', ['mode', 'parameters'])
def test_frozen_normalisations_keep_their_statistics(frozen):
    """ultralytics#8753, gt-pyg#112, pytorch#66073: distillation and recalibration moved the statistics of frozen norms."""
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1),
                          nn.BatchNorm2d(8), nn.ReLU())
    result = retrofit(model.eval(), POINTWISE, (2, 4, 8, 8))
    x = torch.randn(8, 4, 8, 8) * 3 + 1
    if frozen == 'mode':
        result.train()
        result[1].eval()
        warm_start(model, result, [x])
    else:
        warm_start(model, result)
        result[1].requires_grad_(False)
    before = result[1].running_mean.clone(), result[1].running_var.clone(), result[4].running_mean.clone()
    modes = [m.training for m in result.modules()]
    distill(model, result, [x], steps=2, losses=Losses(labels=0, logits=1))
    assert torch.equal(result[1].running_mean, before[0])
    assert torch.equal(result[1].running_var, before[1])
    assert not torch.equal(result[4].running_mean, before[2])
    assert [m.training for m in result.modules()] == modes
    if frozen == 'mode':
        assert torch.equal(result[1].running_mean, model[1].running_mean)
