"""The NNI model space of a model, timm's or the user's: its slots, each an :class:`~syno_nni.nas.slot.OperatorSlot`."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from syno_nni.data.splits import Splits
from syno_nni.errors import ConfigError, SlotError
from syno_nni.nas.original import make_model, model_source
from syno_nni.nas.slot import ModelSpace, OperatorSlot
from syno_nni.operator import Operator
from syno_nni.run.config import SearchConfig

from .coefficients import fitting
from .filled_slot import FilledSlot
from .replace import replace_layer, take_over
from .selection import LABEL, Selection, space_of, window_ratio
from .slots import Excluded, Slot, bindings


class BackboneSpace(ModelSpace):
    """A timm model whose slots are filled by operators.

    NNI records the arguments and makes the model again in every trial from them and the sample, so they are small
    JSON-able data: a name, shapes, descriptions.

    Args:
        model_name: for ``timm.create_model``.
        example_shape: shape of an input, such as (1, 3, 224, 224); the model is run on it to find the slots.
        space: description of the operator space: ``preset``, ``macs_ratio`` and further arguments of
            ``OperatorSpace.preset``. The bindings are those of the slots.
        slots: attributes of a :class:`~.selection.Selection`, as plain data. Its window ratio is the space's unless it
            says otherwise.
        group_by: which slots share one choice, see :func:`~.slots.group_slots`.
        keep: probability with which a random sample keeps the layers of a group.
        label: of the choice, or the start of the labels when there are several groups.
        pool: number of operators to choose from, for strategies that need a finite list (NNI's TPE and PolicyBasedRL); 0
            for the whole space.
        source: what the model is made from where that is more than a name (see :func:`~syno_nni.nas.original.model_source`);
            ``model_name`` is then what people call it.
        any_operator: whether a choice is any operator that fits its slots, of the space or not; a search by retrofit takes
            classic and published ones too.
        timm_kwargs: further arguments of ``timm.create_model``.

    Raises:
        ConfigError: there is no such model, or an argument is of the wrong kind.
        SlotError: the model has no slot.
    """

    def __init__(self, model_name: str, example_shape: Sequence[int], space: Mapping[str, Any], *,
                 slots: Mapping[str, Any] | None = None, group_by: str = 'model', keep: float = 0.0,
                 label: str = LABEL, pool: int = 0, source: Mapping[str, Any] | None = None, any_operator: bool = False,
                 **timm_kwargs: Any) -> None:
        super().__init__()
        _check(model_name, example_shape, space)
        net = make_model(source or {'name': model_name, 'arguments': timm_kwargs})
        selected = Selection.from_dict({'window_ratio': window_ratio(space), 'group_by': group_by, 'label': label,
                                        **(slots or {})}).of(net, tuple(example_shape))
        self.excluded: list[Excluded] = selected.excluded
        if not selected.slots:
            why = '; '.join(dict.fromkeys(f'{e.name}: {e.reason}' for e in self.excluded[:3]))
            raise SlotError(f'{model_name} has no slot at input {tuple(example_shape)} ({why or "no layer that could"}'
                            ' be one); `syno-nni slots` lists its layers')
        self.groups: dict[str, list[Slot]] = selected.groups
        for choice, members in self.groups.items():
            spec = {**space, 'bindings': bindings(members)}
            for slot in members:
                layer = net.get_submodule(slot.name)
                filled = OperatorSlot(layer, partial(_filled, layer, slot), spec, keep=keep, label=choice, pool=pool,
                                      any_operator=any_operator)
                replace_layer(net, (slot.name, *slot.aliases), filled)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def backbone_space(config: SearchConfig, data: Splits) -> BackboneSpace:
    """The model space of an experiment file."""
    selection = Selection.of_search(config).to_dict()
    # Of the space, where the model space finds it.
    if not config.retrofits:
        del selection['window_ratio']  # of the space, where the model space finds it
    shape = [1, config.data.channels, config.data.image_size, config.data.image_size]
    return BackboneSpace(config.model.title, shape, space_of(config), slots=selection,
                         source=model_source(config, data.num_classes), any_operator=config.retrofits)


def _filled(layer: nn.Module, slot: Slot, formula: str) -> FilledSlot:
    """The operator in the place of ``layer``."""
    op = Operator.parse(formula)
    return take_over(layer, FilledSlot.of(op, fitting(op, slot)))


def _check(model_name: Any, example_shape: Any, space: Any) -> None:
    """That the arguments are the plain data that trials are made from."""
    if not isinstance(model_name, str):
        what = (f'a {type(model_name).__name__}' if isinstance(model_name, nn.Module) else
                f'{getattr(model_name, "__name__", repr(model_name)):.60}')
        raise ConfigError(f'BackboneSpace wants the name of a timm model, got {what}: every trial makes the model again '
                          'from its name. Register your model with timm.models.register_model and give its name, or fill '
                          'a model that you have with syno_nni.retrofit(model, operator)')
    if not isinstance(example_shape, Sequence) or isinstance(example_shape, str) \
            or not all(isinstance(n, int) and n > 0 for n in example_shape):
        raise ConfigError(f'BackboneSpace wants the shape of an input, such as (1, 3, 224, 224), got {example_shape!r:.60}')
    if not isinstance(space, Mapping):
        raise ConfigError("BackboneSpace wants a mapping that describes the operator space, such as {'preset': 'conv2d'}, "
                          f'got {space!r:.60}')
