"""A folder for a retrofitted model that is none of timm's: its operators and weights, for a module that the user makes.

>>> save_module(model, 'mine-fast', name='my_resnet')
>>> model = load('mine-fast', model=my_resnet())

Nothing in it is executed: formulas are parsed, weights are safetensors.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from syno_nni.errors import SynoError, ZooError
from syno_nni.files import check_path, exists, read_json, show_path
from syno_nni.search_spaces.retrofit.retrofit import apply_slot_config, filled_slots, slot_config
from syno_nni.weights import load_weights

from .folder import CARD, CONFIG, WEIGHTS, draft_of, load_folder

_KIND = 'syno_nni.module'


def save_module(model: nn.Module, path: str | Path, *, name: str = '', input_size: Sequence[int] | None = None,
                evidence: Mapping[str, Any] | None = None, card: str = '') -> Path:
    """Write a retrofitted module as a folder that :func:`load` puts into a module of the same architecture.

    Args:
        model: what :func:`~syno_nni.search_spaces.retrofit.retrofit.retrofit` made.
        path: the folder; files of an earlier save are replaced.
        name: of the architecture, for people.
        input_size: (channels, height, width) that the operators are made for.
        evidence: JSON-able facts.
        card: text of the model card.

    Raises:
        ZooError: the model has no filled slot, or the folder cannot be written.
    """
    if not filled_slots(model):
        raise ZooError(f'{type(model).__name__} has no filled slot: retrofit it before saving')
    folder = check_path(path, error=ZooError, what='the folder')
    if exists(folder / CONFIG) and _config(folder).get('kind') != _KIND:
        raise ZooError(f'{show_path(folder)}: cannot write here: its {CONFIG} is not of a retrofitted module, and would be '
                       'replaced; choose another folder')
    config = {'kind': _KIND, 'format': 1, 'name': name or type(model).__name__, 'input_size': list(input_size or ()),
              'slots': slot_config(model), 'syno_nni': dict(evidence or {})}
    try:
        with draft_of(folder) as draft:
            (draft / CONFIG).write_text(json.dumps(config, indent=2), encoding='utf-8')
            # Weights that share memory are stored once for each name.
            save_file({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}, draft / WEIGHTS)
            if card:
                (draft / CARD).write_text(card, encoding='utf-8')
    except OSError as error:
        raise ZooError(f'{show_path(folder)}: cannot write: {error.strerror or error}') from None
    return folder


def load(folder: str | Path, model: nn.Module | None = None, **kwargs: Any) -> nn.Module:
    """The model of a folder that a search, ``syno-nni retrofit`` or a save wrote, with its weights, in evaluation mode.

    Args:
        folder: of :func:`~.folder.save_folder` or :func:`save_module`.
        model: for the latter, a module of the same architecture; a copy of it is filled.
        kwargs: for a timm model, further arguments of ``timm.create_model``.

    Raises:
        ZooError: the folder is missing or malformed, or ``model`` is missing or of another architecture.
    """
    path = Path(folder)
    config = _config(path)
    if config.get('kind') != _KIND:
        return load_folder(path, **kwargs).eval()
    if model is None:
        raise ZooError(f'{show_path(path)} holds operators and weights for a module of yours ({config.get("name")}): pass it, '
                       'as load(folder, model=build())')
    if kwargs:
        raise ZooError(f'{show_path(path)}: takes no {", ".join(kwargs)}: these are for timm models')
    try:
        filled = apply_slot_config(model, config.get('slots') or {})
        load_weights(filled, path / WEIGHTS)
    except SynoError as error:
        raise ZooError(f'{show_path(path)}: {error}') from error
    return filled.eval()


load_any = load
"""The name of :func:`load` in the package, where another ``load`` reads an operator."""


def _config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / CONFIG, error=ZooError, what='the configuration of the folder')
    if not isinstance(config, dict):
        raise ZooError(f'{show_path(folder / CONFIG)}: wants a JSON object')
    return config
