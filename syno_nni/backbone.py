"""timm models by name, with errors that help."""
from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from .errors import ConfigError

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
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.6)
        hint = f'did you mean {" or ".join(close)}?' if close else 'timm.list_models() lists the names'
        raise ConfigError(f'model.name: timm has no model {name!r}; {hint}')
    try:
        with weights_only():
            return timm.create_model(name, **kwargs)
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        shown = ', '.join(f'{k}={v!r}' for k, v in kwargs.items())
        raise ConfigError(f'model: timm cannot make {name} with {shown or "its defaults"}: '
                          f'{type(error).__name__}: {" ".join(str(error).split())}') from error
