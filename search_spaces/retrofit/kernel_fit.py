"""The error that an operator leaves in the place of a trained layer, without data, and the weights that leave it.

The error is that of two linear maps, entry by entry: of the operator in its slot and of the layer, border, stride and
pooling included. It is what white noise at their inputs shows. Everything is solved in the space of the layer's kernel
(:mod:`.kernel_problem`), for all layers of one shape at once (:mod:`.kernel_solver`): no plan is made and nothing is run.
"""
from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from syno_nni.errors import SlotError, SynoError
from syno_nni.modes import evaluating, with_gradients, without_autocast
from syno_nni.operator import Operator
from syno_nni.plan.initialize import variances
from syno_nni.search_spaces.coefficients import fitting
from syno_nni.search_spaces.filled_slot import FilledSlot, offset_in, operator_in, roles_of
from syno_nni.search_spaces.layout import Layout
from syno_nni.search_spaces.slots import Slot, first_middle
from syno_nni.search_spaces.trace import has_own_forward, unwrapped

from .kernel_problem import Geometry, Problem, TooLarge, build, joined, thinned
from .kernel_solver import Solver
from .least_squares import balanced, fit_noise
from .retrofit import filled_slots

SCREENING = 4
"""Turns that every weight of an operator with several weights gets for an error, ..."""
SWEEPS = 12
"""... and for weights."""
ITERATIONS = 24
"""Steps of conjugate gradients per turn."""
MAPS = (6, 8, 12, 16, 24, 32, 48)
BESIDE = 1e-3
"""Weight of a larger map, where the layer's own does not show all of a window."""
ENTRIES = 1 << 20
"""Where turns go step by step and positions differ much, an error is taken on so many of them that this is the work."""
KEPT = 1 << 28
"""Bytes of fitted weights that are kept; others are fitted again when they are wanted."""


@dataclass(frozen=True)
class Place:
    """An operator as a slot runs it, without its weights. Slots with equal places share everything but their layers."""
    op: Operator
    sizes: tuple[tuple[str, int], ...]
    layout: str
    stride: tuple[int, ...]
    input_size: tuple[int, ...]
    offset: tuple[int, ...] | None

    @classmethod
    def of(cls, op: Operator, slot: Slot) -> Place:
        """Raises SlotError where the operator does not fit."""
        slot = fitting(op, slot)
        return cls(op, tuple(slot.sizes.items()), slot.layout, slot.stride, slot.input_size, offset_in(op, slot))

    @classmethod
    def of_filled(cls, slot: FilledSlot) -> Place:
        return cls(slot.op, tuple(slot.sizes.items()), slot.layout, slot.stride, slot.input_size, slot.offset)

    @property
    def bound(self) -> tuple[Operator, dict[str, int]]:
        """The operator that runs and its binding."""
        return operator_in(self.op, dict(self.sizes), self.layout, self.stride, self.offset)

    def at(self, size: int) -> Place:
        """The same on another map, whose border cuts off under a stride what that of this one does."""
        sizes = dict(self.sizes)
        axes = [v for v in (('H', 'W') if 'H' in sizes else ('L', 'T')) if v in sizes]
        sizes |= dict.fromkeys(axes, size) | {'N': 1}
        if 'H' in axes and 'T' in sizes:
            sizes['T'] = size * size
        strides = self.stride or (1,) * len(self.input_size)
        inputs = tuple(size * s - (-n % s) for n, s in zip(self.input_size, strides, strict=True))
        return replace(self, sizes=tuple(sizes.items()), input_size=inputs)

    @property
    def key(self) -> tuple[Any, ...]:
        # Equal operators may have their weights in another order.
        return (self.op.structure, self.sizes, self.layout, self.stride, self.input_size, self.offset)


@dataclass
class Fitted:
    """What is known of one place against one layer."""
    error: float
    sweeps: int
    weights: list[Tensor] | None = None


class KernelFits:
    """Fits of operators to the layers of one model, each made once.

    Args:
        original: the model with its trained weights. Layers whose weights have changed are fitted anew.
        slots: its slots, as :func:`~syno_nni.search_spaces.slots.find_slots` gives them.
        seed: of the weights that alternating fits begin with.
    """

    def __init__(self, original: nn.Module, slots: Sequence[Slot], *, seed: int = 0) -> None:
        self.modules: dict[str, Any] = dict(unwrapped(original).named_modules())
        self.slots = {slot.name: slot for slot in slots}
        self.seed = seed
        self._fits: OrderedDict[tuple[Any, ...], Fitted] = OrderedDict()
        self._bytes = 0
        self._kernels: dict[tuple[Any, ...], Tensor] = {}

    def errors(self, op: Operator, slots: Sequence[Slot] | None = None, *, give_up_above: float | None = None,
               ) -> dict[str, float]:
        """The relative squared error per slot: 0 is a perfect match, 1 as bad as all-zero weights.

        Args:
            op: the operator.
            slots: slots of the model (all by default); those in which the operator does not fit are left out.
            give_up_above: where no weights can have an error as low as this, the bound that shows it is returned, which
                costs less.
        """
        places: dict[str, Place] = {}
        for slot in self.slots.values() if slots is None else slots:
            try:
                places[slot.name] = Place.of(op, slot)
            except SlotError:
                continue
        return {name: fit.error for name, fit in self._fitted(places, SCREENING, give_up_above).items()}

    def weights(self, op: Operator, slot_name: str) -> list[Tensor]:
        """The fitted weights of a slot, in the order and the shapes of ``FilledSlot.layer.weights``.

        Raises:
            SlotError: the operator does not fit the slot, or there is none of this name.
        """
        if slot_name not in self.slots:
            raise SlotError(f'no slot is called {slot_name!r}; they are {", ".join(self.slots)}')
        place = Place.of(op, self.slots[slot_name])
        fit = self._fitted({slot_name: place}, SWEEPS)[slot_name]
        assert fit.weights is not None
        wanted = [math.sqrt(v * w.numel()) for v, w in zip(
            variances(*place.bound), fit.weights, strict=True)]
        return balanced(fit.weights, wanted)

    def fill(self, result: nn.Module, *, sweeps: int = SWEEPS, iterations: int = ITERATIONS) -> dict[str, float]:
        """Put fitted weights, and the layers' biases, into all filled slots of a retrofitted model; returns the errors.

        Raises:
            SlotError: it has no filled slot, or is no retrofit of the original.
        """
        filled = {name: slot for name, (_, slot) in self.pairs(result).items()}
        fits = self._fitted({name: Place.of_filled(slot) for name, slot in filled.items()}, sweeps, None, iterations)
        with torch.no_grad():
            for name, slot in filled.items():
                if slot.bias is not None:
                    slot.bias.copy_(self.modules[name].bias)
                values = balanced(fits[name].weights or [], [float(w.norm()) for w in slot.layer.weights])
                for weight, value in zip(slot.layer.weights, values, strict=True):
                    weight.copy_(value)
        return {name: fit.error for name, fit in fits.items()}

    def pairs(self, result: nn.Module) -> dict[str, tuple[Any, FilledSlot]]:
        """Layers and the operators in their places, by name. Raises SlotError as :meth:`fill`."""
        filled = filled_slots(unwrapped(result))
        if not filled:
            raise SlotError(f'{type(unwrapped(result)).__name__} has no filled slot: retrofit it first')
        for name, slot in filled.items():
            channels = channels_of(self.modules.get(name))
            if channels != (slot.in_channels, slot.out_channels):
                raise SlotError(f'slot {name} maps {slot.in_channels} to {slot.out_channels} channels, in the original '
                                f'{channels[0]} to {channels[1]}: is this a retrofit of that model?')
        return {name: (self.modules[name], slot) for name, slot in filled.items()}

    # fits
    @with_gradients()
    @without_autocast()
    @torch.no_grad()
    def _fitted(self, places: Mapping[str, Place], sweeps: int, give_up_above: float | None = None,
                iterations: int = ITERATIONS) -> dict[str, Fitted]:
        found: dict[str, Fitted] = {}
        missing: dict[tuple[Any, ...], dict[str, Place]] = {}
        for name, place in places.items():
            key = (place.key, *self._layer(name))
            fit = self._fits.get(key)
            if fit is not None and fit.weights is not None and (fit.sweeps >= sweeps or len(fit.weights) < 2):
                self._fits.move_to_end(key)
                found[name] = fit
            else:
                layer = self.modules[name]
                missing.setdefault((place.key, _shape(layer)), {})[name] = place
        for group in missing.values():
            found |= self._fit(group, sweeps, give_up_above, iterations)
        return {name: found[name] for name in places}

    def _fit(self, group: Mapping[str, Place], sweeps: int, give_up_above: float | None, iterations: int,
             ) -> dict[str, Fitted]:
        """Fits places of equal keys at once."""
        place = next(iter(group.values()))
        layer = self.modules[next(iter(group))]
        where = geometry(layer, place)
        op, sizes = place.bound
        try:
            problem = problem_of(layer, place)
        except TooLarge:
            return {name: self._keep((place.key, *self._layer(name)), self._run(name, place, sweeps, iterations))
                    for name in group}
        if sweeps <= SCREENING and not problem.falls_apart:
            problem = thinned(problem, ENTRIES // len(group))
        kernels = torch.stack([self._kernel(name, where) for name in group])
        solver = Solver(problem, kernels, energies(kernels, where))
        bounds = solver.floor.tolist()
        if give_up_above is not None and min(bounds) > give_up_above:
            return {name: Fitted(bound, 0) for name, bound in zip(group, bounds, strict=True)}
        random = torch.Generator().manual_seed(self.seed)
        start = [torch.randn(shape, generator=random, dtype=torch.float64).to(kernels.dtype).expand(len(kernels), *shape)
                 for shape in op.weight_shapes(sizes)]
        weights, errors = solver.solve(start, sweeps=sweeps, iterations=iterations, quick=sweeps <= SCREENING)
        found = {}
        for n, (name, error) in enumerate(zip(group, errors.tolist(), strict=True)):
            found[name] = self._keep((place.key, *self._layer(name)), Fitted(error, sweeps, [w[n].clone() for w in weights]))
        return found

    def _run(self, name: str, place: Place, sweeps: int, iterations: int) -> Fitted:
        """A fit through the operator's program, on white noise."""
        slot = FilledSlot(place.op, dict(place.sizes), stride=place.stride, input_size=place.input_size,
                          layout=place.layout, offset=place.offset)
        layer = self.modules[name]
        error = fit_noise(layer, slot, seed=self.seed, sweeps=sweeps, iterations=iterations)
        return Fitted(error, sweeps, [w.detach().cpu() for w in slot.layer.weights])

    def _keep(self, key: tuple[Any, ...], fit: Fitted) -> Fitted:
        self._forget(key)
        self._fits[key] = fit
        self._bytes += _bytes(fit)
        for old in list(self._fits):
            if self._bytes <= KEPT or old == key:
                break
            self._bytes -= _bytes(self._fits[old])
            self._fits[old].weights = None
        return fit

    def _forget(self, key: tuple[Any, ...]) -> None:
        if key in self._fits:
            self._bytes -= _bytes(self._fits.pop(key))

    # layers
    def _layer(self, name: str) -> tuple[Any, ...]:
        weight = self.modules[name].weight
        # Tensors of inference mode do not count their changes.
        version = float(weight.double().square().sum()) if weight.is_inference() else weight._version
        return name, weight.data_ptr(), version

    def _kernel(self, name: str, where: Geometry) -> Tensor:
        """``[C_out, C_in, taps]``, in 32 bits at least."""
        key = self._layer(name)
        if key not in self._kernels:
            for old in [k for k in self._kernels if k[0] == name]:
                del self._kernels[old]
            self._kernels[key] = kernel_of(self.modules[name], where)
        return self._kernels[key]


def problem_of(layer: Any, place: Place) -> Problem:
    """The problem on the layer's own map; and, with little weight, on a larger one where that map is smaller than a window.

    Raises:
        TooLarge: see :mod:`.kernel_problem`.
    """
    roles = roles_of(c.size for c in place.op.inputs)
    where = geometry(layer, place)
    problem = build(*place.bound, where, roles)
    if problem.all_count or not where.outputs or Layout.named(place.layout) is Layout.C:
        return problem
    shapes = place.bound[0].weight_shapes(place.bound[1])
    for size in MAPS:
        larger = place.at(size)
        try:
            op, sizes = larger.bound
            if op.weight_shapes(sizes) != shapes:
                continue
            other = build(op, sizes, geometry(layer, larger), roles)
        except (SynoError, TooLarge):
            continue
        if other.all_count:
            return joined(problem, other, BESIDE)
    return problem


def geometry(layer: Any, place: Place) -> Geometry:
    """Where a layer and the operator in its place read."""
    sizes, stride = dict(place.sizes), place.stride
    outputs = Layout.named(place.layout).axes(sizes)
    ones, zeros = (1,) * len(outputs), (0,) * len(outputs)
    channels = channels_of(layer)
    if isinstance(layer, nn.Linear):
        return Geometry(outputs, outputs, ones, ones, zeros, zeros, False, channels)
    inputs, kernel = place.input_size or outputs, tuple(layer.kernel_size)
    middle = tuple(first_middle(layer, (1, channels[0], *inputs), (1, channels[1], *outputs)))
    first = tuple(m - k // 2 for m, k in zip(middle, kernel, strict=True))
    strided = max(stride, default=1) > 1
    return Geometry(outputs, inputs, stride if strided else ones, kernel, first, place.offset or zeros,
                    strided and place.offset is None, channels)


def kernel_of(layer: Any, where: Geometry) -> Tensor:
    """The kernel of a layer, ``[C_out, C_in, taps]``, groups filled with zeros."""
    if has_own_forward(layer):
        return response_of(layer, where)
    with torch.no_grad():
        weight = layer.weight.detach().cpu()
        weight = weight.float() if weight.element_size() < 4 else weight.clone()
        weight = weight.reshape(*weight.shape[:2], -1)
        out, channels = where.channels[1], where.channels[0]
        groups = channels // weight.shape[1]
        if groups == 1:
            return weight
        full = weight.new_zeros(groups, out // groups, groups, weight.shape[1], weight.shape[2])
        each = torch.arange(groups)
        full[each, :, each] = weight.reshape(groups, out // groups, *weight.shape[1:])
        return full.reshape(out, channels, -1)


def response_of(layer: Any, where: Geometry) -> Tensor:
    """The kernel of a layer whose class computes by code of its own: what one output in the middle of a map reads."""
    weight = layer.weight
    inputs = [n + s * max(0, -(-(2 * k + s - n) // s))
              for n, s, k in zip(where.inputs, where.stride, where.kernel, strict=True)]
    out, channels = where.channels[1], where.channels[0]
    with evaluating(layer), with_gradients(), without_autocast():
        layer = copy.deepcopy(layer).float() if weight.element_size() < 4 else layer
        linear = isinstance(layer, nn.Linear)
        shape = (out, *inputs, channels) if linear else (out, channels, *inputs)
        x = torch.zeros(shape, dtype=layer.weight.dtype, device=weight.device, requires_grad=True)
        y = layer(x)
        y = y.movedim(-1, 1) if linear else y
        middle = [n // 2 for n in y.shape[2:]]
        each = torch.arange(out)
        gradient, = torch.autograd.grad(y[(each, each, *middle)].sum(), x)
    gradient = gradient.movedim(-1, 1) if linear else gradient
    for axis, (m, s, f, k) in enumerate(zip(middle, where.stride, where.first, where.kernel, strict=True), start=2):
        gradient = gradient.narrow(axis, m * s + f, k)
    return gradient.detach().cpu().reshape(out, channels, -1)


def energies(kernels: Tensor, where: Geometry) -> Tensor:
    """The squared norms of the matrices of layers on a map."""
    seen = torch.ones(1, dtype=torch.float64)
    for n, o, s, k, f in zip(where.inputs, where.outputs, where.stride, where.kernel, where.first, strict=True):
        at = torch.arange(o)[:, None] * s + f + torch.arange(k)
        seen = (seen[:, None] * ((at >= 0) & (at < n)).sum(0)).reshape(-1)
    return kernels.double().square().sum((1, 2)) @ seen


def channels_of(layer: Any) -> tuple[int | None, int | None]:
    return (getattr(layer, 'in_channels', getattr(layer, 'in_features', None)),
            getattr(layer, 'out_channels', getattr(layer, 'out_features', None)))


def _shape(layer: Any) -> tuple[Any, ...]:
    return (type(layer).__name__, tuple(layer.weight.shape), layer.weight.dtype, getattr(layer, 'padding', None),
            getattr(layer, 'groups', 1))


def _bytes(fit: Fitted) -> int:
    return sum(w.numel() * w.element_size() for w in fit.weights or ())
