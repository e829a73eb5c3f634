"""Start operators from the weights of the layers they replace.

An operator is linear in its input and in each of its weights, so matching a layer is a linear least-squares problem in
one weight while the others are fixed. Two problems are solved with this. :func:`fit_kernels` matches the layer as a linear
map, which needs no data (:mod:`.kernel_fit`): with one weight the result is the optimum (a convolution comes back
unchanged), several weights take turns. :func:`fit_activations` then matches what the layer computes on real inputs
(:mod:`.least_squares`), slot after slot from the input of the model on, each fed by the slots already fitted, so that
later ones make up for errors of earlier ones.

**The error that is returned belongs to the layer** at its own size, border and stride included. Without data it is that of
the two linear maps, entry by entry, as white noise shows it; what pooling in front of a stride loses counts as much as
noise has of it, more than smooth activations have. With data it is that on every fourth sample, which is not fitted to.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from syno_nni.errors import SlotError
from syno_nni.modes import evaluating, with_gradients, without_autocast
from syno_nni.nested import tensors
from syno_nni.search_spaces.draws import RUNS, drawing, keep_random_state
from syno_nni.search_spaces.filled_slot import FilledSlot
from syno_nni.search_spaces.layout import Layout
from syno_nni.search_spaces.trace import keep_buffers, unwrapped

from .batches import arguments_of, call
from .kernel_fit import ITERATIONS, SWEEPS, KernelFits
from .least_squares import DAMPING, fit_weights

HELD_OUT = 4
"""Every so many-th sample of the data is not fitted to, but gives the error."""


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
        seed: of the weights that turns begin with.

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


def fit_kernels(original: nn.Module, result: nn.Module, *, sweeps: int = SWEEPS, iterations: int = ITERATIONS,
                seed: int = 0) -> dict[str, float]:
    """Match every operator to the linear map of the layer it replaces; needs no data. Returns errors per slot."""
    return KernelFits(original, (), seed=seed).fill(result, sweeps=sweeps, iterations=iterations)


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
    pairs = KernelFits(original, ()).pairs(result)
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


def recalibrate_batch_norm(model: nn.Module, inputs: Iterable[Any]) -> None:
    """Replace the running statistics of batch normalisation by those of ``inputs`` (batches as in :func:`warm_start`).

    Those that a model in training mode holds in evaluation mode are frozen, and stay as they are; so do those that it does not
    call on the inputs (auxiliary heads, layers that it drops at random).
    """
    mode = unwrapped(model).training
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
             and m.training >= mode]
    if not norms:
        return
    momenta = {m: m.momentum for m in norms}
    before = {m: [(b, b.clone()) for b in m.buffers(recurse=False)] for m in norms}
    with evaluating(model), keep_random_state(seed=0):
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
                if not norm.num_batches_tracked:
                    for buffer, value in before[norm]:
                        buffer.copy_(value)


# --- activations -----------------------------------------------------------------------------------------------------

def _fit_bias(slot: FilledSlot, x: Tensor, target: Tensor) -> None:
    """Move the bias by the mean residual of each channel."""
    with torch.no_grad():
        residual = target - slot(x)
        channel = Layout.named(slot.layout).channel_axis(residual.dim())
        slot.bias += residual.mean(dim=[d for d in range(residual.dim()) if d != channel])


def _relative(got: Tensor, wanted: Tensor, scale: Tensor) -> float:
    return float((got - wanted).square().sum() / scale.square().sum().clamp_min(1e-30))


def _held_out(samples: int) -> Tensor:
    """Which samples are not fitted to; all of them where there is only one."""
    if samples == 1:
        return torch.ones(1, dtype=torch.bool)
    step = min(HELD_OUT, samples)
    return torch.arange(samples) % step == step - 1


def _samples(original: nn.Module, old: nn.Module, result: nn.Module, new: nn.Module, inputs: Sequence[Any], calls: _Calls,
             ) -> tuple[Tensor, Tensor]:
    """Inputs of the slot and outputs of the layer, all calls of all batches in a row.

    Per batch: the calls of a batch lie apart by whole batches, so every fourth sample holds some of each.
    """
    fed, wanted = [], []
    for batch in inputs:
        pairs = _capture(original, old, batch, calls.count, calls.run)
        first = _capture(result, new, batch, 1, calls.run)[0][0]
        fed += [first, *[x for x, _ in pairs[1:]]]
        wanted += [y for _, y in pairs]
    return torch.cat(fed), torch.cat(wanted)


@dataclass(frozen=True)
class _Calls:
    """How often a model calls a slot, and in which run: other runs of a model that draws random numbers may leave it out."""
    count: int
    run: int


class _Reached(Exception):
    """The calls that were wanted are over."""


def _capture(model: nn.Module, module: nn.Module, batch: Any, calls: int, run: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Input and output of the first ``calls`` calls of ``module`` when the model runs on ``batch``; the run stops there."""
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(m: nn.Module, inputs: tuple, named: dict, result: Any) -> None:
        # Code that follows may change the output in place.
        seen.append(((*inputs, *named.values())[0].detach(), result.detach().clone()))
        if len(seen) == calls:
            raise _Reached

    handle = module.register_forward_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad(), drawing(run, model):
            call(model, batch)
    except _Reached:
        return seen
    finally:
        handle.remove()
    raise SlotError(f'the model called a {type(module).__name__} that is to be fitted {len(seen)} times, on another input '
                    f'{calls} times')


def _running_order(model: nn.Module, batch: Any, pairs: dict[str, Any]) -> dict[str, _Calls]:
    """How the model calls each slot, in the order of the first calls."""
    order: dict[str, _Calls] = {}
    for run in range(RUNS):
        counts: Counter[str] = Counter()
        handles = [slot.register_forward_pre_hook(lambda *_, name=name, counts=counts: counts.update([name]))
                   for name, (_, slot) in pairs.items()]
        try:
            with torch.no_grad(), drawing(run, model) as drawn:
                call(model, batch)
        finally:
            for handle in handles:
                handle.remove()
        for name, count in counts.items():
            order.setdefault(name, _Calls(count, run))
        if not drawn.any or len(order) == len(pairs):
            break
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
