"""Start operators from the weights of the layers they replace.

An operator is linear in its input and in each of its weights, so matching a layer is a linear least-squares problem in
one weight while the others are fixed. Conjugate gradients solve it through the operator's own kernels: applying it is
the matrix product, its gradient the transposed one. No matrix is built and no operator needs code of its own.

Two problems are solved with this. :func:`fit_kernels` matches the layer as a linear map, read off by impulses (one per
input channel), which needs no data; with one weight the result is the exact optimum (a convolution comes back
unchanged), with several weights they take turns. :func:`fit_activations` then matches what the layer computes on real
inputs, slot after slot from the input of the model on, each fed by the slots already fitted, so that later ones make
up for errors of earlier ones.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from syno_nni.errors import SlotError, SynoError
from syno_nni.search_spaces.filled_slot import FilledSlot

from .retrofit import filled_slots

SWEEPS = 12
"""Turns that every weight of an operator with several weights gets."""
ITERATIONS = 24
"""Steps of conjugate gradients per turn."""
DAMPING = 1e-4
"""Ridge penalty on activations, relative to the mean curvature: keeps directions that the data lack small."""
ROUNDING = 1e-11
SLOW = 1e-3
"""Conjugate gradients end when three steps together gain less than this part of the error."""
_SMALL_MAP = 8


def warm_start(original: nn.Module, result: nn.Module, batches: Iterable[Any] | None = None, *,
               sweeps: int = SWEEPS, iterations: int = ITERATIONS, seed: int = 0) -> dict[str, float]:
    """Give the operators of a retrofitted model weights that make it compute nearly what the original does.

    Args:
        original: the model that was retrofitted, with its trained weights.
        result: what :func:`~syno_nni.search_spaces.retrofit.retrofit.retrofit` made of it; changed in place. The layers
            that both share should hold the same weights, as they do after retrofitting.
        batches: inputs (tensors, or tuples whose first item is the input, as data loaders give them) to fit
            activations on and to recalibrate batch normalisation with; a few hundred samples are enough. None fits
            kernels only.
        sweeps: turns per weight where an operator has several.
        iterations: conjugate-gradient steps per turn.
        seed: of the positions of the impulses.

    Returns:
        The relative squared error left in every slot: 0 is a perfect match, 1 as bad as all-zero weights.

    Raises:
        SlotError: ``result`` has no filled slot, or is no retrofit of ``original``.
    """
    errors = fit_kernels(original, result, sweeps=sweeps, iterations=iterations, seed=seed)
    if batches is not None:
        inputs = [_input_of(b) for b in batches]
        errors = fit_activations(original, result, inputs, sweeps=max(sweeps // 4, 1), iterations=iterations)
        recalibrate_batch_norm(result, inputs)
    return errors


def fit_kernels(original: nn.Module, result: nn.Module, *, sweeps: int = SWEEPS, iterations: int = ITERATIONS,
                seed: int = 0) -> dict[str, float]:
    """Match every operator to the linear map of the layer it replaces; needs no data. Returns errors per slot."""
    errors = {}
    for name, (old, new) in _pairs(original, result).items():
        twin = _on_small_map(new)
        probes = _impulses(twin, torch.Generator().manual_seed(seed)).to(new.layer.weights[0])
        with torch.no_grad():
            target = old.eval()(probes)
            if new.bias is not None:
                new.bias.copy_(old.bias)
        errors[name] = fit_weights(twin, new, probes, target, sweeps=sweeps, iterations=iterations)
    return errors


def fit_activations(original: nn.Module, result: nn.Module, inputs: Sequence[Tensor], *, sweeps: int = 3,
                    iterations: int = ITERATIONS) -> dict[str, float]:
    """Match every operator, and its bias, to the layer's outputs on real inputs, in the order the model runs them."""
    pairs = _pairs(original, result)
    flags = {m: m.training for m in (*original.modules(), *result.modules())}
    original.eval()
    result.eval()
    errors = {}
    try:
        for name in _running_order(result, inputs[0], pairs):
            old, new = pairs[name]
            x = torch.cat([_capture(result, new, batch, output=False) for batch in inputs])
            target = torch.cat([_capture(original, old, batch, output=True) for batch in inputs])
            errors[name] = fit_weights(new, new, x, target, sweeps=sweeps, iterations=iterations, damping=DAMPING)
            if new.bias is not None:
                errors[name] = _fit_bias(new, x, target)
    finally:
        for module, flag in flags.items():
            module.training = flag
    return errors


def fit_weights(apply: FilledSlot, slot: FilledSlot, x: Tensor, target: Tensor, *, sweeps: int, iterations: int,
                damping: float = 0.0) -> float:
    """Fit the weights of ``slot`` so that ``apply(x)``, run with them, is near ``target``.

    ``apply`` is the slot itself or a twin of it at other spatial sizes. Several weights are fitted in turns and end
    with their norms in the proportions they began with, which training needs. Returns the relative squared error.
    """
    values = {f'layer.weights.{i}': w.detach().clone() for i, w in enumerate(slot.layer.weights)}
    fixed = {} if slot.bias is None else {'bias': slot.bias.detach()}
    start = {k: v.norm() for k, v in values.items()}

    def run(name: str, weight: Tensor) -> Tensor:
        return functional_call(apply, {**fixed, **values, name: weight}, (x,))

    with torch.no_grad():
        first = next(iter(values))
        wanted = target - run(first, torch.zeros_like(values[first]))
    scale = float(wanted.square().sum()) or 1.0
    error = math.inf
    for _ in range(sweeps if len(values) > 1 else 1):
        before = error
        for name in values:
            values[name], residual = _least_squares(partial(run, name), values[name], target, iterations, damping)
            error = residual / scale
        if before - error < SLOW * before + 1e-7:
            break
    _balance(values, start)
    with torch.no_grad():
        for parameter, value in zip(slot.layer.weights, values.values(), strict=True):
            parameter.copy_(value)
    return error


def recalibrate_batch_norm(model: nn.Module, inputs: Iterable[Any]) -> None:
    """Replace the running statistics of batch normalisation by those of ``inputs`` (tensors or loader batches)."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
    flags = {m: m.training for m in model.modules()}
    momenta = {m: m.momentum for m in norms}
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the batches
            norm.train()
        with torch.no_grad():
            for batch in inputs:
                model(_input_of(batch))
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        for module, flag in flags.items():
            module.training = flag


# --- least squares ---------------------------------------------------------------------------------------------------

def _least_squares(run: Callable[[Tensor], Tensor], weight: Tensor, target: Tensor, iterations: int,
                   damping: float) -> tuple[Tensor, float]:
    """The weight that minimises ``|run(weight) - target|^2 + ridge``, from ``weight`` on; and the squared error.

    Conjugate gradients on the normal equations (CGLS, Björck, Numerical Methods for Least Squares Problems, 7.4).
    ``run`` must be affine in the weight.
    """
    weight = weight.clone().requires_grad_(True)
    output = run(weight)

    def transposed(residual: Tensor) -> Tensor:
        return torch.autograd.grad(output, weight, residual, retain_graph=True)[0]

    with torch.no_grad():
        origin = run(torch.zeros_like(weight))
        residual = target - output.detach()
        start = w = weight.detach()
        at_start = residual.square().sum()
    # Gradients below this are rounding errors: steps along them would lead away.
    enough = ROUNDING * transposed(target - origin).square().sum()
    gradient = transposed(residual)
    with torch.no_grad():
        # The mean curvature along the first direction scales the penalty to the data.
        curvature = (run(gradient) - origin).square().sum() / gradient.square().sum().clamp_min(1e-30)
        ridge = damping * curvature
        direction = gradient = gradient - ridge * w
        norm = gradient.square().sum()
    errors = [at_start]
    for _ in range(iterations):
        if norm <= enough or (len(errors) > 3 and errors[-4] - errors[-1] < SLOW * errors[-4]):
            break
        with torch.no_grad():
            moved = run(direction) - origin
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


def _balance(values: dict[str, Tensor], start: dict[str, Tensor]) -> None:
    """Scale the weights, their product unchanged, so that all grew by one factor since the start."""
    growth = {k: float(v.norm() / start[k].clamp_min(1e-12)) for k, v in values.items()}
    if len(values) == 1 or min(growth.values()) <= 0:
        return
    mean = math.exp(sum(math.log(g) for g in growth.values()) / len(growth))
    for name in values:
        values[name] = values[name] * (mean / growth[name])


def _fit_bias(slot: FilledSlot, x: Tensor, target: Tensor) -> float:
    """Move the bias by the mean residual of each channel; returns the relative squared error."""
    with torch.no_grad():
        residual = target - slot(x)
        channel = 1 if slot.layout.startswith('NC') else residual.dim() - 1
        mean = residual.mean(dim=[d for d in range(residual.dim()) if d != channel])
        slot.bias += mean
        shape = [1] * residual.dim()
        shape[channel] = -1
        left = (residual - mean.view(shape)).square().sum()
        return float(left / target.square().sum().clamp_min(1e-30))


# --- what to fit on --------------------------------------------------------------------------------------------------

def _pairs(original: nn.Module, result: nn.Module) -> dict[str, tuple[Any, FilledSlot]]:
    filled = filled_slots(result)
    modules: dict[str, Any] = dict(original.named_modules())
    if not filled:
        raise SlotError(f'{type(result).__name__} has no filled slot: retrofit it first')
    for name, slot in filled.items():
        old = modules.get(name)
        channels = (getattr(old, 'in_channels', getattr(old, 'in_features', None)),
                    getattr(old, 'out_channels', getattr(old, 'out_features', None)))
        if channels != (slot.in_channels, slot.out_channels):
            raise SlotError(f'slot {name} maps {slot.in_channels} to {slot.out_channels} channels, in the original '
                            f'{channels[0]} to {channels[1]}: is this a retrofit of that model?')
    return {name: (modules[name], slot) for name, slot in filled.items()}


def _on_small_map(slot: FilledSlot) -> FilledSlot:
    """A twin with the same weight shapes on the smallest map that the operator allows: impulses need no more."""
    # The tokens of a map follow from its height and width.
    axes = [v for v in (('H', 'W') if 'H' in slot.sizes else ('L', 'T')) if v in slot.sizes]
    for size in (_SMALL_MAP, 2 * _SMALL_MAP, 4 * _SMALL_MAP):
        if not axes or min(slot.sizes[v] for v in axes) <= size or slot.layout == 'C':
            break
        sizes: dict[str, int] = {**slot.sizes, **dict.fromkeys(axes, size), 'N': 1}
        if 'H' in axes and 'T' in sizes:
            sizes['T'] = size * size
        try:
            twin = FilledSlot(slot.op, sizes, stride=slot.stride, bias=slot.bias is not None, layout=slot.layout,
                              input_size=tuple(size * s for s in slot.stride))
        except SynoError:
            continue
        if [w.shape for w in twin.layer.weights] == [w.shape for w in slot.layer.weights]:
            return twin.to(slot.layer.weights[0]).eval()
    return slot


def _impulses(slot: FilledSlot, generator: torch.Generator) -> Tensor:
    """One sample per input channel, zero but for a one near the middle of the map.

    In front of a stride the one fills a pooling window: pooling keeps smooth inputs and must not be asked for more.
    """
    channels, sizes = slot.in_channels, slot.sizes
    axes: tuple[int, ...]
    match slot.layout:
        case 'NCHW':
            axes = (sizes['H'], sizes.get('W', sizes['H']))
        case 'NCL':
            axes = (sizes['L'],)
        case 'NHWC' if 'H' in sizes:
            axes = (sizes['H'], sizes.get('W', sizes['H']))
        case 'NC':
            axes = ()
        case _:
            axes = (sizes.get('T', 1),)
    probes = torch.zeros(channels, channels, *axes)
    # Positions differ so that operators that treat even and odd positions differently see both.
    where = [(n // 2 - (n > 3) + torch.randint(min(n, 3), (channels,), generator=generator)).clamp(0, n - 1)
             for n in axes]
    each = torch.arange(channels)
    probes[(each, each, *where)] = 1
    for axis, (step, size) in enumerate(zip(slot.stride, slot.input_size, strict=False), start=2):
        probes = probes.repeat_interleave(step, axis).narrow(axis, 0, size)
    return probes if slot.layout.startswith('NC') else probes.movedim(1, -1)


class _Reached(Exception):
    def __init__(self, value: Tensor) -> None:
        self.value = value


def _capture(model: nn.Module, module: nn.Module, batch: Tensor, *, output: bool) -> Tensor:
    """The first input or output of ``module`` when the model runs on ``batch``; the run stops there."""
    def stop(m: nn.Module, inputs: tuple, result: Any = None) -> None:
        raise _Reached(result if output else inputs[0])

    handle = module.register_forward_hook(stop) if output else module.register_forward_pre_hook(stop)
    try:
        with torch.no_grad():
            model(batch)
    except _Reached as reached:
        return reached.value.detach()
    finally:
        handle.remove()
    raise SlotError(f'the model did not reach a {type(module).__name__} that was to be fitted')


def _running_order(model: nn.Module, batch: Tensor, pairs: dict[str, Any]) -> list[str]:
    order: dict[str, None] = {}
    handles = [slot.register_forward_pre_hook(lambda *_, name=name: order.setdefault(name))
               for name, (_, slot) in pairs.items()]
    try:
        with torch.no_grad():
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return list(order)


def _input_of(batch: Any) -> Tensor:
    return batch if isinstance(batch, Tensor) else batch[0]
