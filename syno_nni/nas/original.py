"""The original model of an experiment file: one of timm's, or what a function of the user's returns, with its weights."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from syno_nni.backbone import create_backbone
from syno_nni.errors import ConfigError
from syno_nni.run.config import SearchConfig
from syno_nni.user_code import call_function, import_function
from syno_nni.weights import load_weights


def model_source(config: SearchConfig, num_classes: int, *, weights: bool = True) -> dict[str, Any]:
    """What :func:`make_model` makes the model from: plain data, which NNI can record and send.

    Args:
        config: the experiment file.
        num_classes: of the data.
        weights: whether the model gets the weights that the file names.
    """
    model = config.model
    checkpoint = {'checkpoint': model.checkpoint} if weights and model.checkpoint else {}
    if model.factory is not None:
        return {'factory': model.factory, 'code': config.trial_code_directory, 'arguments': model.kwargs, **checkpoint}
    arguments = {**model.kwargs, 'in_chans': config.data.channels, 'num_classes': num_classes}
    if not weights or model.checkpoint:
        arguments['pretrained'] = False
    return {'name': model.name, 'arguments': arguments, **checkpoint}


def make_model(source: Mapping[str, Any]) -> nn.Module:
    """The model of a :func:`model_source`.

    Raises:
        ConfigError: there is no such model or function, it fails or returns no module, or the weights do not fit.
    """
    if 'factory' in source:
        where = 'model.factory'
        function = import_function(source['factory'], source.get('code'), where)
        model = call_function(function, dict(source.get('arguments', {})), where)
        if not isinstance(model, nn.Module):
            raise ConfigError(f'{where}: {source["factory"]} should return a torch.nn.Module, got {type(model).__name__}')
    else:
        model = create_backbone(source['name'], **source.get('arguments', {}))
    if source.get('checkpoint'):
        load_weights(model, source['checkpoint'])
    return model


def original_model(config: SearchConfig, num_classes: int, *, weights: bool = True) -> nn.Module:
    """The original model of an experiment file; see :func:`model_source`.

    Raises:
        ConfigError: it cannot be made, or does not take the images or have the classes of the data.
    """
    model = make_model(model_source(config, num_classes, weights=weights))
    check_fits(model, config, num_classes)
    return model


def check_fits(model: nn.Module, config: SearchConfig, num_classes: int) -> None:
    """Run the model on one image.

    Raises:
        ConfigError: it fails, or does not return one score for each class.
    """
    side, channels = config.data.image_size, config.data.channels
    parameter = next(model.parameters(), torch.zeros(()))
    before = model.training
    try:
        with torch.no_grad():
            output = model.eval()(torch.zeros(2, channels, side, side).to(parameter))
    except Exception as error:
        raise ConfigError(f'model: {config.model.title} does not run on images [{channels}, {side}, {side}] as the data have '
                          f'them: {type(error).__name__}: {" ".join(str(error).split())[:300]}') from error
    finally:
        model.train(before)
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or output.shape[1] < num_classes:
        got = f'a tensor {list(output.shape)}' if isinstance(output, torch.Tensor) else type(output).__name__
        raise ConfigError(f'model: {config.model.title} should return scores [images, {num_classes} classes], got {got}')
