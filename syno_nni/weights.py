"""Weights from files, without running what the files hold.

safetensors are data by design. Files of ``torch.save`` are pickles: they are read by torch's restricted unpickler, which
knows tensors and containers and nothing else, whatever the caller's library would do by itself.
"""
from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from syno_nni.errors import ConfigError, shown
from syno_nni.files import WEIGHTS_BYTES, check_file

_FORCE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
_INNER = ('state_dict_ema', 'model_ema', 'state_dict', 'model', 'module', 'network', 'net')
"""Where training scripts keep the weights in what they save, the averaged ones first."""
_WRAPPERS = ('module.', '_orig_mod.', 'model.')
_FEW, _DEEPEST = 5, 8


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a state dict that ``torch.save`` wrote, on the CPU.

    A state dict may lie inside of what a training script saved (under ``state_dict``, ``model_ema``, ...), and the names
    may bear the prefix of a wrapper (``module.``, ``_orig_mod.``).

    Raises:
        ConfigError: there is no such file, it is damaged, or it holds more than tensors: then it would have to run code
            to be read.
    """
    path = Path(path)
    check_file(path, limit=WEIGHTS_BYTES, error=ConfigError, what='the weights')
    if path.suffix == '.safetensors':
        from safetensors.torch import load_file
        try:
            return load_file(path)
        except Exception as error:  # safetensors has an exception of its own for damaged files, and raises others too
            raise ConfigError(f'{path}: no safetensors file, or a damaged one: {_brief(error)}') from None
    try:
        with weights_only(), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of odd pickles, which are read or refused
            loaded = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # the unpickler raises nearly anything on what is no pickle
        why = ('it holds more than tensors, and reading that could run code; save its state_dict() as safetensors'
               if 'weights_only' in str(error) or 'Unsupported' in str(error) else _brief(error))
        raise ConfigError(f'{path}: cannot read the weights: {why}') from None
    return _state_dict(loaded, path)


def _state_dict(loaded: object, path: Path) -> dict[str, Tensor]:
    for _ in range(_DEEPEST):  # not for ever: a pickle may hold itself
        if not isinstance(loaded, Mapping):
            break
        inner = next((loaded[key] for key in _INNER if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ConfigError(f'{path}: wanted a state dict (names and tensors), got {shown(loaded)}')
    return {str(name): value for name, value in loaded.items()}


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Give ``model`` the weights of a file; nothing changes when they do not fit.

    Raises:
        ConfigError: as for :func:`read_weights`, or names or shapes are not those of the model; the message names some.
    """
    found = read_weights(path)
    wanted = model.state_dict()
    found = next((renamed for renamed in _names(found) if renamed.keys() & wanted.keys()), found)
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    # Older files lack the count of batches, which nothing but a moving average without momentum reads.
    missing = [name for name in missing if not name.endswith('num_batches_tracked')]
    odd = [f'{name} is {tuple(found[name].shape)}, the model wants {tuple(wanted[name].shape)}'
           for name in found.keys() & wanted.keys() if found[name].shape != wanted[name].shape]
    for what, names in (('the model has no', unknown), ('the file lacks', missing), ('shapes differ:', sorted(odd))):
        if names:
            more = f' and {len(names) - _FEW} more' if len(names) > _FEW else ''
            raise ConfigError(f'{path}: these are not the weights of this model: {what} {", ".join(names[:_FEW])}{more}')
    model.load_state_dict(found, strict=False)


def _names(found: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors as they are called, and without the prefixes of wrappers."""
    yield found
    while prefix := next((p for p in _WRAPPERS if all(name.startswith(p) for name in found)), ''):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
        yield found


@contextmanager
def weights_only() -> Iterator[None]:
    """While this lasts, ``torch.load`` reads tensors and containers only, whoever calls it and however.

    timm before 1.0.25 asks for the unrestricted unpickler.
    """
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = '1'
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


def _brief(error: Exception) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
