"""Weights from files: what is in them must never run."""
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from syno_nni.backbone import create_backbone
from syno_nni.cli.main import main
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
    with pytest.raises(ConfigError, match='the model: cannot read the weights: it holds more than tensors'), weights_only():
        torch.load(tmp_path / 'x.pth', weights_only=False)
    assert not (tmp_path / 'ran').exists() and 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ


def evil_folder(folder: Path, canary: Path, name: str, architecture: str = 'test_resnet') -> Path:
    """A folder as others share them, with a pickle for its weights."""
    folder.mkdir()
    args = {'base': 'test_resnet', 'slots': {'format': 1, 'slots': {}}} if architecture == 'syno_retrofit' else {}
    (folder / 'config.json').write_text(json.dumps({
        'architecture': architecture, 'model_args': args, 'pretrained_cfg': {'architecture': architecture}}))
    torch.save({'state_dict': {'w': torch.ones(2)}, 'extra': Canary(canary)}, folder / name)
    return folder


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'open_clip_pytorch_model.bin'])
@pytest.mark.parametrize('architecture', ['test_resnet', 'syno_retrofit'])
def test_nobody_is_told_to_read_a_refused_folder_without_restrictions(
        tmp_path: Path, name: str, architecture: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What torch and timm say of a pickle is how to run it."""
    canary = tmp_path / 'ran'
    folder = evil_folder(tmp_path / 'm', canary, name, architecture)
    file = tmp_path / 'f.yml'
    file.write_text(f'model: {{name: "local-dir:{folder}", pretrained: true}}\nengine: sequential\n')
    for argv in (['retrofit', f'local-dir:{folder}', '--operator', 'conv2d', '--out', str(tmp_path / 'out')],
                 ['retrofit', f'local-dir:{folder}', '--pretrained', '--operator', 'conv2d', '--out', str(tmp_path / 'out')],
                 ['search', str(file), '--run-dir', str(tmp_path / 'run')]):
        assert main(argv) == 1
        said = capsys.readouterr().err
        assert 'it holds more than tensors' in said and 'safetensors' in said
        assert 'False' not in said and 'safe_globals' not in said
    with pytest.raises(ConfigError, match='it holds more than tensors'):
        create_backbone(f'local-dir:{folder}', pretrained=True)
    if architecture == 'syno_retrofit':  # timm's own call, which goes through ours
        with pytest.raises(ConfigError, match='it holds more than tensors') as caught:
            timm.create_model(f'local-dir:{folder}', pretrained=True)
        assert 'False' not in str(caught.value) and caught.value.__suppress_context__
    assert not canary.exists() and not (tmp_path / 'out').exists()


@pytest.mark.parametrize('value', [{'w': torch.ones(1), 'x': slice(1)}, {'w': torch.ones(1), 'x': Path('x')}])
def test_data_that_would_be_harmless_to_unpickle_is_named(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / 'x.pth')
    with pytest.raises(ConfigError, match=r'more than tensors \([\w.]+\), and reading that could run code') as caught:
        read_weights(tmp_path / 'x.pth')
    assert 'False' not in str(caught.value)


def test_a_wish_for_the_free_unpickler_in_the_environment_is_not_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    torch.save(model().state_dict(), tmp_path / 'good.pth')
    torch.save(Canary(tmp_path / 'ran'), tmp_path / 'x.pth')
    assert read_weights(tmp_path / 'good.pth')
    with pytest.raises(ConfigError, match='more than tensors'):
        read_weights(tmp_path / 'x.pth')
    assert not (tmp_path / 'ran').exists() and os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] == '1'


@pytest.mark.parametrize('arguments', [
    {'checkpoint_path': 'w.pth'}, {'pretrained_cfg': {'file': 'w.pth'}}, {'pretrained_cfg_overlay': {'file': 'w.pth'}},
    {'pretrained': True, 'pretrained_cfg': {'file': 'w.pth'}}, {'cache_dir': '.'}, {'checkpointPath': 'w.pth'}])
def test_keys_by_which_timm_reads_files_are_refused_before_anything(
        tmp_path: Path, arguments: dict[str, object], capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Canary(tmp_path / 'ran'), 'w.pth')
    (tmp_path / 'f.yml').write_text(json.dumps({'model': {'name': 'test_resnet', **arguments}, 'engine': 'sequential'}))
    for argv in (['search', 'f.yml', '--dry-run'], ['search', 'f.yml', '--run-dir', 'run']):
        assert main(argv) == 1
        said, asked = capsys.readouterr().err, next(key for key in reversed(arguments))
        assert said.startswith('error: model') and asked in said and said.count('\n') == 1 and 'False' not in said
        assert 'would read files' in said or asked == 'checkpointPath'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['f.yml', 'w.pth']


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
