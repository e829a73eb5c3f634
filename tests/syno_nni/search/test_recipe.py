"""The recipe of a retrofit as a function."""
from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch

from syno_nni.data.config import DataConfig
from syno_nni.errors import ConfigError, SynoError
from syno_nni.operator import classics
from syno_nni.search.recipe import Evidence, Recipe, Weights, make_retrofit
from syno_nni.search_spaces import filled_slots
from syno_nni.search_spaces.retrofit.per_slot import Budget
from syno_nni.search_spaces.selection import Selection

from ...testing.run_factory import make_run

UNTIMED = Evidence(runtimes=())


def test_operators_by_kind_and_name() -> None:
    recipe = Recipe('resnet10t', {'layer1.*': classics.grouped_conv2d(), 'conv3x3': classics.conv2d()}, image_size=32,
                    num_classes=4, measure=UNTIMED)
    done = make_retrofit(recipe, command='once more')
    ids = {name: f.op.id for name, f in filled_slots(done.model).items()}
    assert ids['layer1.0.conv1'] == classics.grouped_conv2d().id and ids['layer2.0.conv1'] == classics.conv2d().id
    assert done.base == 'resnet10t' and done.example.shape == (1, 3, 32, 32) and not done.model.training
    assert done.evidence['weights'] == 'fresh' and done.evidence['command'] == 'once more' and done.evidence['latency'] == []
    assert done.evidence['change']['slots'] == len(ids)
    json.dumps(done.evidence)


def test_a_model_that_is_there_gives_its_weights(tmp_path: Path) -> None:
    original = timm.create_model('resnet10t', num_classes=4)
    done = make_retrofit(Recipe(fill={'*': classics.conv2d()}, selection=Selection(include='layer1.*'), image_size=32,
                                measure=UNTIMED), original)
    assert done.evidence['weights'] == 'warm start' and done.original is original
    path = done.save(tmp_path / 'fast')
    again = timm.create_model(f'local-dir:{path}', pretrained=True).eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(x), done.model(x), atol=1e-4, rtol=1e-4)


def test_a_run_brings_model_slots_and_size(tmp_path: Path) -> None:
    run = make_run(tmp_path / 'run').path.parent
    done = make_retrofit(Recipe(run=run, measure=UNTIMED))
    size = done.evidence['run']['experiment']['data']['imageSize']
    assert done.example.shape[-1] == size and set(filled_slots(done.model)) == {s.name for s in done.slots}
    for recipe, message in ((Recipe('resnet18', run=run), 'searched operators for'),
                            (Recipe(run=run, image_size=size + 1), f'image size {size}'),
                            (Recipe(run=run, selection=Selection('all')), 'brings the slots')):
        with pytest.raises(ConfigError, match=message):
            make_retrofit(recipe)


def test_a_budget_chooses_among_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every operator is twice as fast as its layer, so that the choice does not hang on this machine.
    pair = SimpleNamespace(baseline=SimpleNamespace(median_ms=1.0), speedup=2.0)
    monkeypatch.setattr('syno_nni.search.recipe.measure_pair', lambda *args, **kwargs: pair)
    monkeypatch.setattr('syno_nni.search.recipe.measure', lambda *args, **kwargs: SimpleNamespace(median_ms=10.0))
    recipe = Recipe('resnet10t', budget=Budget(loss=1000), candidates=(classics.grouped_conv2d(), classics.conv2d()),
                    selection=Selection('conv3x3', 'layer1.*', group_by='slot'), image_size=32, measure=UNTIMED)
    done = make_retrofit(recipe)
    assert done.choice is not None and set(done.choice.groups) == {s.name for s in done.slots}
    assert filled_slots(done.model).keys() == done.choice.groups.keys()


@pytest.mark.parametrize(('make', 'message'), [
    (lambda: Recipe('resnet10t'), 'what goes into the slots'),
    (lambda: Recipe('resnet10t', {'*': 'x'}, run=Path('x')), 'brings its operator'),
    (lambda: Recipe('resnet10t', {'*': classics.conv2d()}, candidate='a'), 'candidate is of a run'),
    (lambda: Recipe('resnet10t', {'*': classics.conv2d()}, budget=Budget(loss=1)), 'candidates for all slots'),
    (lambda: Recipe('resnet10t', {'*': 'x'}, candidates=(classics.conv2d(),)), 'within a budget'),
    (lambda: Weights(steps=3), 'add --data'), (lambda: Weights(steps=-1), 'at least 0'),
    (lambda: Weights(learning_rate=0.0), 'learning rate'), (lambda: Evidence(('tvm',)), 'unknown runtime'),
    (lambda: Evidence(seconds=0), 'positive number'),
    (lambda: make_retrofit(Recipe(fill={'*': classics.conv2d()})), 'name a timm model'),
    (lambda: make_retrofit(Recipe(fill={'*': classics.conv2d()}), torch.nn.Linear(4, 4)), 'no timm model'),
    (lambda: make_retrofit(Recipe('resnet10t', {'layr4': classics.conv2d()}, image_size=32)), 'layr4'),
    (lambda: make_retrofit(Recipe('resnet10t', {'*': classics.conv2d()}, weights=Weights(
        data=DataConfig(name='imagefolder', path='nowhere')))), 'nowhere')])
def test_mistakes_are_one_line(make, message: str) -> None:
    with pytest.raises(SynoError, match=message) as caught:
        make()
    assert '\n' not in str(caught.value)
