"""Retrofitted models behave like any timm model: the checks of timm's own test_models.py, on small variants."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from syno_nni import model_zoo
from syno_nni.errors import ConfigError, SynoError, ZooError
from syno_nni.operator import classics
from syno_nni.search_spaces import filled_slots, slot_config
from syno_nni.search_spaces.retrofit.retrofit import retrofit

from ..testing.canary import Canary

# Architecture, image size, arguments that make it small, operator.
SMALL = {
    'resnet10t': (64, {}, classics.grouped_conv2d()),
    'mobilenetv3_small_050': (64, {}, classics.grouped_linear()),
    'densenet121': (64, {'block_config': (2, 2, 2, 2)}, classics.grouped_conv2d()),
    'convnext_atto': (64, {'depths': (1, 1, 2, 1)}, classics.low_rank_linear()),
    'vit_tiny_patch16_224': (64, {'img_size': 64, 'depth': 3}, classics.low_rank_linear()),
}


@pytest.fixture(scope='module', params=SMALL)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, torch.Tensor]:
    """A saved retrofit, the model that was saved, and an input."""
    size, args, op = SMALL[request.param]
    torch.manual_seed(0)
    x = torch.randn(2, 3, size, size)
    model = retrofit(timm.create_model(request.param, num_classes=10, **args), op, x, on_misfit='keep').eval()
    return model_zoo.save_folder(model, tmp_path_factory.mktemp('saved') / request.param), model, x


def test_reload(folder) -> None:
    path, model, x = folder
    assert sorted(p.name for p in path.iterdir()) == ['config.json', 'model.safetensors']
    again = timm.create_model(f'local-dir:{path}', pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x))
    assert slot_config(again) == slot_config(model)
    # A model that was loaded can be saved again.
    twice = model_zoo.load_folder(model_zoo.save_folder(again, path.parent / 'again')).eval()
    with torch.no_grad():
        torch.testing.assert_close(twice(x), model(x))


def test_classifier(folder) -> None:
    path, _, x = folder
    model = timm.create_model(f'local-dir:{path}', pretrained=True, num_classes=7).eval()
    assert model.num_classes == 7 and model(x).shape == (2, 7)
    features = model.forward_features(x)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity) and model(x).shape == (2, model.head_hidden_size)
    model.reset_classifier(5)
    assert model(x).shape == (2, 5)


def test_features_only(folder) -> None:
    path, _, x = folder
    model = timm.create_model(f'local-dir:{path}', pretrained=True, features_only=True).eval()
    outputs = model(x)
    assert [o.shape[1] for o in outputs] == model.feature_info.channels()
    assert [o.shape[-1] for o in outputs] == [-(-x.shape[-1] // r) for r in model.feature_info.reduction()]
    last = timm.create_model(f'local-dir:{path}', pretrained=True, features_only=True, out_indices=[-1]).eval()
    with torch.no_grad():
        torch.testing.assert_close(last(x)[0], outputs[-1])


def test_forward_intermediates(folder) -> None:
    _, model, x = folder
    with torch.no_grad():
        final, features = model.forward_intermediates(x)
        torch.testing.assert_close(model.forward_head(final), model(x))
    assert len(features) == len(model.feature_info) and all(torch.isfinite(f).all() for f in features)


def test_reparameterize(folder) -> None:
    _, model, x = folder
    deployed = timm.utils.reparameterize_model(model)
    with torch.no_grad():
        torch.testing.assert_close(deployed(x), model(x), atol=1e-4, rtol=1e-4)
    assert not any(p.requires_grad for slot in filled_slots(deployed).values() for p in slot.layer.parameters())
    with pytest.raises(SynoError, match='before'):
        model_zoo.save_folder(deployed, 'nowhere')


def test_gradients_reach_every_operator(folder) -> None:
    path, _, x = folder
    model = timm.create_model(f'local-dir:{path}', pretrained=True).train()
    model(x).mean().backward()
    assert all(p.grad is not None for slot in filled_slots(model).values() for p in slot.parameters())


def test_input_channels_are_adapted(folder) -> None:
    path, _, x = folder
    assert timm.create_model(f'local-dir:{path}', pretrained=True, in_chans=1).eval()(x[:, :1]).shape == (2, 10)


# --- registration ----------------------------------------------------------------------------------------------------

def test_names_are_registered_beside_timms_own() -> None:
    names = model_zoo.retrofit_names()
    assert set(names) <= set(timm.list_models('*_syno_*'))
    assert timm.models.model_entrypoint('resnet18') is timm.models.resnet.resnet18
    # None of them stands in timm itself.
    code = ('import timm; stock = set(timm.list_models()); import syno_nni.model_zoo as zoo; '
            'new = set(timm.list_models()) - stock; print(len(stock), set(zoo.retrofit_names()) <= new, '
            'len(set(timm.list_models())) == len(stock) + len(new))')
    done = subprocess.run([sys.executable, '-W', 'error::UserWarning', '-c', code], capture_output=True, text=True, timeout=200)
    assert done.stdout.split()[1:] == ['True', 'True'], done.stderr


@pytest.mark.parametrize('imports', ['syno_nni, timm', 'timm, syno_nni', 'syno_nni.model_zoo, timm',
                                     'syno_nni, timm.models', 'syno_nni.model_zoo.timm_models, timm'])
def test_names_are_known_after_either_order_of_imports(imports: str) -> None:
    code = (f'import {imports}, inspect; print(timm.is_model("resnet18_syno_07754"), timm.is_model("syno_retrofit"), '
            'bool(inspect.getsource(timm)))')
    done = subprocess.run([sys.executable, '-W', 'error', '-c', code], capture_output=True, text=True, timeout=200)
    assert (done.stdout, done.stderr) == ('True True True\n', '')


def test_a_fault_of_the_zoo_leaves_timm_usable() -> None:
    code = ('import sys, syno_nni; sys.modules["syno_nni.model_zoo.timm_models"] = None; import timm; '
            'print(timm.is_model("resnet18"))')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=200)
    assert done.stdout == 'True\n', done.stderr
    assert 'timm does not know the models of the zoo' in done.stderr


@pytest.mark.parametrize('name', model_zoo.retrofit_names())
def test_descriptions_and_default_cfgs(name: str) -> None:
    entry = model_zoo.load_retrofit(name)
    cfg = timm.get_pretrained_cfg(name)
    assert timm.is_model(entry.base) and timm.get_pretrained_cfg(entry.base).classifier == cfg.classifier
    assert cfg.architecture == name and not cfg.hf_hub_id and not cfg.url
    assert name.startswith(entry.base)
    assert entry.published() or entry.notes


@pytest.mark.parametrize('name', ['resnet18_syno_07754', 'resnext29_2x64d_syno_07970'])
def test_zoo_models(name: str) -> None:
    model = timm.create_model(name, num_classes=4, img_size=64).eval()
    assert filled_slots(model) and model(torch.randn(1, 3, 64, 64)).shape == (1, 4)
    assert model.pretrained_cfg['architecture'] == name


def test_weights_of_one_image_size_load_at_another() -> None:
    """The same layers are filled, however small their maps are."""
    usual, small = (timm.create_model('resnet18_syno_07754', num_classes=10, img_size=size) for size in (224, 64))
    assert filled_slots(usual).keys() == filled_slots(small).keys()
    small.load_state_dict(usual.state_dict())
    assert small(torch.randn(2, 3, 64, 64)).shape == (2, 10)


def test_weights_come_with_the_zoo() -> None:
    fresh = timm.create_model('resnet18_cifar_w16_syno_07754')
    trained = timm.create_model('resnet18_cifar_w16_syno_07754', pretrained=True)
    assert not torch.equal(fresh.fc.weight, trained.fc.weight)
    assert trained.pretrained_cfg['mean'] == (0.286,) * 3
    assert timm.create_model('resnet18_cifar_w16_syno_07754', pretrained=True, num_classes=3)(torch.randn(1, 3, 32, 32)).shape \
        == (1, 3)


def test_resnext_is_torchvisions() -> None:
    from torchvision.models.resnet import Bottleneck, ResNet
    theirs = ResNet(Bottleneck, [3, 3, 3, 0], groups=2, width_per_group=64).eval()
    ours = timm.create_model('resnext29_2x64d').eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_small_resnet_keeps_the_size_of_its_stem() -> None:
    model = timm.create_model('resnet18_cifar', width=8, features_only=True)
    assert [f.shape[-1] for f in model(torch.randn(1, 3, 32, 32))] == [32, 32, 16, 8, 4]
    assert model.feature_info.reduction() == [1, 1, 2, 4, 8]


# --- mistakes and malice ---------------------------------------------------------------------------------------------

@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = retrofit(timm.create_model('resnet10t', num_classes=3), classics.grouped_conv2d(), (1, 3, 64, 64))
    return model_zoo.save_folder(model, tmp_path / 'saved')


def change(folder: Path, **args: object) -> None:
    config = json.loads((folder / 'config.json').read_text())
    config['model_args'].update(args)
    (folder / 'config.json').write_text(json.dumps(config))


@pytest.mark.parametrize(('args', 'message'), [
    ({'base': 'resnet999'}, 'no model .resnet999'), ({'base': ''}, 'wants base'),
    ({'base': 'resnet18'}, 'another architecture'), ({'slots': 3}, 'wants base'),
    ({'base': 'syno_retrofit'}, 'cannot be its own base'),
    ({'slots': {'format': 9, 'slots': {}}}, 'format 9'),
    ({'slots': {'format': 1, 'slots': {'conv1': {'formula': '__import__("os")'}}}}, 'conv1'),
])
def test_malformed_configurations(saved: Path, args: dict, message: str) -> None:
    change(saved, **args)
    with pytest.raises(SynoError, match=message):
        model_zoo.load_folder(saved)


def test_damaged_weights_and_missing_files(saved: Path, tmp_path: Path) -> None:
    (saved / 'model.safetensors').write_bytes(b'\xff' * 64)
    with pytest.raises(ZooError, match='cannot load'):
        model_zoo.load_folder(saved)
    (saved / 'model.safetensors').unlink()
    with pytest.raises(ZooError, match='no model.safetensors'):
        model_zoo.load_folder(saved)
    (saved / 'config.json').write_text('{')
    with pytest.raises(ZooError, match='not JSON'):
        model_zoo.load_folder(saved)
    with pytest.raises(ZooError, match='cannot read'):
        model_zoo.load_folder(tmp_path / 'none')


def test_only_retrofitted_timm_models_are_saved(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match='no filled slot'):
        model_zoo.save_folder(timm.create_model('resnet10t'), tmp_path)
    own = retrofit(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
                   classics.conv2d(), (1, 3, 8, 8))
    with pytest.raises(ZooError, match='no timm model'):
        model_zoo.save_folder(own, tmp_path)
    with pytest.raises(ConfigError, match='no model'):
        timm.create_model('syno_retrofit', base='resnet999', slots={'format': 1, 'slots': {}})


def small_retrofit() -> nn.Module:
    return retrofit(timm.create_model('resnet10t', num_classes=3), classics.grouped_conv2d(), (1, 3, 64, 64))


@pytest.mark.parametrize(('key', 'value'), [
    ('checkpoint_path', 'evil.pth'), ('pretrained_cfg_overlay', {'file': 'evil.pth'}), ('cache_dir', '.'),
    ('base', 'hf-hub:somebody/model'), ('base', 'local-dir:.'), ('base', '../x'),
])
def test_a_folder_names_no_files_and_no_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str,
                                                  value: object) -> None:
    """What a folder's configuration says is data: it makes timm read no pickle and reach for no network."""
    model = model_zoo.save_folder(small_retrofit(), tmp_path / 'folder')
    config = json.loads((model / 'config.json').read_text())
    config['model_args'][key] = value
    (model / 'config.json').write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    torch.save(Canary(tmp_path / 'ran'), tmp_path / 'evil.pth')
    monkeypatch.setattr('socket.socket.connect', lambda *a: pytest.fail('reached for the network'))
    with pytest.raises(ZooError):
        model_zoo.load_folder(model)
    assert not (tmp_path / 'ran').exists()


def test_pickled_weights_of_a_folder_do_not_run(tmp_path: Path) -> None:
    model = model_zoo.save_folder(small_retrofit(), tmp_path / 'folder')
    (model / 'model.safetensors').unlink()
    torch.save({'conv1.weight': torch.ones(1), 'x': Canary(tmp_path / 'ran')}, model / 'pytorch_model.bin')
    with pytest.raises(Exception):  # noqa: B017 - timm's own, whatever it is
        timm.create_model(f'local-dir:{model}', pretrained=True)
    assert not (tmp_path / 'ran').exists()
