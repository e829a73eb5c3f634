"""Weights from files: what is in them must never run."""
from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from syno_nni.errors import ConfigError
from syno_nni.weights import load_weights, read_weights, weights_only

from ..testing.canary import Canary


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.bin', '.tar', '.ckpt', '.safetensors', '.odd'])
@pytest.mark.parametrize('zipped', [True, False])
def test_a_pickle_never_runs(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path, canary = tmp_path / f'weights{suffix}', tmp_path / 'ran'
    torch.save({'state_dict': {'w': torch.ones(2)}, 'extra': Canary(canary)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match='more than tensors|no safetensors file') as caught:
        read_weights(path)
    assert not canary.exists() and '\n' not in str(caught.value)


def test_no_library_unpickles_freely_while_it_builds_a_model(tmp_path: Path) -> None:
    """timm before 1.0.25 passes weights_only=False."""
    torch.save(Canary(tmp_path / 'ran'), tmp_path / 'x.pth')
    with weights_only(), pytest.raises(Exception, match='weights_only|Weights only'):
        torch.load(tmp_path / 'x.pth', weights_only=False)
    assert not (tmp_path / 'ran').exists() and 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ


@pytest.mark.parametrize('wrap', [
    lambda d: d, lambda d: {'state_dict': d, 'epoch': 3}, lambda d: {'model': {f'module.{k}': v for k, v in d.items()}},
    lambda d: {f'_orig_mod.module.{k}': v for k, v in d.items()},
    lambda d: {'state_dict': {k: v * 0 for k, v in d.items()}, 'model_ema': d},
])
def test_what_training_scripts_save(tmp_path: Path, wrap) -> None:
    trained, fresh = model(), model()
    torch.save(wrap(trained.state_dict()), tmp_path / 'x.pth')
    load_weights(fresh, tmp_path / 'x.pth')
    assert all(torch.equal(a, b) for a, b in zip(trained.state_dict().values(), fresh.state_dict().values()))


@pytest.mark.parametrize('content', [b'', b'garbage' * 100, b'\x80\x02}q\x00.', b'PK\x03\x04' + b'\0' * 60])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_damaged_files(tmp_path: Path, content: bytes, suffix: str) -> None:
    (tmp_path / f'x{suffix}').write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_weights(tmp_path / f'x{suffix}')
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 400


def test_weights_of_another_model_change_nothing(tmp_path: Path) -> None:
    other = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(2, 2))
    save_file(other.state_dict(), tmp_path / 'x.safetensors')
    fresh = model()
    before = {k: v.clone() for k, v in fresh.state_dict().items()}
    with pytest.raises(ConfigError, match='the model has no 2.bias, 2.weight'):
        load_weights(fresh, tmp_path / 'x.safetensors')
    save_file({k: v for k, v in other.state_dict().items() if not k.startswith('2')}, tmp_path / 'y.safetensors')
    with pytest.raises(ConfigError, match=r'shapes differ: 0.bias is \(5,\), the model wants \(4,\)'):
        load_weights(fresh, tmp_path / 'y.safetensors')
    assert all(torch.equal(before[k], v) for k, v in fresh.state_dict().items())


def test_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / 'absent.pth'):
        with pytest.raises(ConfigError, match='No such file|a directory, not a regular file'):
            read_weights(path)


def test_a_state_dict_that_holds_itself_is_not_read_for_ever(tmp_path: Path) -> None:
    looped: dict[str, object] = {}
    looped['state_dict'] = looped
    torch.save(looped, tmp_path / 'x.pth')
    with pytest.raises(ConfigError, match='wanted a state dict'):
        read_weights(tmp_path / 'x.pth')
