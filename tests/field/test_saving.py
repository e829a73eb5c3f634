"""Saving: a folder that is written loads, and loads as the model that was saved; what cannot is refused in words."""
from __future__ import annotations

import copy
import json
import warnings
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.utils.prune as prune
from safetensors.torch import load_file
from torch import nn

from syno_nni import model_zoo, retrofit
from syno_nni.errors import SynoError, ZooError
from syno_nni.operator import classics
from syno_nni.search_spaces import apply_slot_config, filled_slots, slot_config

SIZE = 32


def filled(name: str = 'resnet10t', *, size: int = SIZE, op: str = 'grouped_conv2d', channels: int = 3,
           **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    if channels != 3:
        kwargs['in_chans'] = channels
    model = timm.create_model(name, **{'num_classes': 10, **kwargs})
    return retrofit(model, getattr(classics, op)(), (1, channels, size, size), on_misfit='keep').eval()


def assert_comes_back(model: nn.Module, folder: Path, size: int = SIZE, channels: int = 3) -> nn.Module:
    path = model_zoo.save_folder(model, folder)
    again = timm.create_model(f'local-dir:{path}', pretrained=True).eval()
    x = torch.randn(2, channels, size, size)
    with torch.no_grad():
        torch.testing.assert_close(again(x), copy.deepcopy(model).float().eval()(x), atol=1e-4, rtol=1e-4)
    assert slot_config(again) == slot_config(model)
    return again


def assert_refused(model: nn.Module, folder: Path, message: str, **kwargs: object) -> None:
    before = sorted(folder.parent.rglob('*'))
    with pytest.raises(ZooError, match=message) as caught:
        model_zoo.save_folder(model, folder, **kwargs)  # type: ignore[arg-type]
    assert '\n' not in str(caught.value) and '.syno-' not in str(caught.value)
    assert sorted(folder.parent.rglob('*')) == before


# --- the classifier --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(('name', 'size', 'op', 'reset'), [
    *(('resnet10t', 32, 'grouped_conv2d', reset) for reset in ((5,), (0,), (3, 'max'), (0, ''))),
    ('mobilenetv3_small_050', 32, 'grouped_linear', (0, '')), ('convnext_atto', 32, 'low_rank_linear', (3, 'max')),
    *(('vit_tiny_patch16_224', 64, 'low_rank_linear', reset) for reset in ((5,), (3, 'avg'), (0, '')))])
def test_a_reset_classifier(name: str, size: int, op: str, reset: tuple, tmp_path: Path) -> None:
    """timm#2142: the number of classes that the model was made with is not the one that it has."""
    small = {'img_size': 64, 'depth': 2} if 'vit' in name else {}
    model = filled(name, size=size, op=op, **small)
    model.reset_classifier(*reset)
    assert assert_comes_back(model.eval(), tmp_path / 'a', size).num_classes == reset[0]


def test_a_classifier_of_ones_own(tmp_path: Path) -> None:
    """timm#2142's sibling: a head that no argument of the architecture makes."""
    model = filled()
    model.fc = nn.Sequential(nn.Linear(model.num_features, 20), nn.ReLU(), nn.Linear(20, 10))
    assert_refused(model, tmp_path / 'a', r'fc\.0\.weight.*lacks fc\.weight.*reset_classifier.*slot_config')


def test_a_classifier_of_the_same_shape_comes_back(tmp_path: Path) -> None:
    """timm#2142's sibling: a new layer of the kind that the architecture has."""
    model = filled()
    model.fc = nn.Linear(model.num_features, 10)
    assert_comes_back(model, tmp_path / 'a')
    model.fc = nn.Linear(model.num_features, 4)
    assert_refused(model, tmp_path / 'b', r'fc\.weight \[4, 512\] instead of \[10, 512\]')


# --- the input -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('size', [64, 96])
def test_the_declared_size_is_the_one_it_was_built_for(size: int, tmp_path: Path) -> None:
    """CAE#4: timm's own transform must make images that the model takes."""
    model = filled(size=size)
    for found in (model, assert_comes_back(model, tmp_path / 'a', size)):
        config = timm.data.resolve_model_data_config(found)
        assert config['input_size'] == (3, size, size)
        for training in (False, True):
            from PIL import Image
            image = timm.data.create_transform(**config, is_training=training)(Image.new('RGB', (100, 90)))
            assert found(image[None]).shape == (1, 10)
        config = timm.data.resolve_model_data_config(found, use_test_size=True)
        assert config['input_size'] == (3, size, size)


def test_the_size_is_found_where_nothing_says_it(tmp_path: Path) -> None:
    """CAE#4's sibling: a model rebuilt from its slot configuration, which declares what the architecture does."""
    model = apply_slot_config(timm.create_model('resnet10t', num_classes=10), slot_config(filled(size=64))).eval()
    assert model.pretrained_cfg['input_size'] == (3, 176, 176)
    again = assert_comes_back(model, tmp_path / 'a', 64)
    x = torch.randn(1, *again.pretrained_cfg['input_size'])
    assert again(x).shape == (1, 10)
    assert_refused(model, tmp_path / 'b', 'does not run on the input size', input_size=(1, 64, 64))


def test_a_model_of_the_zoo_at_another_size(tmp_path: Path) -> None:
    """CAE#4's sibling: ``img_size`` of a model of the zoo."""
    model = timm.create_model('resnet18_syno_07754', num_classes=4, img_size=64).eval()
    assert timm.data.resolve_model_data_config(model)['input_size'] == (3, 64, 64)
    assert assert_comes_back(model, tmp_path / 'a', 64).pretrained_cfg['input_size'] == (3, 64, 64)
    small = timm.create_model('resnet18_cifar_w16_syno_07754', num_classes=3).eval()
    assert_comes_back(small, tmp_path / 'b', 32)


@pytest.mark.parametrize('channels', [1, 4])
def test_channels(channels: int, tmp_path: Path) -> None:
    """timm#2142's siblings: other images."""
    again = assert_comes_back(filled(channels=channels), tmp_path / 'a', channels=channels)
    assert again.pretrained_cfg['input_size'] == (channels, SIZE, SIZE)


def test_a_stem_that_was_replaced(tmp_path: Path) -> None:
    """timm#2142's sibling: ``model.conv1`` for images of one channel, as tutorials do."""
    base = timm.create_model('resnet18', num_classes=10)
    base.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    model = retrofit(base, classics.grouped_conv2d(), (1, 1, 64, 64), on_misfit='keep').eval()
    assert_comes_back(model, tmp_path / 'a', 64, channels=1)


# --- arguments that are code -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('args', [
    {'act_layer': nn.SiLU}, {'act_layer': nn.LeakyReLU}, {'act_layer': 'gelu'},
    {'norm_layer': nn.BatchNorm2d}, {'norm_layer': timm.layers.GroupNorm1}, {'act_layer': partial(nn.SiLU)}])
def test_classes_are_saved_by_name(args: dict, tmp_path: Path) -> None:
    """timm#2142's sibling: ``act_layer=nn.SiLU`` ended in advice that save_folder had no argument for."""
    again = assert_comes_back(filled(**args), tmp_path / 'a')
    assert type(again.act1).__name__ == type(filled(**args).act1).__name__
    saved = json.loads((tmp_path / 'a' / 'config.json').read_text())['model_args']
    assert all(isinstance(saved.get(key, ''), str) for key in args)


def test_a_partial_that_says_what_the_architecture_does_is_left_out(tmp_path: Path) -> None:
    """timm#2142's sibling: an argument that changes nothing."""
    model = filled('vit_tiny_patch16_224', size=64, op='low_rank_linear', img_size=64, depth=1,
                   norm_layer=partial(nn.LayerNorm, eps=1e-6))
    assert_comes_back(model, tmp_path / 'a', 64)


class Quiet(nn.ReLU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 0.5


def test_code_without_a_name_is_refused(tmp_path: Path) -> None:
    """timm#2142's sibling: the advice must be something that one can do."""
    assert_refused(filled(act_layer=Quiet), tmp_path / 'a', 'act_layer=Quiet: classes and functions are code.*slot_config')
    model = filled('vit_tiny_patch16_224', size=64, op='low_rank_linear', img_size=64, depth=1,
                   norm_layer=partial(nn.LayerNorm, eps=1e-3))
    assert_refused(model, tmp_path / 'a', 'eps 0.001.*norm_layer')


# --- changes after the model was made --------------------------------------------------------------------------------

def test_rates_of_dropping_come_back(tmp_path: Path) -> None:
    """Arguments that only training shows."""
    again = assert_comes_back(filled(drop_rate=0.25, drop_path_rate=0.1), tmp_path / 'a')
    assert again.drop_rate == 0.25 and any(getattr(m, 'drop_prob', 0) for m in again.modules())
    model = filled('mobilenetv3_small_050', op='grouped_linear')
    model.blocks[0].add_module('extra', nn.Dropout(0.3))
    with pytest.warns(UserWarning, match='p = 0.3'):
        model_zoo.save_folder(model, tmp_path / 'b')


def test_an_activation_that_was_replaced_is_refused(tmp_path: Path) -> None:
    model = filled()
    model.act1 = nn.Tanh()
    assert_refused(model, tmp_path / 'a', 'computes something else')


def test_a_hook_that_changes_the_output_is_refused(tmp_path: Path) -> None:
    model = filled()
    model.layer1.register_forward_hook(lambda module, args, output: output * 2)
    assert_refused(model, tmp_path / 'a', 'computes something else')


def test_buffers(tmp_path: Path) -> None:
    """Statistics come back; buffers of one's own are refused."""
    model = filled().train()
    with torch.no_grad():
        model(torch.randn(8, 3, SIZE, SIZE))
    again = assert_comes_back(model, tmp_path / 'a')
    assert torch.equal(again.bn1.running_mean, model.bn1.running_mean) and model.training
    model.register_buffer('pixel_mean', torch.zeros(3))
    assert_refused(model, tmp_path / 'b', 'has pixel_mean')


def test_pruning_is_refused_with_the_way_out(tmp_path: Path) -> None:
    model = filled()
    prune.l1_unstructured(model.conv1[0], 'weight', amount=0.5)
    assert_refused(model, tmp_path / 'a', 'prune.remove')
    prune.remove(model.conv1[0], 'weight')
    assert_comes_back(model, tmp_path / 'a')


def test_shared_weights(tmp_path: Path) -> None:
    """Weights tied by hand would come back as two."""
    model = filled()
    model.layer1[0].bn2.weight = model.layer1[0].bn1.weight
    assert_refused(model, tmp_path / 'a', r'bn1\.weight, layer1\.0\.bn2\.weight share one weight')


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_in_single(dtype: torch.dtype, tmp_path: Path) -> None:
    model = filled().to(dtype)
    again = assert_comes_back(model, tmp_path / 'a')
    assert again.fc.weight.dtype == torch.float32 and torch.equal(again.fc.weight.to(dtype), model.fc.weight)
    assert load_file(tmp_path / 'a' / 'model.safetensors')['fc.weight'].dtype == dtype


def test_channels_last_and_frozen_models(tmp_path: Path) -> None:
    model = filled().requires_grad_(False)
    model.conv1.to(memory_format=torch.channels_last)
    assert_comes_back(model, tmp_path / 'a')


def test_wrappers_are_looked_into(tmp_path: Path) -> None:
    """``torch.compile``, data parallel and averaged weights hold the model under other names."""
    model = filled()
    for number, wrapped in enumerate((torch.compile(model), nn.DataParallel(model), timm.utils.ModelEmaV3(model))):
        again = model_zoo.load_folder(model_zoo.save_folder(wrapped, tmp_path / str(number)))
        assert filled_slots(again).keys() == filled_slots(model).keys()


def test_models_that_timm_cannot_make(tmp_path: Path) -> None:
    features = timm.create_model('resnet10t', features_only=True)
    assert_refused(retrofit(features, classics.grouped_conv2d(), (1, 3, 64, 64), on_misfit='keep'), tmp_path / 'a',
                   'feature extractor.*features_only=True')
    assert_refused(nn.Sequential(filled()), tmp_path / 'a', "save its part '0'")
    own = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    assert_refused(retrofit(own, classics.conv2d(), (1, 8, 8, 8)), tmp_path / 'a', 'no timm model')


# --- nothing half-written --------------------------------------------------------------------------------------------

def test_an_earlier_save_stays_when_another_fails(tmp_path: Path) -> None:
    folder = tmp_path / 'deep' / 'a'
    model = filled()
    model.fc = nn.Sequential(nn.Linear(512, 10))
    assert_refused(model, folder, 'fc')
    assert not folder.parent.exists()
    assert_comes_back(filled(), folder)
    (folder / 'model.onnx').write_text('of the first model')
    (folder / 'notes.txt').write_text('mine')
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert_refused(model, folder, 'fc')
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == files
    assert_comes_back(filled(act_layer='silu'), folder)
    assert sorted(p.name for p in folder.iterdir()) == ['config.json', 'model.safetensors', 'notes.txt']


def test_an_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt
    monkeypatch.setattr('syno_nni.model_zoo.folder.check_same', stop)
    with pytest.raises(KeyboardInterrupt):
        model_zoo.save_folder(filled(), tmp_path / 'a')
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    assert_refused(filled(), tmp_path / 'file', 'there is a file')
    assert_refused(filled(), tmp_path / 'file' / 'a', 'cannot write')
    assert_refused(filled(), tmp_path / 'a', 'not JSON serializable', evidence={'x': torch.zeros(1)})


def test_saving_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    model = filled().train()
    before, args = {k: v.clone() for k, v in model.state_dict().items()}, copy.deepcopy(model._model_args)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model_zoo.save_folder(model, tmp_path / 'a')
    assert model.training and model._model_args == args
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert issubclass(ZooError, SynoError)


@pytest.mark.parametrize('mine', [{'README.md': '# My project'}, {'model.onnx': 'of mine', 'README.md': 'x'},
                                  {'config.json': '{"architecture": "resnet18"}', 'model.safetensors': 'trained for weeks'},
                                  {'config.json': 'no JSON'}])
def test_files_that_are_no_earlier_save_are_not_replaced(tmp_path, mine: dict[str, str]) -> None:
    """A folder named by mistake: the project's own (``--out .``), or that of the model that was retrofitted."""
    for name, text in mine.items():
        (tmp_path / name).write_text(text)
    model = retrofit(timm.create_model('test_resnet', num_classes=3), classics.grouped_conv2d(), (1, 3, 32, 32))
    with pytest.raises(ZooError, match='cannot write here.*choose another folder'):
        model_zoo.save_folder(model, tmp_path, card='new')
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == mine


def test_a_part_that_is_compiled_says_so(tmp_path) -> None:
    """timm#1566, sibling: 'another architecture?' was said of a model with one compiled part."""
    model = filled()
    model.layer1 = torch.compile(model.layer1, backend='eager')
    assert_refused(model, tmp_path / 'x', r'layer1: parts in a wrapper of torch.compile.*part\.compile\(\)')
