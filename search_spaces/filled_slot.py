"""The module that takes a layer's place: pooling for its stride, an operator, and the layer's bias."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from syno_nni.errors import SizeError, SlotError
from syno_nni.operator import Operator
from syno_nni.operator.size import Size

from .slots import Slot

_ROLES = {'NCHW': 'NCSS', 'NCL': 'NCS', 'NC': 'NC', 'NTC': 'NSC', 'NHWC': 'NSSC', 'C': 'NSSSC'}
"""Axis roles of a layer's input: N batch, C channels, S anything else."""


class FilledSlot(nn.Module):
    """An operator in the place of a convolution or linear layer: same input and output shapes, any batch size.

    Input and output have the layout of the replaced layer; where the operator wants its axes otherwise (a tokens
    operator in a pointwise convolution, say) they are moved around it. A stride is an average pooling in front.

    Args:
        op: the operator; it maps ``C_in`` channels to ``C_out`` and keeps the other sizes.
        sizes: the slot's binding.
        stride: of the replaced layer, () for none.
        input_size: spatial sizes before the stride.
        bias: whether to add one number per output channel.
        layout: of the replaced layer, see :class:`~syno_nni.search_spaces.slots.Slot`.

    Raises:
        SlotError: the operator does not fit the binding or the layout.
    """

    def __init__(self, op: Operator, sizes: Mapping[str, int], *, stride: tuple[int, ...] = (),
                 input_size: tuple[int, ...] = (), bias: bool = False, layout: str = 'NCHW') -> None:
        super().__init__()
        from syno_nni.plan.layer import SynthesizedLayer
        used = operator_sizes(op, sizes, layout)
        self.op = op
        self.sizes = dict(sizes)
        self.layout = layout
        self.stride = tuple(stride)
        self.input_size = tuple(input_size)
        self.in_channels, self.out_channels = sizes['C_in'], sizes['C_out']
        self._layer_roles, self._op_roles = _ROLES[layout], _roles(c.size for c in op.inputs)
        self.pool = _pooling(self.stride, self.input_size)
        self.layer = SynthesizedLayer(op, used)
        self.bias = nn.Parameter(torch.zeros(self.out_channels)) if bias else None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call of the operator, per sample."""
        return self.op.macs(operator_sizes(self.op, self.sizes, self.layout))

    @property
    def in_features(self) -> int:
        return self.in_channels

    @property
    def out_features(self) -> int:
        return self.out_channels

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = self.pool(x)
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

    def extra_repr(self) -> str:
        where = 'x'.join(str(self.sizes[v]) for v in ('H', 'W', 'L', 'T') if v in self.sizes)
        parts = [self.op.id, f'{self.in_channels} -> {self.out_channels}' + f' @{where}' * bool(where)]
        if self.stride:
            parts.append(f'stride={self.stride}')
        return ', '.join([*parts, f'bias={self.bias is not None}'])

    def config(self) -> dict[str, Any]:
        """The arguments that rebuild this module, as JSON-able data; the formula keeps the order of the weights."""
        from syno_nni.operator.formula import to_text
        return {'formula': to_text(self.op), 'sizes': dict(self.sizes), 'stride': list(self.stride),
                'input_size': list(self.input_size), 'bias': self.bias is not None, 'layout': self.layout}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FilledSlot:
        """The inverse of :meth:`config`, with fresh weights."""
        return cls(Operator.parse(config['formula']), config['sizes'], stride=tuple(config.get('stride', ())),
                   input_size=tuple(config.get('input_size', ())), bias=config.get('bias', False),
                   layout=config.get('layout', 'NCHW'))

    @classmethod
    def of(cls, op: Operator, slot: Slot) -> FilledSlot:
        """The operator in a slot that :func:`~syno_nni.search_spaces.slots.find_slots` found."""
        return cls(op, slot.sizes, stride=slot.stride, input_size=slot.input_size, bias=slot.bias, layout=slot.layout)


def misfit(op: Operator, slot: Slot) -> str:
    """Why the operator cannot fill the slot, or '' when it can. Builds nothing."""
    try:
        operator_sizes(op, slot.sizes, slot.layout)
    except SlotError as error:
        return str(error)
    return ''


def operator_sizes(op: Operator, sizes: Mapping[str, int], layout: str) -> dict[str, int]:
    """The part of a slot's binding that the operator uses, checked to give it the slot's shapes.

    Raises:
        SlotError: a variable is missing, a size is not an integer, or input or output do not have the slot's shape.
    """
    given = dict(sizes)
    # A square slot has one height for both axes; a map is also a sequence of positions.
    if 'H' in given:
        given.setdefault('W', given['H'])
    if layout == 'NCHW':
        given.setdefault('T', given['H'] * given['W'])
    given.setdefault('T', given.get('L', 1))
    given.setdefault('L', given['T'])
    given.setdefault('N', 1)
    # A layer that keeps its channel count, for operators that do.
    if given.get('C_in') == given.get('C_out') is not None:
        given.setdefault('C', given['C_in'])
    missing = sorted(op.variables - given.keys())
    if missing:
        raise SlotError(f'the operator needs {", ".join(missing)}, and the slot gives {_show(sizes)}')
    used = {v: given[v] for v in sorted(op.variables)}
    try:
        op.check_sizes(used)
        shapes = op.input_shape(used), op.output_shape(used)
    except SizeError as error:
        raise SlotError(str(error)) from error
    if layout not in _ROLES:
        raise SlotError(f'unknown layout {layout!r}: choose from {", ".join(_ROLES)}')
    roles = _roles(c.size for c in op.inputs)
    if not roles or roles != _roles(op.outputs):
        raise SlotError(f'the operator maps [{_axes(c.size for c in op.inputs)}] to [{_axes(op.outputs)}]; a slot '
                        'maps N, C_in and at most two other axes to N, C_out and the same others, in one order')
    spatial = _spatial(roles, given, layout)
    if spatial is None:
        raise SlotError(f'an operator on [{_axes(c.size for c in op.inputs)}] does not fit a layer on {layout}')
    for name, shape, channels in (('input', shapes[0], given['C_in']), ('output', shapes[1], given['C_out'])):
        axes = {'N': [given['N']], 'C': [channels], 'S': [*spatial]}
        want = [n for role in roles.replace('SS', 'S') for n in axes[role]]
        if list(shape) != want:
            raise SlotError(f"the operator's {name} is {list(shape)}, the slot's is {want}")
    return used


def _roles(sizes: Iterable[Size]) -> str:
    # A depthwise operator calls its channels C on both sides, or C_in, or C_out: shapes are checked with numbers.
    roles = ''.join({'N': 'N', 'C_in': 'C', 'C_out': 'C', 'C': 'C'}.get(str(s), 'S') for s in sizes)
    return roles if roles in ('NC', 'NCS', 'NSC', 'NCSS', 'NSSC') else ''


def _spatial(roles: str, given: Mapping[str, int], layout: str) -> tuple[int, ...] | None:
    """The sizes that the operator's S axes must have, or None where it has more of them than the layer."""
    match roles.count('S'):
        case 0:
            return ()
        case 1:
            return (given['T'],)
        case _:
            return (given['H'], given['W']) if 'H' in given and layout in ('NCHW', 'NHWC') else None


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
