"""Start operators from the weights of the layers they replace.

An operator is linear in its input and in each of its weights, so matching a layer is a linear least-squares problem in
one weight while the others are fixed. Conjugate gradients solve it through the operator's own kernels: applying it is
the matrix product, its gradient the transposed one. No matrix is built and no operator needs code of its own.

Two problems are solved with this. :func:`fit_kernels` matches the layer as a linear map, read off by impulses (one per
input channel) on a map that holds all of their responses, which needs no data; with one weight the result is the exact
optimum (a convolution comes back unchanged), with several weights they take turns. :func:`fit_activations` then matches
what the layer computes on real inputs, slot after slot from the input of the model on, each fed by the slots already
fitted, so that later ones make up for errors of earlier ones.

**The error that is returned belongs to the layer**: the slot and the layer are both run at their own size, border and
stride included, on inputs that were not fitted to. Without data these are white noise, on which the error is that of
the two linear maps, entry by entry; what pooling in front of a stride loses counts as much as noise has of it, more
than smooth activations have. With data they are every fourth sample.
"""
from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from syno_nni.errors import SlotError, SynoError
from syno_nni.modes import evaluating, with_gradients, without_autocast
from syno_nni.nested import tensors
from syno_nni.search_spaces.filled_slot import FilledSlot
from syno_nni.search_spaces.trace import keep_buffers, keep_random_state, unwrapped

from .batches import arguments_of, call
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
HELD_OUT = 4
"""Every so many-th sample of the data is not fitted to, but gives the error."""
WORSE = 1.25
"""Where a slot's error at its own size is this many times that on impulses, it is fitted again at its own size."""
_MAPS = (6, 8, 12, 16, 24, 32, 48, 64)
_NOISE = 1 << 17
"""Numbers in the noise on which the error is taken."""
_NOISE_TO_FIT = 1 << 22


@with_gradients()
@without_autocast()
def warm_start(original: nn.Module, result: nn.Module, batches: Iterable[Any] | None = None, *,
               sweeps: int = SWEEPS, iterations: int = ITERATIONS, seed: int = 0) -> dict[str, float]:
    """Give the operators of a retrofitted model weights that make it compute nearly what the original does.

    Args:
        original: the model that was retrofitted, with its trained weights.
        result: what :func:`~syno_nni.search_spaces.retrofit.retrofit.retrofit` made of it; changed in place. The layers
            that both share should hold the same weights, as they do after retrofitting.
        batches: inputs to fit activations on and to recalibrate batch normalisation with: tensors, batches of a data
            loader, or those of a model with several inputs (:mod:`.batches`); a few hundred samples are enough. None
            fits kernels only.
        sweeps: turns per weight where an operator has several.
        iterations: conjugate-gradient steps per turn.
        seed: of the positions of the impulses.

    Returns:
        The relative squared error left in every slot, on inputs that were not fitted to: 0 is a perfect match, 1 as
        bad as all-zero weights.

    Raises:
        SlotError: ``result`` has no filled slot, or is no retrofit of ``original``.
    """
    errors = fit_kernels(original, result, sweeps=sweeps, iterations=iterations, seed=seed)
    if batches is not None:
        inputs = [*batches]
        errors = fit_activations(original, result, inputs, sweeps=max(sweeps // 4, 1), iterations=iterations)
        recalibrate_batch_norm(result, inputs)
    return errors


@with_gradients()
@without_autocast()
def fit_kernels(original: nn.Module, result: nn.Module, *, sweeps: int = SWEEPS, iterations: int = ITERATIONS,
                seed: int = 0) -> dict[str, float]:
    """Match every operator to the linear map of the layer it replaces; needs no data. Returns errors per slot."""
    errors: dict[str, float] = {}
    probes: dict[Any, tuple[FilledSlot, Tensor]] = {}
    with evaluating(original, result), keep_random_state(seed=seed):
        for name, (old, new) in _pairs(original, result).items():
            if new.bias is not None:
                with torch.no_grad():
                    new.bias.copy_(old.bias)
            if not len(new.layer.weights):
                errors[name] = _error_at_its_size(old, new, seed + 1)
                continue
            # 16 bits are too few to solve in.
            old, slot = _precise(old), _precise(new)
            key = (repr(new.config()), _extent(old), slot.layer.weights[0].dtype, slot.layer.weights[0].device)
            if key not in probes:
                probes[key] = _probe(slot, _extent(old), torch.Generator().manual_seed(seed))
            twin, x = probes[key]
            with torch.no_grad():
                target = old(x)
            left = fit_weights(twin, slot, x, target, sweeps=sweeps, iterations=iterations)
            # What no impulse reaches has its random weights still.
            with torch.no_grad():
                for weight, reached in zip(slot.layer.weights, _reached(twin, x), strict=True):
                    weight.mul_(reached)
            errors[name] = error = _error_at_its_size(old, slot, seed + 1)
            if error > WORSE * left + 1e-3 and slot.pool is None:
                errors[name] = _fit_at_its_size(old, slot, error, seed, sweeps=sweeps, iterations=iterations)
            if slot is not new:
                _copy_weights(slot, new)
    return errors


@with_gradients()
@without_autocast()
def fit_activations(original: nn.Module, result: nn.Module, inputs: Sequence[Any], *, sweeps: int = 3,
                    iterations: int = ITERATIONS) -> dict[str, float]:
    """Match every operator, and its bias, to the layer's outputs on real inputs, in the order the model runs them.

    A layer that the model calls several times is fitted to all calls: to the first as the slots before it feed it, to
    further ones, which its own output may feed, as the original does. The errors returned are those on every fourth
    sample, which is not fitted to (a single sample is both).

    Raises:
        SlotError: there is no input, or ``result`` is no retrofit of ``original``.
    """
    if not len(inputs):
        raise SlotError('there is no batch to fit activations on')
    inputs = [_plain(batch) for batch in inputs]
    original, result = unwrapped(original), unwrapped(result)
    pairs = _pairs(original, result)
    errors = {}
    with evaluating(original, result), keep_random_state(), keep_buffers(original, result):
        for name, calls in _running_order(result, inputs[0], pairs).items():
            old, new = pairs[name]
            x, target = _samples(original, old, result, new, inputs, calls)
            held = _held_out(len(x))
            fit_on = ~held if not held.all() else held
            fit_weights(new, new, x[fit_on], target[fit_on], sweeps=sweeps, iterations=iterations, damping=DAMPING)
            if new.bias is not None:
                _fit_bias(new, x[fit_on], target[fit_on])
            with torch.no_grad():
                errors[name] = _relative(new(x[held]), target[held], target[held])
    return errors


def fit_weights(apply: FilledSlot, slot: FilledSlot, x: Tensor, target: Tensor, *, sweeps: int, iterations: int,
                damping: float = 0.0) -> float:
    """Fit the weights of ``slot`` so that ``apply(x)``, run with them, is near ``target``.

    ``apply`` is the slot itself or a twin of it at other spatial sizes. Several weights are fitted in turns and end
    with their norms in the proportions they began with, which training needs. Returns the relative squared error.
    """
    values = {f'layer.weights.{i}': w.detach().clone() for i, w in enumerate(slot.layer.weights)}
    start = {k: v.norm() for k, v in values.items()}
    with torch.no_grad():
        # Linear in every weight: with one of them zero, the bias alone is left.
        fixed = {} if slot.bias is None else {'bias': slot.bias.detach()}
        nothing = functional_call(apply, {**fixed, **{k: torch.zeros_like(v) for k, v in values.items()}}, (x[:1],))
        wanted = target = target - nothing
        if slot.bias is not None:
            fixed = {'bias': torch.zeros_like(slot.bias)}

    # Moving axes and adding a bias of nothing is skipped where the operator has the layer's axes.
    plain = apply.layout != 'C' and apply.pool is None and apply.offset is None and apply.same_axes
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
    _balance(values, start)
    with torch.no_grad():
        for parameter, value in zip(slot.layer.weights, values.values(), strict=True):
            parameter.copy_(value)
    return error


def recalibrate_batch_norm(model: nn.Module, inputs: Iterable[Any]) -> None:
    """Replace the running statistics of batch normalisation by those of ``inputs`` (batches as in :func:`warm_start`).

    Those that a model in training mode holds in evaluation mode are frozen, and stay as they are.
    """
    mode = unwrapped(model).training
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
             and m.training >= mode]
    if not norms:
        return
    momenta = {m: m.momentum for m in norms}
    with evaluating(model), keep_random_state():
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a plain average over the batches
                norm.training = True
            with torch.no_grad():
                for batch in inputs:
                    call(model, batch)
        finally:
            for norm, momentum in momenta.items():
                norm.momentum = momentum


# --- least squares ---------------------------------------------------------------------------------------------------

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


def _balance(values: dict[str, Tensor], start: dict[str, Tensor]) -> None:
    """Scale the weights, their product unchanged, so that all grew by one factor since the start."""
    growth = {k: float(v.norm() / start[k].clamp_min(1e-12)) for k, v in values.items()}
    if len(values) == 1 or min(growth.values()) <= 0:
        return
    mean = math.exp(sum(math.log(g) for g in growth.values()) / len(growth))
    for name in values:
        values[name] = values[name] * (mean / growth[name])


def _fit_bias(slot: FilledSlot, x: Tensor, target: Tensor) -> None:
    """Move the bias by the mean residual of each channel."""
    with torch.no_grad():
        residual = target - slot(x)
        channel = 1 if slot.layout.startswith('NC') else residual.dim() - 1
        slot.bias += residual.mean(dim=[d for d in range(residual.dim()) if d != channel])


# --- the error of the layer ------------------------------------------------------------------------------------------

def _relative(got: Tensor, wanted: Tensor, scale: Tensor) -> float:
    return float((got - wanted).square().sum() / scale.square().sum().clamp_min(1e-30))


def _noise(slot: FilledSlot, numbers: int, seed: int, most: int) -> Tensor:
    """White noise of about so many numbers, at most so many samples, in the shape of the layer's own input."""
    shape = _input_shape(slot)
    samples = max(1, min(most, numbers // math.prod(shape)))
    return torch.randn(samples, *shape, generator=torch.Generator().manual_seed(seed))


def _error_at_its_size(old: nn.Module, slot: FilledSlot, seed: int) -> float:
    """The relative squared error of the slot as a linear map, border and stride included."""
    x = _noise(slot, _NOISE, seed, 64).to(next(old.parameters()))
    with torch.no_grad():
        wanted = old(x)
        return _relative(slot(x), wanted, wanted - old(torch.zeros_like(x[:1])))


def _fit_at_its_size(old: nn.Module, slot: FilledSlot, error: float, seed: int, *, sweeps: int, iterations: int) -> float:
    """Fit on noise: for operators that treat positions differently, which impulses in the middle cannot show.

    Keeps the weights that are better on other noise, whose error on that it returns.
    """
    outputs = math.prod(_input_shape(slot)) / slot.in_channels / math.prod(slot.stride or (1,))
    unknowns = sum(w.numel() for w in slot.layer.weights) / slot.out_channels
    x = _noise(slot, _NOISE_TO_FIT, seed + 2, max(8, math.ceil(4 * unknowns / outputs))).to(next(old.parameters()))
    before = [w.detach().clone() for w in slot.layer.weights]
    with torch.no_grad():
        target = old(x)
    fit_weights(slot, slot, x, target, sweeps=sweeps, iterations=iterations, damping=DAMPING)
    after = _error_at_its_size(old, slot, seed + 1)
    if after < error:
        return after
    with torch.no_grad():
        for weight, value in zip(slot.layer.weights, before, strict=True):
            weight.copy_(value)
    return error


def _held_out(samples: int) -> Tensor:
    """Which samples are not fitted to; all of them where there is only one."""
    if samples == 1:
        return torch.ones(1, dtype=torch.bool)
    step = min(HELD_OUT, samples)
    return torch.arange(samples) % step == step - 1


# --- what to fit on --------------------------------------------------------------------------------------------------

def _pairs(original: nn.Module, result: nn.Module) -> dict[str, tuple[Any, FilledSlot]]:
    original, result = unwrapped(original), unwrapped(result)
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


def _precise(module: Any) -> Any:
    """The module, or a copy of it in 32 bits where its parameters have 16."""
    if all(p.element_size() >= 4 for p in module.parameters()):
        return module
    return copy.deepcopy(module).float()


def _copy_weights(source: FilledSlot, target: FilledSlot) -> None:
    with torch.no_grad():
        for weight, value in zip(target.layer.weights, source.layer.weights, strict=True):
            weight.copy_(value)


def _extent(layer: Any) -> int:
    """Positions from the first to the last that one output of the layer reads, along the longest axis."""
    if not hasattr(layer, 'kernel_size'):
        return 1
    return max(d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))


def _probe(slot: FilledSlot, extent: int, generator: torch.Generator) -> tuple[FilledSlot, Tensor]:
    """A twin of the slot on a map that holds all responses to impulses in its middle, and these impulses.

    The map is the smallest on which the layer's window fits and every entry of the weights is reached; where there is
    none, the one that reaches most (the slot itself and impulses all over its map included).
    """
    best: tuple[FilledSlot, Tensor] | None = None
    most = -1
    for twin in _twins(slot, extent):
        x = _impulses(twin, generator, everywhere=twin is slot and _axes_of(slot) != ())
        reached = sum(int(r.sum()) for r in _reached(twin, x))
        if reached > most:
            best, most = (twin, x), reached
        if most == sum(w.numel() for w in slot.layer.weights):
            break
    assert best is not None
    return best


def _twins(slot: FilledSlot, extent: int) -> Iterator[FilledSlot]:
    """Slots with the same operator and weight shapes on other maps, small ones first, and at last the slot itself."""
    axes = _axes_of(slot)
    for size in _MAPS if axes and slot.layout != 'C' else ():
        # Impulses are at most one beside the middle.
        if extent // 2 > size // 2 - 2:
            continue
        sizes: dict[str, int] = {**slot.sizes, **dict.fromkeys(axes, size), 'N': 1}
        if 'H' in axes and 'T' in sizes:
            sizes['T'] = size * size
        # What the border of the layer's map cuts off under a stride stays cut off.
        inputs = [size * s - (-n % s) for n, s in zip(slot.input_size, slot.stride or (1, 1), strict=False)]
        try:
            twin = FilledSlot.from_config({**slot.config(), 'sizes': sizes, 'input_size': inputs})
        except SynoError:
            continue
        if [w.shape for w in twin.layer.weights] == [w.shape for w in slot.layer.weights]:
            yield twin.to(slot.layer.weights[0]).eval()
    yield slot


def _axes_of(slot: FilledSlot) -> tuple[str, ...]:
    """The variables of the slot's map; the tokens of a map follow from its height and width."""
    return tuple(v for v in (('H', 'W') if 'H' in slot.sizes else ('L', 'T')) if v in slot.sizes)


def _reached(slot: FilledSlot, x: Tensor) -> list[Tensor]:
    """Which entries of every weight make a difference to the outputs at ``x``, as masks."""
    weights = {f'layer.weights.{i}': (torch.rand_like(w) + 0.5).requires_grad_(True)
               for i, w in enumerate(slot.layer.weights)}
    if not weights:
        return []
    with torch.enable_grad():
        output = functional_call(slot, weights, (x,))
        gradients = torch.autograd.grad(output, list(weights.values()), torch.rand_like(output) + 0.5)
    return [g != 0 for g in gradients]


def _input_shape(slot: FilledSlot) -> tuple[int, ...]:
    """The shape of one sample of the layer's input."""
    channels, sizes = slot.in_channels, slot.sizes
    match slot.layout:
        case 'NCHW' | 'NCL':
            own = (sizes['H'], sizes.get('W', sizes['H'])) if slot.layout == 'NCHW' else (sizes['L'],)
            return (channels, *(slot.input_size or own))
        case 'NHWC' if 'H' in sizes:
            return sizes['H'], sizes.get('W', sizes['H']), channels
        case 'NC':
            return (channels,)
    return sizes.get('T', 1), channels


def _impulses(slot: FilledSlot, generator: torch.Generator, *, everywhere: bool = False) -> Tensor:
    """One sample per input channel, zero but for a one near the middle of the map.

    With ``everywhere`` four more have it in the corners, for maps that are small beside the window. In front of a
    pooling the one fills a window: pooling keeps smooth inputs and must not be asked for more. Under a stride without
    pooling there is one sample for each position in a stride.
    """
    shape = _input_shape(slot)
    channels = slot.in_channels
    axes = shape[1:] if slot.layout.startswith('NC') else shape[:-1]
    pooled = [-(-n // s) for n, s in zip(axes, slot.stride, strict=True)] if slot.stride else [*axes]
    each = torch.arange(channels)
    # Positions differ so that operators that treat even and odd positions differently see both.
    places = [[(n // 2 - (n > 3) + torch.randint(min(n, 3), (channels,), generator=generator)).clamp(0, n - 1)
               for n in pooled]]
    if everywhere:
        places += [[torch.full((channels,), i) for i in corner] for corner in itertools.product(*((0, n - 1) for n in pooled))]
    samples = []
    for where in places:
        if slot.offset is None:
            probes = torch.zeros(channels, channels, *pooled)
            probes[(each, each, *where)] = 1
            for axis, (step, size) in enumerate(zip(slot.stride, axes, strict=False), start=2):
                probes = probes.repeat_interleave(step, axis).narrow(axis, 0, size)
            samples.append(probes)
            continue
        for phase in itertools.product(*(range(s) for s in slot.stride)):
            probes = torch.zeros(channels, channels, *axes)
            place = [(w * s + p).clamp(max=n - 1) for w, s, p, n in zip(where, slot.stride, phase, axes, strict=True)]
            probes[(each, each, *place)] = 1
            samples.append(probes)
    x = torch.cat(samples).to(slot.layer.weights[0])
    return x if slot.layout.startswith('NC') else x.movedim(1, -1)


def _samples(original: nn.Module, old: nn.Module, result: nn.Module, new: nn.Module, inputs: Sequence[Any], calls: int,
             ) -> tuple[Tensor, Tensor]:
    """Inputs of the slot and outputs of the layer, all calls of all batches in a row.

    Per batch: the calls of a batch lie apart by whole batches, so every fourth sample holds some of each.
    """
    fed, wanted = [], []
    for batch in inputs:
        pairs = _capture(original, old, batch, calls)
        first = _capture(result, new, batch, 1)[0][0]
        fed += [first, *[x for x, _ in pairs[1:]]]
        wanted += [y for _, y in pairs]
    return torch.cat(fed), torch.cat(wanted)


class _Reached(Exception):
    """The calls that were wanted are over."""


def _capture(model: nn.Module, module: nn.Module, batch: Any, calls: int) -> list[tuple[Tensor, Tensor]]:
    """Input and output of the first ``calls`` calls of ``module`` when the model runs on ``batch``; the run stops there."""
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(m: nn.Module, inputs: tuple, named: dict, result: Any) -> None:
        # Code that follows may change the output in place.
        seen.append(((*inputs, *named.values())[0].detach(), result.detach().clone()))
        if len(seen) == calls:
            raise _Reached

    handle = module.register_forward_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            call(model, batch)
    except _Reached:
        return seen
    finally:
        handle.remove()
    raise SlotError(f'the model called a {type(module).__name__} that is to be fitted {len(seen)} times, on another input '
                    f'{calls} times')


def _running_order(model: nn.Module, batch: Any, pairs: dict[str, Any]) -> dict[str, int]:
    """How often the model calls each slot, in the order of the first calls."""
    order: dict[str, int] = {}
    handles = [slot.register_forward_pre_hook(lambda *_, name=name: order.update({name: order.get(name, 0) + 1}))
               for name, (_, slot) in pairs.items()]
    try:
        with torch.no_grad():
            call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return order


def _plain(batch: Any) -> Any:
    """The batch; where it was made in inference mode, with copies that gradients may pass through."""
    if not any(t.is_inference() for t in tensors(batch)):
        return batch
    args, kwargs = arguments_of(batch)

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.clone()
        return [copied(v) for v in value] if isinstance(value, list) else value
    return {k: copied(v) for k, v in kwargs.items()} if kwargs else (tuple(copied(a) for a in args),)
