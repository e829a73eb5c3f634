"""Slots: the layers of a model that an operator may replace, with their concrete sizes.

:func:`find_slots` runs the model once (see :mod:`.trace`) and sorts every convolution and linear layer into a
:class:`Slot` or an :class:`Excluded` that says why not. Nothing is decided by names or by model families, and
a layer is judged by what it computes (see :mod:`.what_it_computes`).

A layer of stride *s* is a slot behind an average pooling of stride *s*, so every slot keeps the spatial sizes and its
binding has one height; or, of an operator that costs no more then, every *s*-th output is computed
(:func:`~.filled_slot.ways_to_stride`). The binding of a slot holds sizes for these variables:

===========================  =======================================================================================
``N``                        1: operators work on any batch (windows or frames folded into the batch count here)
``C_in``, ``C_out``          channels or features; depthwise convolutions that keep their number call it ``C`` too
``H`` (and ``W``)            height and width of the slot's map; only ``H`` when all slots are square
``L``                        length of the slot's sequence (conv1d)
``T``                        tokens per sample (linear layers; channels-last maps have ``H`` and ``W`` too)
``k_1``, ``k_2``, ``s``      small coefficients: 3, 7, 2
``g``                        groups: at most 32, a divisor of every channel count of the model's slots
===========================  =======================================================================================
"""
from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from syno_nni.errors import SlotError
from syno_nni.text import did_you_mean as closest

from .layout import Layout
from .trace import Example, LayerTrace, trace, unwrapped
from .what_it_computes import why_not_affine, why_not_alone

KINDS = ('conv3x3', 'conv', 'grouped', 'depthwise', 'pointwise', 'linear', 'conv1d')
COEFFICIENTS: Mapping[str, int] = {'k_1': 3, 'k_2': 7, 's': 2, 'g': 32}
STRIDING = ('auto', 'pool', 'exact')
MIN_SIZE = 4
"""Smaller heights, widths and channel counts have no room for an operator (image stems, squeeze layers)."""
NOTABLE_SHARE = 0.15
"""A kind that holds this share of a model's MACs is worth filling."""
FEW_GROUPS = 4
"""Where all slots together allow only fewer groups than this, ..."""
ENOUGH_WORK = 0.9
"""... slots with awkward channel counts are left out, as long as the others hold this part of the MACs."""


@dataclass(frozen=True)
class Slot:
    """A layer that an operator may replace.

    ``sizes`` is the binding; ``macs`` (per sample, over all calls) and ``params`` are the original layer's, ``share``
    is its part of the model's MACs. ``stride`` is what the pooling in front of the operator must do, ``offset`` where
    the window of the layer's first output has its middle, and ``striding`` how an operator strides: ``'pool'`` in front
    of it, ``'exact'``, or ``'auto'``, which is exact where that costs no more. ``layout`` names
    the axes of the layer's input: ``NCHW``, ``NCL``, or ``C`` last behind any leading axes (``NC``, ``NTC``, ``NHWC``).
    ``input_size`` are the spatial sizes before the pooling; ``aliases`` are further names of the same module;
    ``example`` is the model's input that the slot was found on, as it was given.
    """
    name: str
    kind: str
    sizes: dict[str, int]
    macs: int
    params: int
    share: float = 0.0
    stride: tuple[int, ...] = ()
    bias: bool = False
    module_type: str = ''
    kernel: tuple[int, ...] = ()
    groups: int = 1
    layout: str = 'NCHW'
    calls: int = 1
    input_size: tuple[int, ...] = ()
    aliases: tuple[str, ...] = ()
    offset: tuple[int, ...] = ()
    striding: str = 'auto'
    example: Example = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able data, but for the example."""
        values = asdict(replace(self, example=None))
        del values['example']
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclass(frozen=True)
class Excluded:
    """A layer that is no slot, and the reason in words. ``kind`` is '' where the layer's kind could not be told."""
    name: str
    reason: str
    kind: str = ''
    macs: int = 0
    share: float = 0.0
    module_type: str = ''
    sizes: dict[str, int] = field(default_factory=dict)
    cause: str = ''
    """``'kind'`` for a layer that could be a slot of another selection of kinds."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able data."""
        return asdict(self)


class _Unfit(Exception):
    """Why a layer is no slot."""


def find_slots(model: nn.Module, example_input: Example = None, *, kinds: str | Collection[str] = 'auto',
               include: str | Collection[str] = (), exclude: str | Collection[str] = (), min_share: float = 0.0,
               coefficients: Mapping[str, int | str] | None = None, min_map: int = MIN_SIZE,
               striding: str = 'auto') -> tuple[list[Slot], list[Excluded]]:
    """Sort the convolutions and linear layers of ``model`` into slots and excluded layers, in the model's order.

    Args:
        model: any module. It is run once and left as it was. The wrappers of ``torch.compile``, ``DataParallel`` and
            ``DistributedDataParallel`` are looked through: names are those in the model inside.
        example_input: a tensor, a shape like ``(1, 3, 224, 224)``, a tuple or mapping of arguments, or None for the
            input size a timm model declares.
        kinds: kinds to fill (of :data:`KINDS`), ``'all'``, or ``'auto'`` for the choice of :func:`default_kinds`.
        include: name patterns (``layer3.*``); when given, only matching layers are slots, of any kind unless
            ``kinds`` says otherwise.
        exclude: name patterns of layers to keep.
        min_share: smallest part of the model's MACs a slot must hold, such as 0.01.
        coefficients: values that replace those of :data:`COEFFICIENTS` or join them. ``g`` is the largest number of
            groups: the bindings get the largest one up to it that divides all channel counts. The word ``'kernel'``
            means the kernel size of the slot's own layer.
        min_map: as in :func:`survey`.
        striding: how operators take the stride of a layer: ``'pool'`` in front of the operator (its error is in the
            error of the slot), ``'exact'`` (every stride-th output of the operator, which may compute all of them), or
            ``'auto'``: exact where the cost model says that this costs hardly more.

    Raises:
        SlotError: the model does not run, a kind or a way to stride is unknown, or a pattern matches no layer.
    """
    if striding not in STRIDING:
        raise SlotError(f'unknown way to stride {striding!r}: choose from {", ".join(STRIDING)}')
    found = [replace(s, striding=striding) if isinstance(s, Slot) else s for s in survey(model, example_input, min_map)]
    return choose(found, kinds=kinds, include=include, exclude=exclude, min_share=min_share, coefficients=coefficients)


def survey(model: nn.Module, example_input: Example = None, min_map: int = MIN_SIZE) -> list[Slot | Excluded]:
    """Every convolution and linear layer: a slot (of any kind, its binding without coefficients), or excluded.

    Args:
        model, example_input: as in :func:`find_slots`.
        min_map: smallest height, width or length of a slot. On a smaller map than the usual one an operator computes
            little of its own, but it may be wanted there so that the model is the same at every image size.

    Raises:
        SlotError: the model does not run on the example input.
    """
    model = unwrapped(model)
    run = trace(model, example_input)
    fused = _inside_fused_modules(model)
    # Layers that a model drops at random need not have run together.
    whole = max(run.macs, sum(_macs(layer, run.batch) for layer in run.layers), 1)
    found: list[Slot | Excluded] = []
    for layer in run.layers:
        try:
            slot = _slot_of(layer, run.batch, fused, min_map)
            found.append(replace(slot, share=slot.macs / whole, example=example_input))
        except _Unfit as reason:
            macs = _macs(layer, run.batch)
            found.append(Excluded(layer.name, str(reason), _kind(layer.module), macs, macs / whole,
                                  type(layer.module).__name__))
    return found


def choose(found: Iterable[Slot | Excluded], *, kinds: str | Collection[str] = 'auto',
           include: str | Collection[str] = (), exclude: str | Collection[str] = (), min_share: float = 0.0,
           coefficients: Mapping[str, int | str] | None = None) -> tuple[list[Slot], list[Excluded]]:
    """Select and bind the slots of a :func:`survey`; the arguments are those of :func:`find_slots`."""
    found = list(found)
    kinds, include, exclude = _words(kinds), _words(include), _words(exclude)
    unknown = [k for k in kinds if k not in (*KINDS, 'auto', 'all')]
    if unknown:
        raise SlotError(f'unknown kind of slot {unknown[0]!r}: choose from {", ".join(KINDS)}, auto, all')
    names = [n for s in found for n in (s.name, *getattr(s, 'aliases', ()))]
    for pattern in (*include, *exclude):
        if not fnmatch.filter(names, pattern):
            raise SlotError(f'no layer matches {pattern!r}{did_you_mean(pattern, names)}')
    if 'auto' in kinds:
        usual = KINDS if include else default_kinds([s for s in found if isinstance(s, Slot)])
        kinds = tuple(k for k in KINDS if k in usual or k in kinds)
    elif 'all' in kinds:
        kinds = KINDS
    found = [_select(s, kinds, include, exclude, min_share) if isinstance(s, Slot) else s for s in found]
    found = _bind(found, coefficients or {})
    return [s for s in found if isinstance(s, Slot)], [s for s in found if isinstance(s, Excluded)]


def default_kinds(slots: Sequence[Slot]) -> tuple[str, ...]:
    """The kinds worth filling in a model with these slots: those with a notable share of its MACs, or the largest one.

    That is 3x3 convolutions in ResNet-18, pointwise ones in MobileNets and ConvNeXt, linear layers in ViT; and two
    kinds in ResNet-50, ResNeXt, DenseNet and EfficientNetV2, whose pointwise convolutions hold as much as the others.
    """
    share = {k: sum(s.share for s in slots if s.kind == k) for k in KINDS}
    largest = max(share, key=share.__getitem__)
    return tuple(k for k in KINDS if share[k] >= NOTABLE_SHARE) or (largest,)


def bindings(slots: Iterable[Slot], **coefficients: int) -> list[dict[str, int]]:
    """The bindings of ``slots`` for an operator space, one per slot (equal ones repeat and so weigh more).

    Further ``coefficients`` replace those of the slots; ``g`` is lowered to the largest number of groups that divides
    all channel counts.
    """
    slots = list(slots)
    if 'g' in coefficients:
        coefficients['g'] = common_groups(slots, coefficients['g'])
    return [{**s.sizes, **coefficients} for s in slots]


def common_groups(slots: Iterable[Slot], limit: int = COEFFICIENTS['g']) -> int:
    """The largest divisor up to ``limit`` of all channel counts."""
    channels = math.gcd(*(s.sizes[v] for s in slots for v in ('C_in', 'C_out')))
    return next((g for g in range(min(limit, channels), 0, -1) if channels % g == 0), 1)


def group_slots(slots: Iterable[Slot], by: str = 'shape') -> dict[str, list[Slot]]:
    """Groups of slots that share one choice of operator, by a readable label.

    ``by='shape'`` groups equal kinds and sizes, ``'stage'`` equal spatial sizes, ``'kind'`` equal kinds; ``'slot'``
    makes one group per slot and ``'model'`` a single one.
    """
    groups: dict[str, list[Slot]] = {}
    for slot in slots:
        groups.setdefault(_group_label(slot, by), []).append(slot)
    return groups


def _group_label(slot: Slot, by: str) -> str:
    sizes = slot.sizes
    where = 'x'.join(str(sizes[v]) for v in ('H', 'W', 'L') if v in sizes) or str(sizes.get('T', 1))
    match by:
        case 'shape':
            return f'{slot.kind} {sizes["C_in"]}->{sizes["C_out"]} @{where}'
        case 'stage':
            return f'@{where}'
        case 'kind':
            return slot.kind
        case 'slot':
            return slot.name
        case 'model':
            return 'all slots'
    raise SlotError(f'slots are grouped by shape, stage, kind, slot or model, not by {by!r}')


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint that ends an error message: the names closest to an unknown one, or ''."""
    hint = closest(name, names, 3, cutoff=0.5, otherwise='')
    return f'; {hint}' if hint else ''


# --- from a traced layer to a slot -----------------------------------------------------------------------------------

def _slot_of(layer: LayerTrace, batch: int, fused: Mapping[nn.Module, str], min_map: int) -> Slot:
    """The slot without coefficients and share. Raises _Unfit."""
    module: Any = layer.module
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        raise _Unfit('a transposed convolution enlarges its map; slots keep sizes')
    if isinstance(module, nn.Conv3d):
        raise _Unfit('3-d convolutions have no operator space')
    if module in fused:
        raise _Unfit(f'{fused[module]} reads its weight directly')
    if reason := why_not_alone(module):
        raise _Unfit(reason)
    if layer.odd_call:
        raise _Unfit(layer.odd_call)
    if layer.outside_use:
        raise _Unfit(f'its weight is also used outside this layer, by {layer.outside_use}')
    if not layer.inputs and layer.runs > 1:
        raise _Unfit(f'none of {layer.runs} runs of the model, which draws random numbers, called it on this input')
    if not layer.inputs:
        raise _Unfit('it runs in training only' if layer.in_training else 'it does not run on this input')
    if layer.in_training is False:
        raise _Unfit('it does not run in training')
    if len(set(layer.inputs)) > 1:
        shapes = ' and '.join('x'.join(map(str, s)) for s in dict.fromkeys(layer.inputs))
        raise _Unfit(f'it is called with different sizes: {shapes}')
    if layer.is_output:
        raise _Unfit('it makes the output of the model')
    if reason := why_not_affine(layer):
        raise _Unfit(reason)
    shape = layer.inputs[0]
    stride: tuple[int, ...]
    if isinstance(module, nn.Linear):
        sizes, layout, stride = _linear_sizes(module, shape, batch), Layout.of_linear(len(shape)), ()
    else:
        sizes, layout, stride = _convolution_sizes(module, shape, layer.outputs[0], batch)
    if _kind(module) == 'depthwise' and module.in_channels == module.out_channels:
        sizes['C'] = module.in_channels
    for variable in ('C_in', 'C_out', 'H', 'W', 'L'):
        least = MIN_SIZE if variable.startswith('C') else min_map
        if sizes.get(variable, least) < least:
            raise _Unfit(f'{variable} = {sizes[variable]} is too small for an operator (at least {least})')
    return Slot(
        name=layer.name, kind=_kind(module), sizes=sizes, macs=_macs(layer, batch),
        params=sum(p.numel() for p in module.parameters()), stride=stride,
        offset=first_middle(module, shape, layer.outputs[0]) if stride else (), bias=module.bias is not None,
        module_type=type(module).__name__, kernel=tuple(getattr(module, 'kernel_size', ())),
        groups=getattr(module, 'groups', 1), layout=layout.name, calls=len(layer.inputs),
        input_size=() if isinstance(module, nn.Linear) else shape[2:], aliases=tuple(layer.names[1:]))


def _linear_sizes(module: nn.Linear, shape: tuple[int, ...], batch: int) -> dict[str, int]:
    if len(shape) < 2:
        raise _Unfit(f'its input has no batch axis: shape {shape}')
    sizes = {'N': _per_sample(shape, batch), 'C_in': module.in_features, 'C_out': module.out_features}
    if len(shape) > 2:
        sizes['T'] = math.prod(shape[1:-1])
    if len(shape) == 4:
        sizes |= {'H': shape[1], 'W': shape[2]}
        # A small map still has room for operators on its tokens.
        if min(shape[1:3]) < MIN_SIZE:
            sizes = {v: n for v, n in sizes.items() if v not in 'HW'}
    return sizes


def _convolution_sizes(module: nn.Conv1d | nn.Conv2d, shape: tuple[int, ...], out: tuple[int, ...], batch: int,
                       ) -> tuple[dict[str, int], Layout, tuple[int, ...]]:
    axes = len(module.kernel_size)
    if len(shape) != axes + 2:
        raise _Unfit(f'its input has no batch axis: shape {shape}')
    if any(d > 1 and k > 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)):
        raise _Unfit(f'it is dilated by {"x".join(map(str, module.dilation))}, and slots have windows without holes')
    stride = tuple(module.stride)
    want = tuple(-(-n // s) for n, s in zip(shape[2:], stride, strict=True))
    if out[2:] != want:
        raise _Unfit(f"its padding is not 'same': {_by(shape[2:])} becomes {_by(out[2:])} instead of {_by(want)}")
    sizes = {'N': _per_sample(shape, batch), 'C_in': module.in_channels, 'C_out': module.out_channels}
    sizes |= dict(zip(('L',) if axes == 1 else ('H', 'W'), want, strict=True))
    return sizes, Layout.of_convolution(axes), stride if max(stride) > 1 else ()


def first_middle(module: Any, shape: tuple[int, ...], out: tuple[int, ...]) -> tuple[int, ...]:
    """Where the middle of the first output's window lies, per axis; of even windows the later of both middles."""
    offsets = []
    padding = module.padding if isinstance(module.padding, tuple) else (module.padding,) * len(out[2:])
    for k, d, s, p, n, o in zip(module.kernel_size, module.dilation, module.stride, padding, shape[2:], out[2:], strict=True):
        extent = d * (k - 1) + 1
        p = 0 if p == 'valid' else p
        if p == 'same' or (n + 2 * p - extent) // s + 1 != o:
            # Padded by the size of the input, the odd one at the end.
            p = max((o - 1) * s + extent - n, 0) // 2
        offsets.append(extent // 2 - p)
    return tuple(offsets)


def _per_sample(shape: tuple[int, ...], batch: int) -> int:
    return max(shape[0] // batch, 1) if shape[0] % batch == 0 else 1


def _by(shape: Sequence[int]) -> str:
    return 'x'.join(map(str, shape))


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return 'linear'
    if isinstance(module, nn.Conv1d):
        return 'conv1d'
    if not isinstance(module, nn.Conv2d):
        return ''
    if module.groups > 1:
        return 'depthwise' if module.groups == module.in_channels else 'grouped'
    return {'1x1': 'pointwise', '3x3': 'conv3x3'}.get(_by(module.kernel_size), 'conv')


def _macs(layer: LayerTrace, batch: int) -> int:
    """Multiply-accumulates of all calls, per sample."""
    module: Any = layer.module
    total = 0
    for shape, out in zip(layer.inputs, layer.outputs, strict=True):
        if not out:
            continue
        if isinstance(module, nn.Linear):
            total += math.prod(out) * module.in_features
        elif isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            total += math.prod(shape) * math.prod(module.kernel_size) * module.out_channels // module.groups
        else:
            total += math.prod(out) * math.prod(module.kernel_size) * module.in_channels // module.groups
    return total // batch


def _inside_fused_modules(model: nn.Module) -> dict[nn.Module, str]:
    """Layers inside torch modules whose fast path takes weights without calling the layers (hooks switch it off)."""
    fused: dict[nn.Module, str] = {}
    for parent in model.modules():
        if isinstance(parent, (nn.TransformerEncoderLayer, nn.MultiheadAttention)):
            fused |= {m: type(parent).__name__ for m in parent.modules() if isinstance(m, nn.Linear)}
    return fused


# --- selection and binding -------------------------------------------------------------------------------------------

def _select(slot: Slot, kinds: Collection[str], include: Collection[str], exclude: Collection[str],
            min_share: float) -> Slot | Excluded:
    names = (slot.name, *slot.aliases)
    if include and not any(fnmatch.fnmatchcase(n, p) for n in names for p in include):
        return _leave_out(slot, f'not selected by {", ".join(include)}')
    for pattern in exclude:
        if any(fnmatch.fnmatchcase(n, pattern) for n in names):
            return _leave_out(slot, f'left out by {pattern}')
    if slot.kind not in kinds:
        return replace(_leave_out(slot, f'{slot.kind} is not among the kinds to fill ({", ".join(kinds)})'), cause='kind')
    if slot.share < min_share:
        return _leave_out(slot, f'it holds {slot.share:.2%} of the MACs, below {min_share:.2%}')
    return slot


def _leave_out(slot: Slot, reason: str) -> Excluded:
    return Excluded(slot.name, reason, slot.kind, slot.macs, slot.share, slot.module_type, slot.sizes)


def _bind(found: list[Slot | Excluded], coefficients: Mapping[str, int | str]) -> list[Slot | Excluded]:
    """Add the coefficients to the bindings; ``W`` leaves them when all maps are square."""
    values: dict[str, int | str] = {**COEFFICIENTS, **coefficients}
    limit = values.pop('g')
    wrong = [f'{v} = {n!r}' for v, n in {**values, 'g': limit}.items()
             if (n != 'kernel' or v == 'g') and (not isinstance(n, int) or n < 1)]
    if wrong or not isinstance(limit, int):
        raise SlotError(f'coefficients are positive integers or (not for g) the word kernel, got {", ".join(wrong)}')
    slots = [s for s in found if isinstance(s, Slot)]
    if not slots:
        return found
    groups = _groups_for_most(slots, limit)
    rectangular = any(s.sizes['H'] != s.sizes['W'] for s in slots if 'W' in s.sizes)
    bound: list[Slot | Excluded] = []
    for slot in found:
        if isinstance(slot, Slot) and not _divides(groups, slot):
            slot = _leave_out(slot, f'{groups} groups, which fit the other slots, do not divide C_in = '
                                    f'{slot.sizes["C_in"]} and C_out = {slot.sizes["C_out"]}')
        if isinstance(slot, Slot):
            sizes = {v: n for v, n in slot.sizes.items() if v != 'W' or rectangular}
            own = {v: n if isinstance(n, int) else max(slot.kernel, default=1) for v, n in values.items()}
            slot = replace(slot, sizes={**sizes, **own, 'g': groups})
        bound.append(slot)
    return bound


def _groups_for_most(slots: Sequence[Slot], limit: int) -> int:
    """The largest number of groups for all slots; where odd channel counts leave hardly any, for most of the work."""
    common = common_groups(slots, limit)
    if common >= min(FEW_GROUPS, limit):
        return common
    most = min(limit, max(s.sizes[v] for s in slots for v in ('C_in', 'C_out')))
    powers = [2 ** e for e in range(1, most.bit_length())]
    covered = {g: sum(s.macs for s in slots if _divides(g, s)) for g in powers}
    enough = [g for g in powers if covered[g] >= ENOUGH_WORK * sum(s.macs for s in slots)]
    best = max(enough, default=0) or max(powers, key=lambda g: (covered[g], g), default=1)
    return max(best, common) if covered.get(best) else common


def _divides(g: int, slot: Slot) -> bool:
    return slot.sizes['C_in'] % g == 0 and slot.sizes['C_out'] % g == 0


def _words(value: str | Collection[str]) -> tuple[str, ...]:
    return tuple(w.strip() for w in value.split(',') if w.strip()) if isinstance(value, str) else tuple(value)
