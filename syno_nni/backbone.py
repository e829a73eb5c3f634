"""timm models by name, with errors that help."""
from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from .errors import ConfigError


def create_backbone(name: str, **kwargs: Any) -> nn.Module:
    """``timm.create_model``, with one-line errors.

    Raises:
        ConfigError: timm has no model of this name, or the model does not take the arguments.
    """
    import timm
    if not name.startswith(('hf-hub:', 'hf_hub:', 'local-dir:')) and not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.6)
        hint = f'did you mean {" or ".join(close)}?' if close else 'timm.list_models() lists the names'
        raise ConfigError(f'model.name: timm has no model {name!r}; {hint}')
    try:
        return timm.create_model(name, **kwargs)
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        shown = ', '.join(f'{k}={v!r}' for k, v in kwargs.items())
        raise ConfigError(f'model: timm cannot make {name} with {shown or "its defaults"}: '
                          f'{type(error).__name__}: {" ".join(str(error).split())}') from error
