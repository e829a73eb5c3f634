"""timm models by name, with errors that help."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from .errors import ConfigError, SynoError, shown
from .files import WEIGHTS_BYTES, check_file, exists, read_json, show_path
from .text import cell, did_you_mean

_WEIGHTS = ('model.safetensors', 'open_clip_model.safetensors', 'pytorch_model.bin', 'open_clip_pytorch_model.bin')

_READS_FILES = {'checkpoint_path', 'pretrained_cfg', 'pretrained_cfg_overlay', 'cache_dir'}
"""Arguments of ``timm.create_model`` that make it read files, some of them pickles."""


def create_backbone(name: str, **kwargs: Any) -> nn.Module:
    """``timm.create_model``, with one-line errors.

    Raises:
        ConfigError: timm has no model of this name, or the model does not take the arguments.
    """
    import timm

    from syno_nni.weights import weights_only
    if not isinstance(name, str):
        raise ConfigError(f'model.name wants the name of a timm model, got {name!r:.60}')
    for key in _READS_FILES.intersection(kwargs):
        if not (key == 'pretrained_cfg' and isinstance(kwargs[key], str)):
            raise ConfigError(f'model.{key}: timm would read files that it names; remove it (weights of your own: '
                              '--checkpoint FILE, or a folder as local-dir:FOLDER)')
    if not name.startswith(('hf-hub:', 'hf_hub:', 'local-dir:')) and not timm.is_model(name):
        raise ConfigError(unknown_model(name))
    if name.startswith('local-dir:'):
        look_into_folder(name)
    try:
        with weights_only():
            return timm.create_model(name, **kwargs)
    except SynoError:
        raise
    except Exception as error:  # timm and its models check little: whatever their code makes of wrong arguments
        given = ', '.join(f'{k}={shown(v)}' for k, v in kwargs.items())
        raise ConfigError(f'model: timm cannot make {cell(name)} with {given or "its defaults"}: '
                          f'{type(error).__name__}: {cell(error, 400)}') from error


def unknown_model(name: str) -> str:
    """What to say about a name that timm does not know."""
    import timm
    hint = did_you_mean(name, timm.list_models(), 3, otherwise='timm.list_models() lists the names')
    return f'model.name: timm has no model {shown(name)}; {hint}'


def look_into_folder(name: str) -> None:
    """Look at the files that timm would open for ``local-dir:FOLDER``.

    Raises:
        ConfigError: the folder or its configuration is missing, or they are not what they should be.
    """
    folder = Path(name.removeprefix('local-dir:'))
    config = read_json(folder / 'config.json', error=ConfigError, what="the model's configuration")
    if not isinstance(config, dict):
        raise ConfigError(f'{show_path(folder / "config.json")}: wants a JSON object, got {shown(config)}')
    for name in _WEIGHTS:
        if exists(folder / name):
            check_file(folder / name, limit=WEIGHTS_BYTES, error=ConfigError, what='the weights')
