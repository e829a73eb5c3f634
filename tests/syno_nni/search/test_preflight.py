"""What cannot work is refused by ``--dry-run`` too, and nothing is made."""
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from syno_nni.cli.main import main
from syno_nni.errors import ConfigError
from syno_nni.run.config import SearchConfig
from syno_nni.search import preflight
from syno_nni.search.preflight import check


def _config(**sections: object) -> SearchConfig:
    return SearchConfig.from_dict({'model': {'name': 'resnet10t'}, 'engine': 'sequential', **sections})


@pytest.mark.parametrize(('sections', 'message'), [
    ({'model': {'name': 'resnet81'}}, "timm has no model 'resnet81'; did you mean 'resnet"),
    ({'model': {'name': 'local-dir:nowhere'}}, "cannot read the model's configuration nowhere/config.json: No such file"),
    ({'slots': {'kinds': ['conv3x4']}}, "unknown kind of slot 'conv3x4'; did you mean 'conv3x3'"),
    ({'strategy': {'classArgs': {'concurrency': 0}}}, 'concurrency: should be greater'),
    ({'data': {'imageSize': 4096}}, r'64 images \(data.batchSize\) of 4096 pixels need 129 GB of memory at least'),
    ({'data': {'imageSize': 2048, 'batchSize': 1}, 'latency': {'batchSize': 600}}, r'600 images \(latency.batchSize\)'),
    ({'latency': {'imageSize': 64}}, 'latency.imageSize: 64 differs'),
    ({'evaluation': {'device': 'cuda'}}, 'no CUDA GPU'),
])
def test_what_cannot_work(sections: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                          capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, 'usable_memory', lambda: 16 * 10 ** 9)
    monkeypatch.setattr(preflight.torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ConfigError, match=message):
        check(_config(**sections))
    (tmp_path / 'f.yml').write_text(json.dumps(_config(**sections).to_dict()))
    for words in (['--dry-run'], ['--run-dir', 'run']):
        assert main(['search', 'f.yml', *words]) == 1
        err = capsys.readouterr().err
        assert err.startswith('error: ') and err.count('\n') == 1
    assert os.listdir(tmp_path) == ['f.yml']


def test_what_runs_elsewhere_is_not_measured_by_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.torch.cuda, 'is_available', lambda: False)
    check(_config(evaluation={'device': 'cuda'}), here=False)
    check(_config(evaluation={'device': 'cuda'}, engine='remote', machineList=[{'host': 'h', 'user': 'u'}]))
    check(_config(evaluation={'device': 'auto'}))


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors', 'pytorch_model.bin'])
def test_a_model_folder_with_a_pipe_in_it_does_not_hang(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / 'model'
    folder.mkdir()
    (folder / 'config.json').write_text('{"architecture": "resnet10t"}')
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    for words in (['slots', f'local-dir:{folder}'], ['retrofit', f'local-dir:{folder}', '--operator', 'grouped_conv2d']):
        assert main(words) == 1
        assert 'a named pipe, not a regular file' in capsys.readouterr().err


@pytest.mark.parametrize('content', [b'', b'x' * 100, b'\xff' * 8 + b'{}', b'\x02' + b'\0' * 7 + b'{}'])
def test_damaged_weights_of_a_folder(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'config.json').write_text('{"architecture": "resnet10t", "num_classes": 10}')
    (tmp_path / 'model.safetensors').write_bytes(content)
    assert main(['retrofit', f'local-dir:{tmp_path}', '--operator', 'grouped_conv2d', '--runtime', 'none']) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1


@pytest.mark.parametrize('arguments', [{'global_pool': []}, {'global_pool': {'a': 1}}, {'block': 3}])
def test_arguments_that_a_model_chokes_on(arguments: dict[str, object]) -> None:
    from syno_nni.backbone import create_backbone
    with pytest.raises(ConfigError, match='timm cannot make resnet10t with'):
        create_backbone('resnet10t', **arguments)
