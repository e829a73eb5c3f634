"""The module that takes a layer's place: an operator, the layer's stride, and its bias."""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from syno_nni.errors import SizeError, SlotError
from syno_nni.measure.work import Work
from syno_nni.operator import Operator
from syno_nni.operator.formula import to_text
from syno_nni.operator.rectangles import for_rectangles
from syno_nni.operator.size import Size
from syno_nni.operator.striding import every
from syno_nni.plan.layer import SynthesizedLayer
from syno_nni.plan.machine import Machine
from syno_nni.plan.optimize import estimated_cost
from syno_nni.plan.planned import as_leaf, unscriptable

from .layout import Layout
from .slot_work import slot_work
from .slots import Slot

HARDLY_MORE = 1.25
"""A stride without pooling may cost so many times what pooling and the operator behind it cost."""


class FilledSlot(nn.Module):
    """An operator in the place of a convolution or linear layer: same input and output shapes, any batch size.

    Input and output have the layout of the replaced layer; where the operator wants its axes otherwise (a tokens
    operator in a pointwise convolution, say) they are moved around it. A stride is an average pooling in front, or, with
    an ``offset``, every stride-th output of the operator on the whole map, as in a strided convolution: the plan computes
    the others only where it must. Images, maps and sequences of other sizes are taken where the operator's formula allows
    them (:class:`~syno_nni.plan.layer.SynthesizedLayer`); ``sizes`` are those that it is initialized and planned for.

    Args:
        op: the operator; it maps ``C_in`` channels to ``C_out`` and keeps the other sizes.
        sizes: the slot's binding.
        stride: of the replaced layer, () for none.
        input_size: spatial sizes before the stride.
        bias: whether to add one number per output channel.
        layout: of the replaced layer, see :class:`~syno_nni.search_spaces.slots.Slot`.
        offset: the first output that is kept, per axis, each below its stride; None for a pooling in front.
        floor: whether what the stride leaves over at the border of a map of another size is dropped, as by even kernels
            without padding, rather than a position of its own.

    Raises:
        SlotError: the operator does not fit the binding or the layout, or cannot stride without pooling.
    """

    def __init__(self, op: Operator, sizes: Mapping[str, int], *, stride: tuple[int, ...] = (),
                 input_size: tuple[int, ...] = (), bias: bool = False, layout: str = 'NCHW',
                 offset: tuple[int, ...] | None = None, floor: bool = False) -> None:
        super().__init__()
        self.op = op
        self.sizes = dict(sizes)
        self.layout = layout
        self.stride = tuple(stride)
        self.input_size = tuple(input_size)
        self.floor = floor
        self.in_channels, self.out_channels = sizes['C_in'], sizes['C_out']
        self._layer_roles, self._op_roles = Layout.named(layout).roles, roles_of(c.size for c in op.inputs)
        self.offset = None if offset is None or max(stride, default=1) == 1 else tuple(offset)
        self.pool = _pooling(self.stride, self.input_size) if self.offset is None else None
        self.layer = SynthesizedLayer(*operator_in(op, sizes, layout, self.stride, self.offset))
        self.bias = nn.Parameter(torch.zeros(self.out_channels)) if bias else None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call of the operator, per sample."""
        return self.layer.op.macs(self.layer.sizes)

    @property
    def same_axes(self) -> bool:
        """Whether the operator has its axes in the order of the layer's."""
        return self._layer_roles == self._op_roles

    @property
    def roles(self) -> tuple[str, str]:
        """The axes of the operator and of the layer, see :class:`~syno_nni.search_spaces.layout.Layout`."""
        return self._op_roles, self._layer_roles

    @property
    def weight(self) -> Tensor:
        """For code that asks a layer for the type or the device of its weight: the first of the operator's, of its shape."""
        return next(self.parameters(), torch.empty(0))

    @property
    def in_features(self) -> int:
        return self.in_channels

    @property
    def out_features(self) -> int:
        return self.out_channels

    def forward(self, input: Tensor) -> Tensor:
        """The replaced layer's input to its output, in its layout: (N, C_in, H, W) to (N, C_out, H, W) over the stride.

        Raises:
            GraphError: the input has another number of channels or dimensions.
            SizeError: the operator's formula does not allow the size; names those nearest to it that it does.
        """
        x = input  # the name that torch's layers give it, by which models may call them
        if isinstance(x, fx.Proxy):
            return as_leaf(self, x)  # nothing inside a slot is a feature of the model
        if self.pool is not None:
            x = self._pooled(x)
        elif self.offset is not None:
            x = self._whole(x)
        if self._layer_roles == self._op_roles:
            y = self.layer(x)
            if self.bias is None:
                return y
            return y + (self.bias if self._op_roles[-1] == 'C' else _stand_up(self.bias, len(self._op_roles) - 2))
        if self._layer_roles[1] == 'C':
            x = x.movedim(1, -1)
        lead = x.shape[:-1]
        if self._op_roles == 'NC':
            x = x.reshape(-1, self.in_channels)
        elif self._op_roles.count('S') == 1:
            x = x.reshape(lead[0], -1, self.in_channels)
        if self._op_roles.startswith('NCS'):
            y = self.layer(x.movedim(-1, 1)).movedim(1, -1)
        else:
            y = self.layer(x)
        y = y.reshape(lead + (self.out_channels,))
        if self.bias is not None:
            y = y + self.bias
        return y.movedim(-1, 1) if self._layer_roles[1] == 'C' else y

    def work(self, shape: Sequence[int] | None = None) -> tuple[Work, ...]:
        """What the slot does, for a cost model (`syno_nni.measure.cost_model`): pooling, moved axes, the operator, the bias.

        Args:
            shape: of the input, batch included; None for that of the slot. Raises as `forward`.
        """
        if shape is None:
            layout = Layout.named(self.layout)
            shape = layout.shape(self.sizes.get('N', 1), self.in_channels,
                                 self.input_size if self.input_size and layout.channels_first else layout.axes(self.sizes))
        return slot_work(self, shape)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool is not None and not torch.jit.is_tracing() and x.shape[2:] == self.input_size:
            return self.pool(x)
        # Partial windows at the border average what they have, so the result has ceil(n / stride) positions.
        if len(self.stride) == 1:
            return functional.avg_pool1d(x, self.stride, ceil_mode=not self.floor)
        return functional.avg_pool2d(x, self.stride, ceil_mode=not self.floor)

    def _whole(self, x: Tensor) -> Tensor:
        """The map as the operator strides over it: filled with zeros to a multiple of the stride."""
        if self.floor:
            for axis, s in enumerate(self.stride, start=2):
                x = x.narrow(axis, 0, x.shape[axis] // s * s)
        if 'S' not in self._op_roles:
            for axis, (a, s) in enumerate(zip(self.offset or (), self.stride, strict=True), start=2):
                x = x[(slice(None),) * axis + (slice(a, None, s),)]
            return x
        short = [-n % s for n, s in zip(x.shape[2:], self.stride, strict=True)]
        return functional.pad(x, [p for n in reversed(short) for p in (0, n)]) if any(short) else x

    def extra_repr(self) -> str:
        where = 'x'.join(str(self.sizes[v]) for v in ('H', 'W', 'L', 'T') if v in self.sizes)
        parts = [self.op.id, f'{self.in_channels} -> {self.out_channels}' + f' @{where}' * bool(where)]
        if self.stride:
            parts.append(f'stride={self.stride}')
        parts.append(f'bias={self.bias is not None}')
        return ', '.join(parts + [f'offset={self.offset}'] * (self.offset is not None))

    def __prepare_scriptable__(self) -> NoReturn:
        raise unscriptable(self)

    def config(self) -> dict[str, Any]:
        """The arguments that rebuild this module, as JSON-able data; the formula keeps the order of the weights."""
        return {'formula': to_text(self.op), 'sizes': dict(self.sizes), 'stride': list(self.stride),
                'input_size': list(self.input_size), 'bias': self.bias is not None, 'layout': self.layout,
                **({} if self.offset is None else {'offset': list(self.offset)}),
                **({'floor': True} if self.floor else {})}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FilledSlot:
        """The inverse of :meth:`config`, with fresh weights."""
        return cls(Operator.parse(config['formula']), config['sizes'], stride=tuple(config.get('stride', ())),
                   input_size=tuple(config.get('input_size', ())), bias=config.get('bias', False),
                   layout=config.get('layout', 'NCHW'),
                   offset=tuple(config['offset']) if config.get('offset') is not None else None,
                   floor=config.get('floor', False))

    @classmethod
    def of(cls, op: Operator, slot: Slot) -> FilledSlot:
        """The operator in a slot that :func:`~syno_nni.search_spaces.slots.find_slots` found.

        Its ``striding`` says how the stride is made; ``'auto'`` by what :func:`ways_to_stride` costs.

        Raises:
            SlotError: the operator does not fit, or cannot stride as the slot says.
        """
        offset = offset_in(op, slot)
        # An even kernel without padding drops what is left of a map that its stride does not divide.
        floor = any(s > 1 and k % 2 == 0 for s, k in zip(slot.stride, slot.kernel)) and 'Same' not in slot.module_type
        return cls(op, slot.sizes, stride=slot.stride, input_size=slot.input_size, bias=slot.bias, layout=slot.layout,
                   offset=offset, floor=floor)


def offset_in(op: Operator, slot: Slot) -> tuple[int, ...] | None:
    """The ``offset`` with which the operator fills a slot, as its ``striding`` wants it; None where it pools or has no stride.

    Raises:
        SlotError: the operator does not fit, or cannot stride as the slot says.
    """
    if max(slot.stride, default=1) == 1 or slot.striding == 'pool':
        return None
    if slot.striding == 'exact':
        _strided(op, slot.sizes, slot.layout, slot.stride, slot.offset)
        return slot.offset
    try:
        _strided(op, slot.sizes, slot.layout, slot.stride, slot.offset)
    except SlotError:
        _fitted(op, slot.sizes, slot.layout)
        return None
    ways = ways_to_stride(op, slot)
    return slot.offset if ways.get('exact', math.inf) <= HARDLY_MORE * ways['pool'] else None


def operator_in(op: Operator, sizes: Mapping[str, int], layout: str, stride: tuple[int, ...] = (),
                offset: tuple[int, ...] | None = None) -> tuple[Operator, dict[str, int]]:
    """The operator that a slot runs, and its binding: one with both axes of the map, that strides where it is to.

    Raises:
        SlotError: the operator does not fit, or cannot stride.
    """
    if offset is None:
        return _fitted(op, sizes, layout)
    return _strided(op, sizes, layout, stride, offset)


def ways_to_stride(op: Operator, slot: Slot) -> dict[str, float]:
    """The seconds that the cost model expects of the operator in a strided slot, by the way in which it strides.

    ``'pool'`` averages in front of the operator, ``'exact'`` (where the operator can) computes what a strided
    convolution does: every stride-th output, from the whole map.

    Raises:
        SlotError: the operator does not fit the slot.
    """
    machine = Machine()
    passed = 4 * slot.sizes.get('N', 1) * slot.sizes['C_in'] * math.prod(slot.input_size)
    pooling = machine.call + passed / machine.copy
    ways = {'pool': pooling + estimated_cost(*_fitted(op, slot.sizes, slot.layout))}
    try:
        ways['exact'] = estimated_cost(*_strided(op, slot.sizes, slot.layout, slot.stride, slot.offset))
    except SlotError:
        pass
    return ways


def _strided(op: Operator, sizes: Mapping[str, int], layout: str, stride: tuple[int, ...], offset: tuple[int, ...],
             ) -> tuple[Operator, dict[str, int]]:
    """The operator that computes every stride-th output, and its binding, which is that of the whole map.

    Raises:
        SlotError: the operator sees no map, or does not fit the whole one.
    """
    roles = roles_of(c.size for c in op.inputs)
    if len(offset) != len(stride) or not all(0 <= a < s for a, s in zip(offset, stride, strict=False)):
        raise SlotError(f'the first output lies at {offset}, which is no position below the stride {stride}: pool instead')
    if 'S' not in roles:
        return _fitted(op, sizes, layout)
    axes = [n for n, role in enumerate(roles) if role == 'S']
    if len(axes) != len(stride):
        raise SlotError(f'an operator on [{_axes(c.size for c in op.inputs)}] does not see a map that it could stride '
                        'over: pool instead')
    sides = {'H': stride[0], 'W': stride[-1]} if 'H' in sizes else {'L': stride[0], 'T': stride[0]}
    whole = {v: n * sides.get(v, 1) for v, n in {**({'W': sizes['H']} if 'H' in sizes else {}), **sizes}.items()
             if v in sides or v not in ('T', 'L')}
    fitting, used = _fitted(op, whole, layout)
    strided = every(fitting, {axis: (s, a) for axis, s, a in zip(axes, stride, offset, strict=True)})
    op, kept = _fitted(op, sizes, layout)
    if strided.weight_shapes(used) != op.weight_shapes(kept):
        raise SlotError('the weights of the operator depend on the size of the map: pool instead')
    return strided, used


def misfit(op: Operator, slot: Slot) -> str:
    """Why the operator cannot fill the slot, or '' when it can. Builds nothing."""
    try:
        operator_sizes(op, slot.sizes, slot.layout)
    except SlotError as error:
        return str(error)
    return ''


def operator_sizes(op: Operator, sizes: Mapping[str, int], layout: str) -> dict[str, int]:
    """The part of a slot's binding that the operator uses, checked to give it the slot's shapes.

    For an operator that was written for square maps, in a slot with another one, that includes its width.

    Raises:
        SlotError: a variable is missing, a size is not an integer, or input or output do not have the slot's shape.
    """
    return _fitted(op, sizes, layout)[1]


def _fitted(op: Operator, sizes: Mapping[str, int], layout: str) -> tuple[Operator, dict[str, int]]:
    """The operator with a height and a width, where the slot's map needs both, and the binding. Raises SlotError."""
    given, axes_of = dict(sizes), Layout.named(layout)
    # A square slot has one height for both axes; a map is also a sequence of positions.
    if 'H' in given:
        given.setdefault('W', given['H'])
    if axes_of is Layout.NCHW:
        given.setdefault('T', given['H'] * given['W'])
    given.setdefault('T', given.get('L', 1))
    given.setdefault('L', given['T'])
    given.setdefault('N', 1)
    # A layer that keeps its channel count, for operators that do.
    if given.get('C_in') == given.get('C_out') is not None:
        given.setdefault('C', given['C_in'])
    if axes_of.is_map and given.get('H') != given.get('W') and 'W' not in op.variables and roles_of(
            c.size for c in op.inputs).count('S') == 2:
        try:
            op = for_rectangles(op)
        except SizeError as error:
            raise SlotError(str(error)) from error
    missing = sorted(op.variables - given.keys())
    if missing:
        raise SlotError(f'the operator needs {", ".join(missing)}, and the slot gives {_show(sizes)}')
    used = {v: given[v] for v in sorted(op.variables)}
    try:
        op.check_sizes(used)
        shapes = op.input_shape(used), op.output_shape(used)
    except SizeError as error:
        raise SlotError(str(error)) from error
    roles = roles_of(c.size for c in op.inputs)
    if not roles or roles != roles_of(op.outputs):
        raise SlotError(f'the operator maps [{_axes(c.size for c in op.inputs)}] to [{_axes(op.outputs)}]; a slot '
                        'maps N, C_in and at most two other axes to N, C_out and the same others, in one order')
    spatial = _spatial(roles, given, axes_of)
    if spatial is None:
        raise SlotError(f'an operator on [{_axes(c.size for c in op.inputs)}] does not fit a layer on {layout}')
    for name, shape, channels in (('input', shapes[0], given['C_in']), ('output', shapes[1], given['C_out'])):
        axes = {'N': [given['N']], 'C': [channels], 'S': [*spatial]}
        want = [n for role in roles.replace('SS', 'S') for n in axes[role]]
        if list(shape) != want:
            raise SlotError(f"the operator's {name} is {list(shape)}, the slot's is {want}")
    return op, used


def roles_of(sizes: Iterable[Size]) -> str:
    # A depthwise operator calls its channels C on both sides, or C_in, or C_out: shapes are checked with numbers.
    roles = ''.join({'N': 'N', 'C_in': 'C', 'C_out': 'C', 'C': 'C'}.get(str(s), 'S') for s in sizes)
    return roles if roles in ('NC', 'NCS', 'NSC', 'NCSS', 'NSSC') else ''


def _spatial(roles: str, given: Mapping[str, int], layout: Layout) -> tuple[int, ...] | None:
    """The sizes that the operator's S axes must have, or None where it has more of them than the layer."""
    match roles.count('S'):
        case 0:
            return ()
        case 1:
            return (given['T'],)
        case _:
            return layout.axes(given) if layout.is_map and 'H' in given else None


def _pooling(stride: tuple[int, ...], input_size: tuple[int, ...]) -> nn.Module | None:
    if not stride or max(stride) == 1:
        return None
    # Partial windows at the border average what they have, so the result has ceil(n / stride) positions.
    ceil_mode = any(n % s for n, s in zip(input_size, stride, strict=False))
    if len(stride) == 1:
        return nn.AvgPool1d(stride[0], ceil_mode=ceil_mode)
    return nn.AvgPool2d((stride[0], stride[1]), ceil_mode=ceil_mode)


def _stand_up(bias: Tensor, axes: int) -> Tensor:
    return bias.view(-1, *[1] * axes)


def _axes(sizes: Iterable[Size]) -> str:
    return ', '.join(str(s) for s in sizes)


def _show(sizes: Mapping[str, int]) -> str:
    return ', '.join(f'{v} = {n}' for v, n in sizes.items())
