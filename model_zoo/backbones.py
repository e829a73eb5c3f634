"""Backbones that timm lacks and the zoo needs, registered with timm: any retrofit starts from a timm name."""
from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn


def _cfg(**more: Any) -> dict[str, Any]:
    return {'url': '', 'num_classes': 1000, 'input_size': (3, 224, 224), 'pool_size': (7, 7), 'first_conv': 'conv1',
            'classifier': 'fc', **more}


default_cfgs = generate_default_cfgs({
    'resnext29_2x64d.untrained': _cfg(),
    'resnet18_cifar.untrained': _cfg(num_classes=10, input_size=(3, 32, 32), pool_size=(4, 4)),
    'resnet34_cifar.untrained': _cfg(num_classes=10, input_size=(3, 32, 32), pool_size=(4, 4)),
})


class SmallResNet(ResNet):
    """timm's ResNet for images of 32 pixels: a 3x3 stem of stride 1 and no pooling behind it.

    Args:
        width: channels of the first stage, doubled by each of the next three.
    """

    def __init__(self, *args: Any, width: int = 64, in_chans: int = 3, **kwargs: Any) -> None:
        super().__init__(*args, channels=tuple(width << stage for stage in range(4)), in_chans=in_chans, **kwargs)
        self.conv1 = nn.Conv2d(in_chans, self.conv1.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode='fan_out', nonlinearity='relu')
        self.maxpool = nn.Identity()
        # The stem no longer divides the size by four.
        self.feature_info = [{**info, 'reduction': max(info['reduction'] // (2 if i == 0 else 4), 1)}
                             for i, info in enumerate(self.feature_info)]


@register_model
def resnext29_2x64d(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNeXt-29, 2x64d: torchvision's ``ResNet(Bottleneck, [3, 3, 3, 0], groups=2, width_per_group=64)``.

    torchvision makes a block of every stage, so the last one has one; ``state_dict`` names are torchvision's.
    """
    args = {'block': Bottleneck, 'layers': (3, 3, 3, 1), 'cardinality': 2, 'base_width': 64}
    return build_model_with_cfg(ResNet, 'resnext29_2x64d', pretrained, **{**args, **kwargs})


@register_model
def resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-18 for images of 32 pixels; ``width`` (64) scales all stages."""
    args = {'block': BasicBlock, 'layers': (2, 2, 2, 2)}
    return build_model_with_cfg(SmallResNet, 'resnet18_cifar', pretrained, **{**args, **kwargs})


@register_model
def resnet34_cifar(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-34 for images of 32 pixels; ``width`` (64) scales all stages."""
    args = {'block': BasicBlock, 'layers': (3, 4, 6, 3)}
    return build_model_with_cfg(SmallResNet, 'resnet34_cifar', pretrained, **{**args, **kwargs})
