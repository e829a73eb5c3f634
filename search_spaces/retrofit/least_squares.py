"""Least squares in the weights of an operator, through its own program.

An operator is linear in each of its weights. Conjugate gradients solve for one while the others are fixed: applying the
operator is the matrix product, its gradient the transposed one. No matrix is built.
"""
from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from syno_nni.modes import evaluating, with_gradients
from syno_nni.search_spaces.filled_slot import FilledSlot
from syno_nni.search_spaces.layout import Layout

DAMPING = 1e-4
"""Ridge penalty on activations, relative to the mean curvature: keeps directions that the data lack small."""
ROUNDING = 1e-11
SLOW = 1e-3
"""Conjugate gradients end when three steps together gain less than this part of the error."""
_NOISE = 1 << 17
_NOISE_TO_FIT = 1 << 22
"""Numbers in the noise on which the error is taken, and in that on which the fit is."""


def fit_weights(apply: FilledSlot, slot: FilledSlot, x: Tensor, target: Tensor, *, sweeps: int, iterations: int,
                damping: float = 0.0) -> float:
    """Fit the weights of ``slot`` so that ``apply(x)``, run with them, is near ``target``.

    ``apply`` is the slot itself or a twin of it at other spatial sizes. Several weights are fitted in turns and end
    with their norms in the proportions they began with, which training needs. Returns the relative squared error.
    """
    values = {f'layer.weights.{i}': w.detach().clone() for i, w in enumerate(slot.layer.weights)}
    start = {k: float(v.norm()) for k, v in values.items()}
    with torch.no_grad():
        # Linear in every weight: with one of them zero, the bias alone is left.
        fixed = {} if slot.bias is None else {'bias': slot.bias.detach()}
        nothing = functional_call(apply, {**fixed, **{k: torch.zeros_like(v) for k, v in values.items()}}, (x[:1],))
        wanted = target = target - nothing
        if slot.bias is not None:
            fixed = {'bias': torch.zeros_like(slot.bias)}

    # Moving axes and adding a bias of nothing is skipped where the operator has the layer's axes.
    plain = Layout.named(apply.layout) is not Layout.C and apply.pool is None and apply.offset is None and apply.same_axes
    program = apply.layer.plan.program

    def run(name: str, weight: Tensor) -> Tensor:
        weights = {**values, name: weight}
        return program(x, [*weights.values()]) if plain else functional_call(apply, {**fixed, **weights}, (x,))

    scale = float(wanted.square().sum()) or 1.0
    error = math.inf
    for _ in range(sweeps if len(values) > 1 else 1):
        before = error
        for name in values:
            values[name], residual = _least_squares(partial(run, name), values[name], target, iterations, damping)
            error = residual / scale
        if before - error < SLOW * before + 1e-7:
            break
    with torch.no_grad():
        fitted = balanced([*values.values()], [*start.values()])
        for parameter, value in zip(slot.layer.weights, fitted, strict=True):
            parameter.copy_(value)
    return error


def fit_noise(layer: nn.Module, slot: FilledSlot, *, seed: int, sweeps: int, iterations: int) -> float:
    """Fit a slot to its layer on white noise of the layer's own size; returns the relative squared error on other noise."""
    parameter = next(layer.parameters())
    layer, slot = copy.deepcopy(layer).float(), slot.to(parameter.device).float()
    shape = _input_shape(slot)
    outputs = math.prod(shape) / slot.in_channels / math.prod(slot.stride or (1,))
    unknowns = sum(w.numel() for w in slot.layer.weights) / slot.out_channels
    most = max(8, math.ceil(4 * unknowns / outputs))

    def noise(numbers: int, seed: int, most: int) -> tuple[Tensor, Tensor]:
        samples = max(1, min(most, numbers // math.prod(shape)))
        x = torch.randn(samples, *shape, generator=torch.Generator().manual_seed(seed)).to(parameter.device)
        with torch.no_grad():
            return x, layer(x) - layer(torch.zeros_like(x[:1]))

    with evaluating(layer, slot), with_gradients():
        fit_weights(slot, slot, *noise(_NOISE_TO_FIT, seed + 2, most), sweeps=sweeps, iterations=iterations, damping=DAMPING)
        x, wanted = noise(_NOISE, seed + 1, 64)
        with torch.no_grad():
            return float((slot(x) - wanted).square().sum() / wanted.square().sum().clamp_min(1e-30))


def _input_shape(slot: FilledSlot) -> tuple[int, ...]:
    """The shape of one sample of the layer's input."""
    layout = Layout.named(slot.layout)
    axes = slot.input_size if layout.channels_first and slot.input_size else layout.axes(slot.sizes)
    return layout.shape(1, slot.in_channels, axes)[1:]


def balanced(weights: Sequence[Tensor], norms: Sequence[float]) -> list[Tensor]:
    """The weights, their product unchanged, with norms in given proportions."""
    growth = [float(w.norm()) / max(n, 1e-12) for w, n in zip(weights, norms, strict=True)]
    if len(growth) < 2 or min(growth) <= 0:
        return list(weights)
    mean = math.exp(sum(map(math.log, growth)) / len(growth))
    return [w * (mean / g) for w, g in zip(weights, growth, strict=True)]


def _least_squares(run: Callable[[Tensor], Tensor], weight: Tensor, target: Tensor, iterations: int,
                   damping: float) -> tuple[Tensor, float]:
    """The weight that minimises ``|run(weight) - target|^2 + ridge``, from ``weight`` on; and the squared error.

    Conjugate gradients on the normal equations (CGLS, Björck, Numerical Methods for Least Squares Problems, 7.4).
    ``run`` must be linear in the weight.
    """
    weight = weight.clone().requires_grad_(True)
    output = run(weight)

    def transposed(residual: Tensor) -> Tensor:
        return torch.autograd.grad(output, weight, residual, retain_graph=True)[0]

    with torch.no_grad():
        residual = target - output.detach()
        start = w = weight.detach()
        at_start = residual.square().sum()
    # Gradients below this are rounding errors: steps along them would lead away.
    enough = ROUNDING * transposed(target).square().sum()
    gradient = transposed(residual)
    with torch.no_grad():
        # The mean curvature along the first direction scales the penalty to the data.
        curvature = run(gradient).square().sum() / gradient.square().sum().clamp_min(1e-30)
        ridge = damping * curvature
        direction = gradient = gradient - ridge * w
        norm = gradient.square().sum()
    errors = [at_start]
    for _ in range(iterations):
        if norm <= enough or (len(errors) > 3 and errors[-4] - errors[-1] < SLOW * errors[-4]):
            break
        with torch.no_grad():
            moved = run(direction)
            step = norm / (moved.square().sum() + ridge * direction.square().sum())
            w = w + step * direction
            residual = residual - step * moved
            errors.append(residual.square().sum())
        gradient = transposed(residual)
        with torch.no_grad():
            gradient = gradient - ridge * w
            before, norm = norm, gradient.square().sum()
            direction = gradient + norm / before * direction
    with torch.no_grad():
        error = (target - run(w)).square().sum()
        # The penalty may trade some error for smaller weights, but a worse fit than the start is a failure.
        if not error <= at_start * (1 + 10 * damping) + 1e-12:
            return start, float(at_start)
    return w, float(error)
