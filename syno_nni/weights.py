"""Weights from files, without running what the files hold.

safetensors are data by design. Files of ``torch.save`` are pickles: they are read by torch's restricted unpickler, which
knows tensors and containers and nothing else, whatever the caller's library would do by itself.
"""
from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from syno_nni.atomic import write_whole
from syno_nni.errors import ConfigError, SynoError, shown
from syno_nni.files import WEIGHTS_BYTES, check_file, show_path
from syno_nni.text import cell

_FORCE, _FORCE_NOT = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
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
            raise ConfigError(f'{show_path(path)}: no safetensors file, or a damaged one: {_brief(error)}') from None
    try:
        with weights_only(), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of odd pickles, which are read or refused
            loaded = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # the unpickler raises nearly anything on what is no pickle
        raise ConfigError(f'{show_path(path)}: cannot read the weights: {_refusal(error) or _brief(error)}') from None
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
        raise ConfigError(f'{show_path(path)}: wanted a state dict (names and tensors), got {shown(loaded)}')
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
            raise ConfigError(f'{show_path(path)}: these are not the weights of this model: {what} '
                              f'{cell(", ".join(names[:_FEW]), 600)}{more}')
    model.load_state_dict(found, strict=False)


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights as safetensors, whole or not at all; those that share memory once for each name."""
    from safetensors.torch import save
    write_whole(path, save({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}))


def _names(found: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors as they are called, and without the prefixes of wrappers."""
    yield found
    while prefix := next((p for p in _WRAPPERS if all(name.startswith(p) for name in found)), ''):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
        yield found


@contextmanager
def weights_only(what: str = 'the model') -> Iterator[None]:
    """While this lasts, ``torch.load`` reads tensors and containers only, whoever calls it and however.

    timm before 1.0.25 asks for the unrestricted unpickler; and torch and timm advise to read what they refuse without
    restrictions, which nobody shall do because a message says so.

    Args:
        what: opens the message of what is raised.

    Raises:
        ConfigError: weights were refused.
    """
    before = {name: os.environ.pop(name, None) for name in (_FORCE, _FORCE_NOT)}
    os.environ[_FORCE] = '1'
    try:
        yield
    except SynoError:
        raise
    except Exception as error:
        if why := _refusal(error):
            raise ConfigError(f'{what}: cannot read the weights: {why}') from None
        raise
    finally:
        del os.environ[_FORCE]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _refusal(error: BaseException | None) -> str:
    """Why weights were not read, if the restricted unpickler refused them; else empty."""
    said: list[str] = []
    while error is not None and len(said) < _DEEPEST:
        said.append(str(error))
        error = error.__cause__ or error.__context__
    text = ' '.join(said)
    if not re.search('Weights only load failed|weights_only=True', text):
        return ''
    found = re.search(r'(?:Unsupported globals?:(?: GLOBAL)?|unsupported GLOBAL) ([\w.]+)', text)
    if not found and not re.search(r'add_safe_globals|TorchScript|\.tar', text):
        return 'it is damaged, or no file of torch.save'
    what = f' ({cell(found[1], 80)})' if found else ''
    return f'it holds more than tensors{what}, and reading that could run code; save its state_dict() as safetensors'


def _brief(error: Exception) -> str:
    return cell(f'{type(error).__name__}: {error}')
