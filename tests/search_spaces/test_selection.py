"""One selection of slots for a search, a retrofit of its result, and the commands."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
from torch import nn

from syno_nni.data.datasets import Splits
from syno_nni.errors import ConfigError, SlotError
from syno_nni.run.config import SearchConfig
from syno_nni.search.from_run import choice_of_run
from syno_nni.search_spaces import find_slots
from syno_nni.search_spaces.backbone import BackboneSpace, backbone_space
from syno_nni.search_spaces.selection import Selection, kinds_for

from ..testing.run_factory import FORMULA, make_run

SEARCHED = Path(__file__).parents[2] / 'benchmarks' / 'results' / 'fashion_mnist'


def config_of(**changes: object) -> SearchConfig:
    return SearchConfig.from_dict({'model': {'name': 'resnet10t'}, 'data': {'imageSize': 64}, **changes})


def space_of(config: SearchConfig) -> BackboneSpace:
    empty: list = []
    return backbone_space(config, Splits(empty, empty, empty, 10, config.data.channels, config.data.image_size, ''))  # type: ignore


@pytest.mark.parametrize('changes', [
    {}, {'space': {'limits': {'windowRatio': 1.3}}}, {'space': {'limits': {'window_ratio': 1.3}}},
    {'space': {'limits': {'windowRatio': 0}}}, {'space': {'variables': {'k_1': 5}}}, {'slots': {'groupBy': 'stage'}},
    {'slots': {'kinds': ['all'], 'exclude': ['layer1.*'], 'minShare': 0.01, 'groupBy': 'kind'}},
    {'slots': {'kinds': ['conv3x3', 'pointwise'], 'include': ['layer1.*', 'layer2.*'], 'groupBy': 'slot'}}])
def test_a_retrofit_of_a_run_fills_what_the_search_filled(tmp_path: Path, changes: dict) -> None:
    config = config_of(**changes)
    searched = space_of(config).groups
    run = make_run(tmp_path / 'run', config=config).path.parent
    choice = choice_of_run(run)
    choice = type(choice)(choice.config, dict.fromkeys(searched, FORMULA), choice.provenance)
    filling, slots = choice.fillings(timm.create_model('resnet10t', in_chans=3, num_classes=10))
    assert slots == [slot for slot in slots if slot in [s for members in searched.values() for s in members]]
    assert filling.keys() == {s.name for members in searched.values() for s in members} and filling


def test_the_checked_in_run_fills_the_twelve_slots_that_it_searched() -> None:
    filling, slots = choice_of_run(SEARCHED).fillings(timm.create_model('resnet18', num_classes=10))
    assert len(filling) == len(slots) == 12 and 'keep' not in filling.values()


def test_a_sample_of_other_groups_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / 'run', config=config_of(slots={'groupBy': 'stage'})).path.parent
    with pytest.raises(SlotError, match='chooses for operator, the slots are in the groups operator:@'):
        choice_of_run(run).fillings(timm.create_model('resnet10t', num_classes=10))


def test_it_is_plain_data() -> None:
    selection = Selection.of_search(config_of(slots={'exclude': ['layer1.*']}, space={'limits': {'windowRatio': 1.5}}))
    again = Selection.from_dict(json.loads(json.dumps(selection.to_dict())))
    model = timm.create_model('resnet10t')
    assert again.window_ratio == 1.5 and again.of(model, (1, 3, 64, 64)) == selection.of(model, (1, 3, 64, 64))
    with pytest.raises(ConfigError, match="no 'kind'; it has kinds"):
        Selection.from_dict({'kind': 'linear'})


@pytest.mark.parametrize('ratio', ['wide', True, float('nan'), -1, [2]])
def test_a_wrong_window_ratio_is_one_line(ratio: object) -> None:
    with pytest.raises(ConfigError, match='window ratio'):
        Selection(window_ratio=ratio)  # type: ignore[arg-type]


def test_without_a_ratio_it_is_find_slots() -> None:
    model = timm.create_model('resnet10t')
    selected = Selection('all', 'layer*').of(model, (1, 3, 64, 64))
    assert (selected.slots, selected.excluded) == find_slots(model, (1, 3, 64, 64), kinds='all', include='layer*')


def test_named_kinds_join_the_usual_ones() -> None:
    assert kinds_for(['pointwise']) == ['pointwise'] and kinds_for(['*']) == 'auto'
    kinds = kinds_for(['layer4.*', 'pointwise'])
    found = Selection(kinds).of(timm.create_model('resnet10t'), (1, 3, 64, 64)).slots
    assert {s.kind for s in found} == {'conv3x3', 'pointwise'}


@pytest.mark.parametrize(('args', 'message'), [
    ((timm.create_model, (1, 3, 64, 64), {}), 'name of a timm model, got create_model'),
    ((nn.Sequential(), (1, 3, 64, 64), {}), 'got a Sequential'), ((None, (1, 3, 64, 64), {}), 'got None'),
    (('resnet10t', 64, {}), 'shape of an input'), (('resnet10t', (1, 3, 64, -1), {}), 'shape of an input'),
    (('resnet10t', (1, 3, 64, 64), 'conv2d'), 'mapping that describes'), (('resnet999', (1, 3, 64, 64), {}), 'no model')])
def test_a_space_of_something_else_is_refused_in_words(args: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        BackboneSpace(*args)
    assert '\n' not in str(caught.value)
