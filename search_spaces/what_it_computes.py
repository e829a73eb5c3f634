"""Whether a layer computes what its class says: an affine map of one tensor, the same at every position.

A subclass may apply a norm or an activation, wrappers compute the weight anew, hooks act before and after the call. An
operator that takes the place of such a layer would lose that without a word, so :func:`why_not_affine` says what is in
the way. Layers whose class has a forward of its own are not judged by it: they are tried on the input that the model
gave them.
"""
from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from syno_nni.modes import evaluating

from .draws import keep_random_state
from .trace import LayerTrace, has_own_forward

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Relative; 16-bit types get more."""
_HOOKS = {'_forward_pre_hooks': 'a hook before its call', '_forward_hooks': 'a hook after its call',
          '_backward_pre_hooks': 'a hook before its backward pass', '_backward_hooks': 'a hook after its backward pass'}


def why_not_alone(module: nn.Module) -> str:
    """What acts on or inside the layer beside its class, in words; '' where nothing does."""
    if 'forward' in vars(module):
        return 'its forward was replaced on this object, and an operator in its place would lose that'
    for attribute, words in _HOOKS.items():
        for hook in (getattr(module, attribute, None) or {}).values():
            kind = type(hook)
            if kind.__module__ == 'torch.nn.utils.prune':
                return ("it is pruned, and a hook computes its weight at every call: make that permanent with "
                        f"torch.nn.utils.prune.remove(layer, '{getattr(hook, '_tensor_name', 'weight')}')")
            name = getattr(hook, '__qualname__', kind.__qualname__)
            return f'{words} ({name}) would be lost: remove it, and register it again on the result'
    children = {name: type(m).__name__ for name, m in module.named_children()}
    if 'parametrizations' in children:
        return ('its weight is parametrized: make that permanent with '
                'torch.nn.utils.parametrize.remove_parametrizations')
    if children:
        return f'it holds {", ".join(f"{name} ({kind})" for name, kind in children.items())}, which would be lost'
    for name, parameter in module.named_parameters():
        if type(parameter) is not nn.Parameter:
            return f'its {name} is a {type(parameter).__name__}, not a plain tensor'
        if not parameter.is_floating_point():
            return f'its {name} is of type {str(parameter.dtype).removeprefix("torch.")}, not floating point'
        if parameter._backward_hooks or getattr(parameter, '_post_accumulate_grad_hooks', None):
            return f'a hook on the gradient of its {name} would be lost'
    if not isinstance(getattr(module, 'weight', None), nn.Parameter):
        return 'its weight is no parameter but computed elsewhere'
    mode = getattr(module, 'padding_mode', 'zeros')
    padding: Any = getattr(module, 'padding', 0)
    if mode != 'zeros' and padding != 'valid' and any(padding if isinstance(padding, tuple) else (padding,)):
        return f'it pads in {mode} mode, and slots pad with zeros'
    return ''


def why_not_affine(layer: LayerTrace) -> str:
    """Why the layer, tried on its recorded input, is no affine map that is the same at all positions; '' if it is."""
    if layer.sample is None or not has_own_forward(layer.module):
        return ''
    own = f'{type(layer.module).__name__} has a forward of its own, and'
    try:
        module: Any = copy.deepcopy(layer.module)
    except Exception as error:
        return f'{own} it cannot be copied to be tried: {type(error).__name__}: {error}'
    x = layer.sample[:2]
    try:
        with torch.no_grad(), keep_random_state(seed=0), evaluating(module):
            reason = _try(module, x)
            if not reason:
                want = module(x)
                module.train()
                if not _near(module(x), want, want):
                    reason = 'it computes something else in training'
    except Exception as error:
        reason = f'it fails on other inputs of the same shape: {type(error).__name__}: {error}'
    return reason and f'{own} {reason}'


def _try(module: Any, x: Tensor) -> str:
    fx, nothing = module(x), module(torch.zeros_like(x))
    if not _near(module(x), fx, fx):
        return 'it computes something else at each call'
    scale = x.std() if x.numel() > 1 and x.std() > 0 else 1.0
    y = torch.randn_like(x) * scale
    fy = module(y)
    if not _near(module(x - 2 * y), fx - 2 * fy + 2 * nothing, fx, fy, nothing):
        return 'its output is not affine in its input'
    linear = isinstance(module, nn.Linear)
    bias = torch.zeros_like(nothing)
    if module.bias is not None:
        bias = bias + (module.bias if linear else module.bias.view(-1, *[1] * (nothing.dim() - 2)))
    if not _near(nothing, bias, bias, fx):
        return 'it adds something other than its bias'
    if linear:
        def move(t: Tensor) -> Tensor:
            return t.movedim(-1, 1)
        return _positions(lambda t: move(module(t.movedim(1, -1))), move(x), (1,) * (x.dim() - 2), (1,) * (x.dim() - 2))
    extent = tuple(d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True))
    return _positions(module, x, tuple(module.stride), extent)


def _positions(run: Callable[[Tensor], Tensor], x: Tensor, stride: tuple[int, ...], extent: tuple[int, ...]) -> str:
    """A patch in the corner must give what it gives elsewhere, cut at the border: so padding is with zeros."""
    size = x.shape[2:]
    at = [n // 2 // s * s for n, s in zip(size, stride, strict=True)]
    patch = [min(k, n - a) for k, n, a in zip(extent, size, at, strict=True)]
    values = torch.randn(1, x.shape[1], *patch, dtype=x.dtype, device=x.device)
    corner, middle = torch.zeros_like(x[:1]), torch.zeros_like(x[:1])
    corner[_window([0] * len(at), patch)] = values
    middle[_window(at, patch)] = values
    nothing = run(torch.zeros_like(corner))
    first, second = run(corner) - nothing, run(middle) - nothing
    steps = [a // s for a, s in zip(at, stride, strict=True)]
    out = first.shape[2:]
    both = [n - d for n, d in zip(out, steps, strict=True)]
    got, want = first[_window([0] * len(at), both)], second[_window(steps, both)]
    far = torch.ones(out, dtype=torch.bool, device=x.device)
    far[tuple(slice(0, -(-(p + k) // s)) for p, k, s in zip(patch, extent, stride, strict=True))] = False
    if not _near(got, want, second) or not _near(first * far, torch.zeros_like(first), second):
        return 'it treats positions differently, or pads with other than zeros'
    together = run(torch.cat([corner, torch.ones_like(middle)]))[:1] - nothing
    return '' if _near(together, first, second) else 'what it computes of one sample depends on the others'


def _window(start: Sequence[int], extent: Sequence[int]) -> tuple[Any, ...]:
    return (..., *[slice(a, a + n) for a, n in zip(start, extent, strict=True)])


def _near(got: Tensor, want: Tensor, *scales: Tensor) -> bool:
    if got.shape != want.shape:
        return False
    size = math.sqrt(sum(float(s.double().square().mean()) for s in scales)) or 1.0
    error = float((got.double() - want.double()).square().mean().sqrt())
    return error <= _TOLERANCE.get(got.dtype, 3e-2) * size
