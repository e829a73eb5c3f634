"""Training and evaluation mode as something that lasts for a while."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
def keep_modes(*models: nn.Module) -> Iterator[None]:
    """Whatever mode the modules of ``models`` get inside, each has its own again afterwards."""
    before = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
