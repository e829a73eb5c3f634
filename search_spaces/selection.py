"""One selection of slots: which layers operators may fill, with which limits, and which of them share a choice.

A search's model space, a retrofit of its result, a retrofit of any model and the commands all select by a
:class:`Selection`, so that the same configuration means the same layers everywhere.

>>> selection = Selection(kinds=('conv3x3',), exclude=('layer1.*',), window_ratio=2.3)
>>> selected = selection.of(timm.create_model('resnet18'), (1, 3, 64, 64))
>>> selected.groups
{'operator': [Slot(name='layer2.0.conv1', ...), ...]}
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pydantic.alias_generators import to_snake
from torch import nn

from syno_nni.errors import ConfigError, SlotError
from syno_nni.operator import Operator
from syno_nni.run.config import SearchConfig
from syno_nni.synthesis import Heuristics

from .slots import KINDS, MIN_SIZE, Excluded, Slot, find_slots, group_slots
from .trace import Example

LABEL = 'operator'
"""Name of the choice of a model space with one group of slots, and the beginning of the names where there are several."""
KEEP = 'keep'
"""The choice that leaves the layers of a group as they are."""


@dataclass(frozen=True)
class Selection:
    """Which layers of a model are slots, and how they are grouped. Plain data.

    Attributes:
        kinds: kinds of layers, ``'auto'`` (those that hold most of the work) or ``'all'``; see
            :func:`~.slots.find_slots`, also for ``include``, ``exclude``, ``min_share`` and ``coefficients``.
        include: name patterns; when given, only matching layers are slots.
        exclude: name patterns of layers to keep.
        min_share: least part of the model's MACs that a slot must hold.
        coefficients: values for ``k_1``, ``k_2``, ``s``, or the limit of ``g``.
        min_map: smallest height, width or length of a slot.
        striding: how operators take the stride of a layer, see :func:`~.slots.find_slots`.
        window_ratio: a map must be this many times as wide as the window of its layer; None for no such limit. One
            operator fills all slots of a group and must fit the smallest: a few tiny maps would forbid windows in all.
        group_by: which slots share a choice, see :func:`~.slots.group_slots`.
        label: of the choice, or the start of the labels where there are several groups.
    """
    kinds: str | Sequence[str] = 'auto'
    include: str | Sequence[str] = ()
    exclude: str | Sequence[str] = ()
    min_share: float = 0.0
    coefficients: Mapping[str, int | str] = field(default_factory=dict)
    min_map: int = MIN_SIZE
    striding: str = 'auto'
    window_ratio: float | None = None
    group_by: str = 'model'
    label: str = LABEL

    def __post_init__(self) -> None:
        ratio = self.window_ratio
        if ratio is not None and (isinstance(ratio, bool) or not isinstance(ratio, (int, float))
                                  or not math.isfinite(ratio) or ratio < 0):
            raise ConfigError(f'the window ratio of a selection of slots wants a number of at least 0, got {ratio!r:.40}')

    @classmethod
    def of_search(cls, config: SearchConfig) -> Selection:
        """The selection of an experiment file. Searches pool in front of strides, as they always did: a run that goes on
        and a retrofit of its result compute what was measured."""
        slots = config.slots
        if config.retrofits:
            # The solver chooses for every slot, and operators that stride are closer to the layers that they are fitted to.
            return cls(slots.kinds, slots.include, slots.exclude, slots.min_share, dict(config.space.variables),
                       window_ratio=None, group_by='slot')
        return cls(slots.kinds, slots.include, slots.exclude, slots.min_share, dict(config.space.variables),
                   striding='pool', window_ratio=window_ratio(space_of(config)), group_by=slots.group_by)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **more: Any) -> Selection:
        """A selection from plain data with the names of the attributes, such as the ``slots`` of a model space.

        Raises:
            ConfigError: a name is none of a selection.
        """
        known = [f.name for f in fields(cls)]
        for name in (*values, *more):
            if name not in known:
                raise ConfigError(f'a selection of slots has no {name!r}; it has {", ".join(known)}')
        return cls(**{**values, **more})

    def to_dict(self) -> dict[str, Any]:
        """Plain data that :meth:`from_dict` reads."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def of(self, model: nn.Module, example_input: Example = None) -> Selected:
        """Select from a model.

        Args:
            model: any module. It is run once and left as it was.
            example_input: as in :func:`~.slots.find_slots`.

        Raises:
            SlotError: the model does not run, a kind is unknown, or a pattern matches no layer.
        """
        slots, excluded = find_slots(
            model, example_input, kinds=self.kinds, include=self.include, exclude=self.exclude, min_share=self.min_share,
            coefficients=self.coefficients, min_map=self.min_map, striding=self.striding)
        slots, narrow = wide_enough(slots, self.window_ratio)
        # NNI's labels have no slash.
        groups = {self.label if self.group_by == 'model' else f'{self.label}:{name}': members
                  for name, members in group_slots(slots, self.group_by).items()}
        return Selected(slots, [*excluded, *narrow], groups)


@dataclass(frozen=True)
class Selected:
    """What a :class:`Selection` found: the slots, the other layers with reasons, and the slots of every choice."""
    slots: list[Slot]
    excluded: list[Excluded]
    groups: dict[str, list[Slot]]

    def fillings(self, sample: Mapping[str, str]) -> dict[str, Operator | str]:
        """What fills each slot when ``sample`` says a formula or ``'keep'`` for each group, as
        :func:`~.retrofit.retrofit.retrofit` takes it.

        Raises:
            SlotError: the sample names a group that is none of these, or leaves one out: it is of another selection.
        """
        if sample.keys() != self.groups.keys():
            raise SlotError(f'the sample chooses for {_listed(sample)}, the slots are in the groups '
                            f'{_listed(self.groups)}: take the model and the configuration that it was made with')
        return {slot.name: sample[label] if sample[label] == KEEP else Operator.parse(sample[label])
                for label, members in self.groups.items() for slot in members}


def space_of(config: SearchConfig) -> dict[str, Any]:
    """The operator space of an experiment file: ``preset``, ``macs_ratio`` and limits by their Python names."""
    return {'preset': config.space.preset, 'macs_ratio': list(config.space.macs_ratio),
            **{to_snake(name): value for name, value in config.space.limits.items()}}


def window_ratio(space: Mapping[str, Any]) -> Any:
    """How many windows wide the maps of an operator space must be."""
    return space.get('window_ratio', Heuristics().window_ratio)


def kinds_for(keys: Iterable[str]) -> str | list[str]:
    """The kinds of slots that fillings under these keys (kinds, patterns, names) want.

    Only kinds: just those. Otherwise the usual kinds, and those that are named.
    """
    named = list(keys)
    kinds = [key for key in named if key in KINDS]
    if kinds and len(kinds) == len(named):
        return kinds
    return ['auto', *kinds] if kinds else 'auto'


def wide_enough(slots: Sequence[Slot], ratio: float | None) -> tuple[list[Slot], list[Excluded]]:
    """The slots whose maps have room for the window of the layer replaced, and the others."""
    wide: list[Slot] = []
    narrow: list[Excluded] = []
    for slot in slots:
        sides = [slot.sizes[v] for v in ('H', 'W', 'L') if v in slot.sizes]
        window = slot.sizes.get('k_1', 1) if slot.kind not in ('pointwise', 'linear') else 1
        if ratio is not None and window > 1 and sides and min(sides) < ratio * window:
            reason = (f'its map of side {min(sides)} is narrower than {ratio:g} windows of {window}, and would '
                      f'forbid windows in all slots')
            narrow.append(Excluded(slot.name, reason, kind=slot.kind, sizes=slot.sizes, macs=slot.macs,
                                   share=slot.share))
        else:
            wide.append(slot)
    return wide, narrow


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    return ', '.join(shown[:3]) + f' and {len(shown) - 3} more' * (len(shown) > 3) if shown else 'nothing'
