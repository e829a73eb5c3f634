"""A deployable folder: timm's layout (``config.json``, ``model.safetensors``), with the operators in the configuration.

>>> save_folder(model, 'resnet18-fast')
>>> import timm, syno_nni.model_zoo
>>> timm.create_model('local-dir:resnet18-fast', pretrained=True)

Nothing in it is executed: formulas are parsed, weights are safetensors.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from torch import nn

from syno_nni.errors import SynoError, ZooError
from syno_nni.files import WEIGHTS_BYTES, check_file, exists, read_json, show_path
from syno_nni.plan.layer import SynthesizedLayer
from syno_nni.search_spaces.retrofit.retrofit import filled_slots, slot_config

CONFIG, WEIGHTS, CARD, ONNX = 'config.json', 'model.safetensors', 'README.md', 'model.onnx'


def save_folder(model: nn.Module, path: str | Path, *, base: str | None = None, input_size: Sequence[int] | None = None,
                evidence: Mapping[str, Any] | None = None, card: str = '') -> Path:
    """Write a retrofitted timm model as a folder that ``timm.create_model('local-dir:...')`` loads.

    Args:
        model: what :func:`~syno_nni.search_spaces.retrofit.retrofit.retrofit` made of a timm model.
        path: the folder; made if needed. Files of an earlier save are replaced.
        base: the timm architecture that was retrofitted; by default the model says so itself.
        input_size: (channels, height, width) that the operators are built for, which timm's data pipeline then uses; by
            default what timm declares for the architecture.
        evidence: JSON-able facts that are kept in the configuration under ``syno_nni``.
        card: text of the model card.

    Raises:
        ZooError: the model has no filled slot or no timm configuration, or the folder cannot be written.
    """
    folder = Path(path)
    cfg = getattr(model, 'pretrained_cfg', None)
    base = base or getattr(model, 'syno_base', None) or (cfg or {}).get('architecture')
    if not filled_slots(model):
        raise ZooError(f'{type(model).__name__} has no filled slot: retrofit it before saving')
    if any(not isinstance(slot.layer, SynthesizedLayer) for slot in filled_slots(model).values()):
        raise ZooError('the model is in its deploy form, which has no weights to save: save before reparameterize_model')
    if not cfg or not base or not timm.is_model(base):
        raise ZooError(f'{type(model).__name__} is no timm model: save slot_config(model) and its state_dict instead')
    from .timm_models import GENERIC
    args = {k: v for k, v in getattr(model, '_model_args', {}).items() if k not in ('base', 'slots', 'pretrained_cfg')}
    # timm refuses a stored size that the model does not have; the slots hold the sizes of flexible models.
    if not cfg.get('fixed_input_size'):
        args.pop('img_size', None)
    own = {'base': base, 'slots': slot_config(model)}
    config = {'pretrained_cfg': {'architecture': GENERIC, 'tag': None}, 'syno_nni': dict(evidence or {})}
    before = getattr(model, '_model_args', None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model._model_args = args
        timm.models.save_for_hf(model, str(folder), model_config=config, model_args={**args, **own}, safe_serialization=True)
        if input_size is not None:
            saved = read_config(folder)
            saved['pretrained_cfg'] |= {'input_size': list(input_size), 'pool_size': None}
            (folder / CONFIG).write_text(json.dumps(saved, indent=2), encoding='utf-8')
        if card:
            (folder / CARD).write_text(card, encoding='utf-8')
    except OSError as error:
        raise ZooError(f'{folder}: cannot write: {error.strerror or error}') from None
    except (RuntimeError, ValueError) as error:
        raise ZooError(f'{folder}: cannot save {base}: {" ".join(str(error).split())}') from error
    finally:
        if before is not None:
            model._model_args = before
        else:
            del model._model_args
    return folder


def load_folder(path: str | Path, **kwargs: Any) -> nn.Module:
    """The model of a folder with its weights, by ``timm.create_model('local-dir:...')``; ``kwargs`` as there.

    Raises:
        ZooError: the folder is missing, incomplete or malformed.
    """
    folder = Path(path)
    read_config(folder)
    if not exists(folder / WEIGHTS):
        raise ZooError(f'{show_path(folder)} has no {WEIGHTS}')
    check_file(folder / WEIGHTS, limit=WEIGHTS_BYTES, error=ZooError, what='the weights')
    try:
        return timm.create_model(f'local-dir:{folder}', pretrained=True, **kwargs)
    except SynoError as error:
        raise ZooError(f'{folder}: {error}') from error
    except Exception as error:  # whatever a damaged file makes safetensors or timm raise
        raise ZooError(f'{folder}: cannot load: {type(error).__name__}: {" ".join(str(error).split())[:300]}') from error


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a saved folder.

    Raises:
        ZooError: it is missing, no JSON object, or not of a retrofitted model.
    """
    config = read_json(folder / CONFIG, error=ZooError, what='the configuration of the folder')
    if not isinstance(config, dict) or not isinstance(config.get('model_args'), dict) or 'slots' not in config['model_args']:
        raise ZooError(f'{folder / CONFIG} is not of a retrofitted model: it has no model_args.slots')
    return config
