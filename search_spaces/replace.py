"""Putting a module in the place of a layer: the one place that knows what the newcomer takes over."""
from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .filled_slot import FilledSlot


def take_over(layer: nn.Module, filled: FilledSlot) -> FilledSlot:
    """``filled`` with the device, number type, bias and mode (training or not) of the layer that it replaces."""
    like = next((p for p in layer.parameters() if p.is_floating_point()), None)
    if like is not None:
        filled.to(device=like.device, dtype=like.dtype)
    bias = getattr(layer, 'bias', None)
    if filled.bias is not None and bias is not None:
        with torch.no_grad():
            filled.bias.copy_(bias)
    return filled.train(layer.training)


def replace_layer(model: nn.Module, names: Sequence[str], module: nn.Module) -> None:
    """Put ``module`` in the place of the layer that ``model`` holds under ``names``; an operator takes over from it."""
    if isinstance(module, FilledSlot):
        take_over(model.get_submodule(names[0]), module)
    for name in names:
        parent, _, child = name.rpartition('.')
        holder: Any = model.get_submodule(parent)
        setattr(holder, child, module)
        if child == '_orig_mod' and hasattr(holder, '_initialize'):
            holder._initialize()  # of torch.compile, which calls the layer that it was made for
    if 'timm' in sys.modules:
        # One node in timm's fx graphs (feature extraction): nothing inside a slot is a feature of the model.
        from timm.layers import register_notrace_module
        register_notrace_module(FilledSlot)
