"""The arguments that make a timm model again, as plain data: what it was made with and what was changed since."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from timm.layers import get_act_layer, get_norm_layer
from torch import nn

ACTIVATIONS = ('silu', 'swish', 'mish', 'relu', 'relu6', 'leaky_relu', 'elu', 'prelu', 'celu', 'selu', 'gelu', 'gelu_tanh',
               'quick_gelu', 'sigmoid', 'tanh', 'hard_sigmoid', 'hard_swish', 'hard_mish', 'identity')
NORMS = ('batchnorm2d', 'batchnorm1d', 'groupnorm', 'groupnorm1', 'layernorm', 'layernorm2d', 'layernormfp32',
         'layernorm2dfp32', 'rmsnorm', 'rmsnorm2d', 'simplenorm', 'simplenorm2d', 'frozenbatchnorm2d')
_NOT_OF_THE_MODEL = ('base', 'slots', 'pretrained_cfg', 'pretrained_cfg_overlay', 'pretrained_model_args', 'features_only',
                     'out_indices', 'feature_cls', 'device', 'dtype', 'cache_dir', 'checkpoint_path', 'pretrained_strict')


def variants(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Arguments to try in this order, all JSON-able: with classes by their names, without them, without the pooling."""
    args = _current(model)
    named = {k: name_of(k, v) for k, v in args.items()}
    plain = {k: v for k, v in args.items() if _is_data(v)}
    tried: list[dict[str, Any]] = []
    for candidate in ({k: v for k, v in named.items() if v is not None}, plain):
        for without in ((), ('global_pool',), ('global_pool', 'in_chans')):
            variant = {k: v for k, v in candidate.items() if k not in without}
            if variant not in tried:
                tried.append(variant)
                yield variant


def code_in(model: nn.Module) -> dict[str, Any]:
    """The arguments that are classes or functions which timm has no name for."""
    return {k: v for k, v in _current(model).items() if name_of(k, v) is None}


def name_of(argument: str, value: Any) -> Any:
    """The value as data: itself, or timm's name of an activation or normalization class; None where there is none."""
    if _is_data(value):
        return value
    if isinstance(value, partial) and not value.args and not value.keywords:
        value = value.func
    find: tuple[tuple[str, ...], Callable[[Any], Any]] | None = None
    if 'act' in argument.split('_'):
        find = ACTIVATIONS, get_act_layer
    elif 'norm' in argument.split('_'):
        find = NORMS, get_norm_layer
    if find is None or not isinstance(value, type):
        return None
    known = {name: _get(find[1], name) for name in find[0]}
    same = [name for name, layer in known.items() if layer is value]
    # timm has classes of its own for some of torch's, which do the same.
    alike = [name for name in known if name.replace('_', '') == value.__name__.lower()]
    return next(iter((*same, *alike)), None)


def channels_of(model: nn.Module) -> int | None:
    """Channels of the images, by the first convolution; None where it cannot be found."""
    cfg = getattr(model, 'pretrained_cfg', {})
    first = cfg.get('first_conv')
    name = first[0] if isinstance(first, (list, tuple)) and first else first
    if isinstance(name, str):
        try:
            found = getattr(model.get_submodule(name), 'in_channels', None)
        except AttributeError:
            found = None
        if isinstance(found, int):
            return found
    found = getattr(model, 'in_chans', None)
    return found if isinstance(found, int) else None


def _current(model: nn.Module) -> dict[str, Any]:
    """What timm was given, and what the model says of itself now: classes, channels, pooling, image size."""
    args = {k: v for k, v in dict(getattr(model, '_model_args', {})).items() if k not in _NOT_OF_THE_MODEL}
    cfg: Mapping[str, Any] = getattr(model, 'pretrained_cfg', {})
    classes = getattr(model, 'num_classes', None)
    if isinstance(classes, int):
        args['num_classes'] = classes
    channels = channels_of(model)
    if channels is not None and (channels != 3 or 'in_chans' in args):
        args['in_chans'] = channels
    pool = _pooling(model)
    if pool is not None:
        args['global_pool'] = pool
    # timm refuses a stored size that the model does not have; the slots hold the sizes of flexible models.
    size = getattr(getattr(model, 'patch_embed', None), 'img_size', None)
    if not cfg.get('fixed_input_size'):
        args.pop('img_size', None)
    elif isinstance(size, (list, tuple)):
        args['img_size'] = list(size)
    return args


def _pooling(model: nn.Module) -> str | None:
    """The pooling in front of the classifier, which ``reset_classifier`` can change; None where it cannot be told."""
    head = getattr(model, 'head', None)
    for part in (getattr(head, 'global_pool', None), getattr(model, 'global_pool', None)):
        found = getattr(part, 'pool_type', part)
        if isinstance(found, str):
            return found
    return None


def _get(get: Callable[[Any], Any], name: str) -> Any:
    try:
        return get(name)
    except (AssertionError, KeyError):  # another version of timm
        return None


def _is_data(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
