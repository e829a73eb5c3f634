"""Retrofitted models as timm models: importing this module registers them.

``syno_retrofit`` makes any of them from data (this is what a saved folder names as its architecture); every retrofit of
the zoo has a name of its own, such as ``resnet18_syno_07754``: the architecture, then the operator. Stock names stay
as they are. What timm does with its own models works: ``features_only``, ``forward_intermediates``,
``reset_classifier``, ``in_chans``, ``num_classes``, ``reparameterize_model``, ``pretrained`` from a folder or file.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, get_pretrained_cfg, register_model
from torch import nn

from syno_nni.backbone import create_backbone
from syno_nni.errors import ZooError
from syno_nni.search_spaces.retrofit.retrofit import apply_slot_config, declare_input, retrofit
from syno_nni.search_spaces.slots import find_slots
from syno_nni.weights import weights_only

from . import backbones  # noqa: F401  registers the backbones that retrofits start from
from .retrofits import Retrofit, load_retrofit, retrofit_names

GENERIC = 'syno_retrofit'
__all__: list[str] = []  # register_model adds the entry points
_NO_WEIGHTS = ('url', 'file', 'state_dict', 'hf_hub_id', 'hf_hub_filename', 'source', 'architecture', 'tag',
               'custom_load', 'label_offset', 'label_names', 'label_descriptions', 'test_input_size', 'pool_size')


@register_model
def syno_retrofit(pretrained: bool = False, *, base: str = '', slots: Mapping[str, Any] | None = None,
                  **kwargs: Any) -> nn.Module:
    """The timm model ``base`` with the operators of ``slots``.

    Args:
        pretrained: load the weights that the configuration points to (the folder, for ``local-dir:``).
        base: a timm architecture.
        slots: as :func:`~syno_nni.search_spaces.retrofit.retrofit.slot_config` returns it.
        kwargs: for the architecture, as ``timm.create_model`` takes them.

    Raises:
        ZooError: ``base`` or ``slots`` is missing.
        ConfigError: there is no such base.
        SlotError: the slots are malformed, or those of another architecture.
    """
    if not base or not isinstance(slots, Mapping):
        raise ZooError(f"{GENERIC} wants base='a timm architecture' and slots=slot_config(model); a saved folder has "
                       "both: timm.create_model('local-dir:FOLDER')")
    return _build(GENERIC, base, lambda model: apply_slot_config(model, slots, inplace=True), pretrained, kwargs)


def _entry_point(name: str, entry: Retrofit) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, *, img_size: int | Sequence[int] | None = None, **kwargs: Any) -> nn.Module:
        declared = default_cfgs[name].default
        size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size or declared.input_size[1:])
        if declared.fixed_input_size:
            kwargs['img_size'] = size

        def fill(model: nn.Module) -> nn.Module:
            channels = kwargs.get('in_chans') or declared.input_size[0]
            options: dict[str, Any] = {'kinds': entry.kinds, 'coefficients': entry.coefficients}
            options = {k: v for k, v in options.items() if v is not None}
            slots = None
            if size != tuple(declared.input_size[1:]) and not declared.fixed_input_size:
                # The same layers as at the declared size, so that weights trained at one size load at another.
                usual, _ = find_slots(model, (1, channels, *declared.input_size[1:]), **options)
                slots, _ = find_slots(model, (1, channels, *size), include=[slot.name for slot in usual], min_map=1, **options)
            return retrofit(model, entry.fillings(), (1, channels, *size), slots=slots, adapt=False, on_misfit='keep',
                            **options)

        model = _build(name, entry.base, fill, pretrained, {**entry.base_args, **kwargs})
        cfg = getattr(model, 'pretrained_cfg', None)
        if img_size is not None and isinstance(cfg, Mapping):
            declare_input(model, (1, cfg['input_size'][0], *size))
        return model

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f'{entry.base} with {", ".join(entry.operators)}; ``img_size`` is what its operators are built for.'
    return create


def _build(name: str, base: str, fill: Callable[[nn.Module], nn.Module], pretrained: bool,
           kwargs: dict[str, Any]) -> nn.Module:
    """Goes through timm's builder, which loads weights, adapts stem and classifier, and wraps feature extraction."""
    if base.partition('.')[0] == GENERIC:
        raise ZooError(f'{GENERIC} cannot be its own base: name the architecture that was retrofitted')
    if ':' in base or '/' in base:
        raise ZooError(f'the base of a retrofit is the name of a timm architecture, never an address or a folder; got '
                       f'{base!r:.80}')

    # The getter works on any model with forward_intermediates, whatever wrapper the stock model would get.
    feature_cfg: dict[str, Any] = {'feature_cls': 'getter'}
    all_stages = 'out_indices' not in kwargs

    def make(**model_args: Any) -> nn.Module:
        model = fill(create_backbone(base, **model_args))
        model.syno_base = base  # type: ignore[assignment]
        if all_stages:  # five at most; of the many equal blocks of a transformer the last three, as timm does
            stages = len(getattr(model, 'feature_info', ()))
            feature_cfg['out_indices'] = tuple(range(stages)) if stages <= 5 else 3
        return model

    cfg = kwargs.pop('pretrained_cfg', None) or (stock_cfg(base) if name == GENERIC else None)
    with weights_only(name):
        return build_model_with_cfg(make, name, pretrained, pretrained_cfg=cfg, feature_cfg=feature_cfg, **kwargs)


def stock_cfg(base: str, **changes: Any) -> dict[str, Any]:
    """What timm declares about an architecture's input and parts, without its weights."""
    declared = get_pretrained_cfg(base, allow_unregistered=True) if timm.is_model(base) else None
    facts = {} if declared is None else {k: v for k, v in asdict(declared).items() if k not in _NO_WEIGHTS}
    return {**facts, **changes}


default_cfgs = generate_default_cfgs({
    f'{name}.{load_retrofit(name).tag}': stock_cfg(load_retrofit(name).base, **load_retrofit(name).cfg())
    for name in retrofit_names()})

for _name in retrofit_names():
    register_model(_entry_point(_name, load_retrofit(_name)))
