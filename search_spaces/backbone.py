"""The NNI model space of any timm model: its slots, each an :class:`~syno_nni.nas.slot.OperatorSlot`."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pydantic.alias_generators import to_snake
from torch import Tensor, nn

from syno_nni.backbone import create_backbone
from syno_nni.data.datasets import Splits
from syno_nni.errors import SlotError
from syno_nni.nas.slot import ModelSpace, OperatorSlot
from syno_nni.operator import Operator
from syno_nni.run.config import SearchConfig
from syno_nni.synthesis import Heuristics

from .filled_slot import FilledSlot
from .slots import Excluded, Slot, bindings, find_slots, group_slots


class BackboneSpace(ModelSpace):
    """A timm model whose slots are filled by operators.

    NNI records the arguments and makes the model again in every trial from them and the sample, so they are small
    JSON-able data: a name, shapes, descriptions.

    Args:
        model_name: for ``timm.create_model``.
        example_shape: shape of an input, such as (1, 3, 224, 224); the model is run on it to find the slots.
        space: description of the operator space: ``preset``, ``macs_ratio`` and further arguments of
            ``OperatorSpace.preset``. The bindings are those of the slots.
        slots: arguments of :func:`~.slots.find_slots`.
        group_by: which slots share one choice, see :func:`~.slots.group_slots`.
        keep: probability with which a random sample keeps the layers of a group.
        label: of the choice, or the start of the labels when there are several groups.
        pool: number of operators to choose from, for strategies that need a finite list (NNI's TPE and PolicyBasedRL); 0
            for the whole space.
        timm_kwargs: further arguments of ``timm.create_model``.

    Raises:
        ConfigError: there is no such model.
        SlotError: the model has no slot.
    """

    def __init__(self, model_name: str, example_shape: Sequence[int], space: Mapping[str, Any], *,
                 slots: Mapping[str, Any] | None = None, group_by: str = 'model', keep: float = 0.0,
                 label: str = 'operator', pool: int = 0, **timm_kwargs: Any) -> None:
        super().__init__()
        net = create_backbone(model_name, **timm_kwargs)
        found, excluded = find_slots(net, tuple(example_shape), **dict(slots or {}))
        found, narrow = wide_enough(found, float(space.get('window_ratio', Heuristics().window_ratio)))
        self.excluded: list[Excluded] = [*excluded, *narrow]
        if not found:
            why = '; '.join(dict.fromkeys(f'{e.name}: {e.reason}' for e in self.excluded[:3]))
            raise SlotError(f'{model_name} has no slot at input {tuple(example_shape)} ({why or "no layer that could"}'
                            ' be one); `syno-nni slots` lists its layers')
        self.groups: dict[str, list[Slot]] = {}
        for name, members in group_slots(found, group_by).items():
            choice = label if group_by == 'model' else f'{label}/{name}'
            self.groups[choice] = members
            spec = {**space, 'bindings': bindings(members)}
            for slot in members:
                layer = net.get_submodule(slot.name)
                filled = OperatorSlot(layer, partial(fill_like, layer, slot), spec, keep=keep, label=choice,
                                      pool=pool)
                for alias in (slot.name, *slot.aliases):
                    parent, _, child = alias.rpartition('.')
                    setattr(net.get_submodule(parent), child, filled)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def backbone_space(config: SearchConfig, data: Splits) -> BackboneSpace:
    """The model space of an experiment file."""
    space = {'preset': config.space.preset, 'macs_ratio': list(config.space.macs_ratio),
             **{to_snake(name): value for name, value in config.space.limits.items()}}
    slots = {'kinds': list(config.slots.kinds), 'include': list(config.slots.include),
             'exclude': list(config.slots.exclude), 'min_share': config.slots.min_share,
             'coefficients': dict(config.space.variables)}
    shape = [1, config.data.channels, config.data.image_size, config.data.image_size]
    return BackboneSpace(config.model.name, shape, space, slots=slots, group_by=config.slots.group_by,
                         in_chans=config.data.channels, num_classes=data.num_classes, **config.model.kwargs)


def fill_like(layer: nn.Module, slot: Slot, formula: str) -> FilledSlot:
    """The operator in the place of ``layer``: its bias, device, type and mode."""
    filled = FilledSlot.of(Operator.parse(formula), slot)
    like = next(iter(layer.parameters()))
    filled.to(device=like.device, dtype=like.dtype)
    if filled.bias is not None:
        with torch.no_grad():
            filled.bias.copy_(layer.bias)
    return filled.train(layer.training)


def wide_enough(slots: Sequence[Slot], window_ratio: float) -> tuple[list[Slot], list[Excluded]]:
    """The slots whose maps have room for the window of the layer replaced, and the others.

    One operator fills all slots of a group and must fit the smallest: a few tiny maps would forbid every window in all.
    """
    wide: list[Slot] = []
    narrow: list[Excluded] = []
    for slot in slots:
        sides = [slot.sizes[v] for v in ('H', 'W', 'L') if v in slot.sizes]
        window = slot.sizes.get('k_1', 1) if slot.kind not in ('pointwise', 'linear') else 1
        if window > 1 and sides and min(sides) < window_ratio * window:
            reason = (f'its map of side {min(sides)} is narrower than {window_ratio:g} windows of {window}, and would '
                      f'forbid windows in all slots')
            narrow.append(Excluded(slot.name, reason, kind=slot.kind, sizes=slot.sizes, macs=slot.macs,
                                   share=slot.share))
        else:
            wide.append(slot)
    return wide, narrow
