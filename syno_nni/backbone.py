"""timm models by name, with errors that help."""
from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from .environment import usable_memory
from .errors import ConfigError, SynoError, shown
from .files import WEIGHTS_BYTES, check_file, exists, read_json, show_path
from .text import cell, did_you_mean

_WEIGHTS = ('model.safetensors', 'open_clip_model.safetensors', 'pytorch_model.bin', 'open_clip_pytorch_model.bin')

_READS_FILES = {'checkpoint_path', 'pretrained_cfg', 'pretrained_cfg_overlay', 'cache_dir'}
"""Arguments of ``timm.create_model`` that make it read files, some of them pickles."""


_BYTES = 4
"""Of a parameter, which timm makes in single precision."""
_MOST_MODULES = 20_000
"""Of a model. Ten times as many as timm's deepest have, and made in seconds."""
_LARGEST, _LONGEST, _DEEPEST = 2 ** 20, 1000, 8
"""An argument that timm's models take: the greatest number, the longest list or mapping, and how deep they nest."""


def create_backbone(name: str, **kwargs: Any) -> nn.Module:
    """``timm.create_model``, with one-line errors.

    Raises:
        ConfigError: as :func:`check_backbone`; or timm cannot make the model with these arguments or weights.
    """
    import timm

    from syno_nni.weights import weights_only
    check_backbone(name, **kwargs)
    try:
        with _counted(usable_memory(), cell(name)), weights_only(f'model: {cell(name)}'):
            return timm.create_model(name, **kwargs)
    except SynoError:
        raise
    except Exception as error:  # timm and its models check little: whatever their code makes of wrong arguments
        raise ConfigError(_cannot_make(name, kwargs, error)) from error


def check_backbone(name: str, **kwargs: Any) -> None:
    """Whether ``timm.create_model`` may be called so, as far as can be told without taking memory or weights.

    Raises:
        ConfigError: timm has no model of this name, it does not take an argument or would read files that one names, or the
            model is too large for the memory of this machine.
    """
    import timm
    if not isinstance(name, str):
        raise ConfigError(f'model.name wants the name of a timm model, got {name!r:.60}')
    for key, value in kwargs.items():
        if key in _READS_FILES and not (key == 'pretrained_cfg' and isinstance(value, str)):
            raise ConfigError(f'model.{key}: timm would read files that it names; remove it (weights of your own: '
                              '--checkpoint FILE, or a folder as local-dir:FOLDER)')
        _check_argument(value, f'model.{cell(key, 80)}')
    if not name.startswith(('hf-hub:', 'hf_hub:', 'local-dir:')) and not timm.is_model(name):
        raise ConfigError(unknown_model(name))
    if name.startswith('local-dir:'):
        look_into_folder(name)
    if not name.startswith(('hf-hub:', 'hf_hub:')):
        _try_without_memory(name, kwargs, usable_memory())


def _cannot_make(name: str, kwargs: Mapping[str, Any], error: Exception) -> str:
    return f'model: timm cannot make {cell(name)} with {_given(kwargs)}: {type(error).__name__}: {cell(error, 400)}'


def _given(kwargs: Mapping[str, Any]) -> str:
    return cell(', '.join(f'{k}={shown(v)}' for k, v in kwargs.items()), 400) or 'its defaults'


def _check_argument(value: Any, where: str, depth: int = 0) -> None:
    """Whether a model can want this: timm's models take what they get, and make a billion layers.

    Raises:
        ConfigError: a number is too large, a list too long.
    """
    if isinstance(value, (Mapping, list, tuple)):
        if len(value) > _LONGEST or depth == _DEEPEST:
            raise ConfigError(f'{where}: no model wants {"so many items" if depth < _DEEPEST else "so deep a list"}, '
                              f'got {shown(value)}')
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_argument(item, where, depth + 1)
    elif isinstance(value, (int, float)) and not abs(value) <= _LARGEST:
        raise ConfigError(f'{where}: should be a number of at most {_LARGEST}, got {shown(value)}')
    elif isinstance(value, str) and len(value) > 10 * _LONGEST:
        raise ConfigError(f'{where}: no model wants so long a text, got {len(value)} characters')


def _try_without_memory(name: str, kwargs: Mapping[str, Any], memory: int | None) -> None:
    """Make a model whose weights take no memory, to see whether it is one that this machine can hold.

    Raises:
        ConfigError: it is not.
    """
    import timm
    with _counted(memory, cell(name)), warnings.catch_warnings(), torch.device('meta'):
        warnings.simplefilter('ignore')
        try:
            timm.create_model(name, **{k: v for k, v in kwargs.items() if k not in ('pretrained', 'device')})
        except ConfigError:
            raise
        except Exception as error:  # it cannot be made so, as some cannot, or at all, which is said when it is made in earnest
            if isinstance(error, TypeError) and 'unexpected keyword argument' in str(error):
                raise ConfigError(_cannot_make(name, kwargs, error)) from None


@contextmanager
def _counted(memory: int | None, name: str) -> Iterator[None]:
    """While this lasts, models of too many parameters or layers are not made on.

    Raises:
        ConfigError: there are too many.
    """
    parameters = modules = 0

    def count(module: nn.Module, key: str, parameter: nn.Parameter | None) -> None:
        nonlocal parameters
        if parameter is not None:
            parameters += math.prod(parameter.shape)
            if memory is not None and _BYTES * parameters > memory:
                raise ConfigError(f'model: {name} has more than {parameters / 1e9:.1f} billion parameters, and the memory of '
                                  f'this machine ({memory / 1e9:.1f} GB) cannot hold them; choose a smaller model')

    def count_modules(module: nn.Module, key: str, inner: nn.Module | None) -> None:
        nonlocal modules
        modules += 1
        if modules > _MOST_MODULES:
            raise ConfigError(f'model: {name} has more than {_MOST_MODULES} layers with these arguments; choose '
                              'a smaller model')

    hooks = (torch_module.register_module_parameter_registration_hook(count),
             torch_module.register_module_module_registration_hook(count_modules))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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
    args = config.get('model_args')
    for key, value in args.items() if isinstance(args, dict) else ():
        if key in _READS_FILES:
            raise ConfigError(f'{show_path(folder / "config.json")}: model_args.{key}: a folder holds its own weights; '
                              'remove it')
        if key != 'slots':
            _check_argument(value, f'{show_path(folder / "config.json")}: model_args.{cell(key, 80)}')
    for name in _WEIGHTS:
        if exists(folder / name):
            check_file(folder / name, limit=WEIGHTS_BYTES, error=ConfigError, what='the weights')
