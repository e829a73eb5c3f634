"""Modes of models and of torch as something that lasts for a while."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """All modules of ``models`` in evaluation mode; afterwards each in the mode that it had, frozen parts included.

    Only the flags change: an ``eval()`` of a model's own may do more (merge weights), which nothing would undo.
    """
    with keep_modes(*models):
        for model in models:
            for module in model.modules():
                module.training = False
        yield


@contextmanager
def training(*models: nn.Module) -> Iterator[None]:
    """``models`` in training mode, as their ``train()`` has it; afterwards each module in the mode that it had."""
    with keep_modes(*models):
        for model in models:
            model.train()
        yield


@contextmanager
def fine_tuning(model: nn.Module) -> Iterator[None]:
    """``model`` in training mode, frozen parts excepted; afterwards each module in the mode that it had.

    A model that is in training mode is so as it is: what it holds in evaluation mode was frozen on purpose. One in
    evaluation mode gets its own ``train()``, but for normalisations whose parameters are all frozen: their statistics
    stay too.
    """
    with keep_modes(model):
        if not model.training:
            model.train()
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and is_frozen(module):
                    module.training = False
        yield


def is_frozen(module: nn.Module) -> bool:
    """Whether the module has parameters, none of which is trained."""
    parameters = [*module.parameters(recurse=False)]
    return bool(parameters) and not any(p.requires_grad for p in parameters)


@contextmanager
def keep_modes(*models: nn.Module) -> Iterator[None]:
    """Whatever mode the modules of ``models`` get inside, each has its own again afterwards."""
    before = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


@contextmanager
def with_gradients() -> Iterator[None]:
    """Gradients are recorded, and new tensors can be trained, also inside the caller's ``no_grad`` or ``inference_mode``."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def without_autocast() -> Iterator[None]:
    """Numbers have the type that they have, also inside the caller's ``autocast``."""
    with ExitStack() as stack:
        for device in ('cpu', 'cuda', 'xpu', 'mps'):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
