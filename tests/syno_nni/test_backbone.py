"""Models that no machine can hold are refused before they are made."""
from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from syno_nni import backbone, model_zoo
from syno_nni.backbone import create_backbone
from syno_nni.errors import ConfigError, ZooError


@pytest.mark.parametrize(('name', 'arguments', 'says'), [
    ('test_vit', {'img_size': 10 ** 6}, r'billion parameters, and the memory of this machine'),
    ('test_resnet', {'channels': [10 ** 6] * 4}, 'billion parameters'),
    ('resnet18', {'layers': [10 ** 6, 1, 1, 1]}, 'more than 20000 layers'),
    ('resnet18', {'layers': [10 ** 9] * 4}, 'model.layers: should be a number of at most'),
    ('resnet18', {'num_classes': 10 ** 400}, 'model.num_classes: should be a number of at most'),
    ('resnet18', {'layers': [2] * 5000}, 'model.layers: no model wants so many items'),
    ('resnet18', {'drop_rate': float('nan')}, 'model.drop_rate: should be a number')])
def test_arguments_that_no_machine_can_hold(name: str, arguments: dict[str, Any], says: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=says) as caught:
            create_backbone(name, **arguments)
        assert tracemalloc.get_traced_memory()[1] < 3e8
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 400


def test_the_base_of_a_folder_is_counted_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, 'usable_memory', lambda: 10 ** 6)  # bytes
    (tmp_path / 'config.json').write_text(json.dumps({
        'architecture': 'syno_retrofit', 'pretrained_cfg': {'architecture': 'syno_retrofit'}, 'model_args': {'base': 'resnet18',
                                                                                                             'slots': {
            'format': 1, 'slots': {}}}}))
    (tmp_path / 'model.safetensors').write_bytes(b'x')
    with pytest.raises(ZooError, match='resnet18 has more than .* parameters'):
        model_zoo.load_folder(tmp_path)
    with pytest.raises(ConfigError, match='has more than .* parameters'):
        create_backbone(f'local-dir:{tmp_path}')
    (tmp_path / 'config.json').write_text(json.dumps({'architecture': 'resnet18', 'model_args': {'checkpoint_path': 'x'}}))
    with pytest.raises(ConfigError, match='model_args.checkpoint_path: a folder holds its own weights'):
        create_backbone(f'local-dir:{tmp_path}')


def test_looking_first_changes_nothing() -> None:
    """Neither the random numbers that weights are drawn from, nor the model."""
    torch.manual_seed(0)
    import timm
    expected = timm.create_model('test_resnet').state_dict()
    torch.manual_seed(0)
    got = create_backbone('test_resnet').state_dict()
    assert all(torch.equal(expected[name], got[name]) and got[name].device.type == 'cpu' for name in expected)
