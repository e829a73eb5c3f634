"""The model space of a timm model."""
from __future__ import annotations

from syno_nni.search_spaces.backbone import BackboneSpace


def test_maps_too_narrow_for_a_window_stay() -> None:
    space = BackboneSpace('resnet10t', [1, 1, 64, 64], {'preset': 'conv2d'}, slots={'kinds': ['conv3x3']}, in_chans=1,
                          num_classes=10)
    names = {slot.name for slots in space.groups.values() for slot in slots}
    assert 'layer2.0.conv2' in names and 'layer3.0.conv2' not in names
    reason = {e.name: e.reason for e in space.excluded}['layer3.0.conv2']
    assert 'narrower than 2.3 windows of 3' in reason


def test_the_ratio_is_the_spaces_own() -> None:
    space = BackboneSpace('resnet10t', [1, 1, 64, 64], {'preset': 'conv2d', 'window_ratio': 1.3},
                          slots={'kinds': ['conv3x3']}, in_chans=1, num_classes=10)
    assert 'layer3.0.conv2' in {slot.name for slots in space.groups.values() for slot in slots}
